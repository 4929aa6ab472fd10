"""Dead letters, read: which there are, what is in one, all of them in a file; and tried again.

`stream-worker dead-letters`. The letters themselves stay as they are, and nobody's offsets move. What a letter holds
came from outside, and may be hostile: it is shown as text that does nothing to a terminal.
"""

from __future__ import annotations

import re
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from aiokafka import ConsumerRecord, TopicPartition

from stream_worker import topics
from stream_worker.contract import decode, encode
from stream_worker.dead_letters import PREFIX
from stream_worker.errors import Exit, FatalError, OutageError, RecordFault, UserError
from stream_worker.events import ImageEvent, ObjectEvent
from stream_worker.reading import Passed, Progress, Span, TopicReader
from stream_worker.records import Headers, Output
from stream_worker.settings import Settings
from stream_worker.transaction import ProducerLostError, TransactionalProducer
from stream_worker.window import Window

RETRIES = "stream_worker.retries"
"""Header: how often a record was tried again by hand."""
AT_ONCE = 100
"""Records of one transaction."""
SHOWN_BYTES = 4096
"""Of a value that is no text."""
_ROW = 16
_RETRIED = re.compile(r"\.retry-\d{1,9}$")
_RUN_CHARS = 48
"""Of the run before: a run's name has 64 at most."""
_NAME = re.compile(r"(\d{1,9}):(\d{1,18})")


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that no retry could mend, with what is known of why."""

    name: str
    """`partition:offset` in the topic `dead-letters`."""
    at: datetime
    topic: str
    """Where it came from."""
    place: str
    """... and its `partition:offset` there."""
    stage: str
    reason: str
    message: str
    attempts: str
    first_at: str
    last_at: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    """As the record came."""

    @classmethod
    def of(cls, record: ConsumerRecord) -> Letter:
        ours = {
            name.removeprefix(PREFIX): (value or b"").decode("utf-8", "replace")
            for name, value in record.headers
            if name.startswith(PREFIX)
        }

        def said(name: str) -> str:
            return ours.get(name, "?")

        return cls(
            name=f"{record.partition}:{record.offset}",
            at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
            topic=said("topic"),
            place=f"{said('partition')}:{said('offset')}",
            stage=said("stage"),
            reason=said("reason"),
            message=said("message"),
            attempts=said("attempts"),
            first_at=said("first_at"),
            last_at=said("last_at"),
            key=record.key,
            value=record.value,
            headers=tuple((name, value) for name, value in record.headers if not name.startswith(PREFIX)),
        )

    def plain(self) -> dict[str, Any]:
        """As JSON has it. Key, value and headers are bytes, so they are in base64."""
        return {
            "name": self.name,
            "at": self.at.isoformat(),
            "topic": self.topic,
            "place": self.place,
            "stage": self.stage,
            "reason": self.reason,
            "message": self.message,
            "attempts": self.attempts,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "key": _encoded(self.key),
            "value": _encoded(self.value),
            "headers": [[name, _encoded(value)] for name, value in self.headers],
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters; None: all."""

    window: Window = field(default_factory=Window)
    topic: str | None = None
    stage: str | None = None
    reasons: frozenset[str] = frozenset()

    def has(self, letter: Letter) -> bool:
        """Whether it is one of them, its time aside."""
        return (
            self.topic in (None, letter.topic)
            and self.stage in (None, letter.stage)
            and (not self.reasons or letter.reason in self.reasons)
        )


async def letters(settings: Settings, wanted: Wanted, progress: Progress = lambda *_: None) -> AsyncIterator[Letter]:
    """The dead letters that there are now, the oldest first. Raises UserError where broker or topic are missing."""
    count = await _partitions(settings)
    passed = Passed(progress)
    async with TopicReader(settings.kafka, passed=passed) as reader:
        spans = await reader.spans(
            settings.kafka.prefix + topics.DEAD_LETTERS, count, since=wanted.window.since, until=wanted.window.until
        )
        passed.expect(topics.DEAD_LETTERS, spans)
        async for record in reader.records(spans):
            letter = Letter.of(record)
            if wanted.has(letter):
                yield letter


async def letter(settings: Settings, name: str) -> Letter:
    """The letter of a name (`partition:offset`). Raises UserError where there is none."""
    match = _NAME.fullmatch(name.strip())
    count = await _partitions(settings)
    if match is None or int(match[1]) >= count:
        raise UserError(f"{name!r} names no dead letter: want partition:offset, as `dead-letters list` shows them")
    partition, offset = TopicPartition(settings.kafka.prefix + topics.DEAD_LETTERS, int(match[1])), int(match[2])
    async with TopicReader(settings.kafka) as reader:
        span = (await reader.spans(partition.topic, count))[partition.partition]
        if span.first <= offset < span.end:
            async for record in reader.records([Span(partition, span.first, offset, offset + 1)]):
                return Letter.of(record)
    raise UserError(f"there is no dead letter {name}", Exit.FAILED)


def readable(value: bytes | None) -> str:
    """Bytes as a person can read them: JSON laid out, other text as it is, anything else as a hex dump."""
    if value is None:
        return "(null: a tombstone)"
    try:
        return orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text and all(char.isprintable() or char in "\t\n\r" for char in text):
        return text
    rows = [value[start : start + _ROW] for start in range(0, min(len(value), SHOWN_BYTES), _ROW)]
    dump = [
        f"{number * _ROW:06x}  {row.hex(' '):<{3 * _ROW}} {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}"
        for number, row in enumerate(rows)
    ]
    rest = len(value) - SHOWN_BYTES
    return "\n".join([*dump, *([f"... and {rest} bytes more"] if rest > 0 else [])]) or "(empty)"


def retried(letter: Letter, most: int, grace_s: float, now: datetime) -> Output | str:
    """The record to be written so that it is tried again; or why it is not.

    A photo's failure is its outcome, and a run has one: so a photo is tried again under a run of its own,
    `live.retry-1` after `live`. An object goes back as it came, and its result gives the image its next revision: while
    the aggregator remembers the image, for `grace_s` after its deadline. A letter that is sent twice is done once.
    """
    said = dict(letter.headers).get(RETRIES) or b""  # a header may be there without a value
    count = int(said) if said.isdigit() and len(said) < 10 else 0
    if count >= most:
        return f"it was tried again {count} times"
    value, partition = letter.value, None
    try:
        if letter.topic == topics.IMAGES:
            photo = decode(ImageEvent, letter.value)
            run = f"{_RETRIED.sub('', photo.run)[:_RUN_CHARS]}.retry-{count + 1}"
            value = encode(photo.model_copy(update={"run": run}))
        elif letter.topic == topics.OBJECTS:
            work = decode(ObjectEvent, letter.value)
            if work.deadline_at + timedelta(seconds=grace_s) < now:
                return f"its image {work.image_id} has been forgotten by the aggregator: publish the photo again"
            match = _NAME.fullmatch(letter.place)
            partition = int(match[1]) if match else None
        else:
            return f"what {letter.stage} could not do with a record of {letter.topic}, no retry mends"
    except RecordFault as fault:
        return f"it can't be read, and no retry mends that: {fault.message}"
    headers = tuple((name, was) for name, was in letter.headers if name != RETRIES)
    return Output(letter.topic, letter.key, value, (*headers, (RETRIES, str(count + 1).encode())), partition)


async def send(settings: Settings, outputs: AsyncIterator[Output]) -> int:
    """Write records, in transactions of `AT_ONCE`; how many. Raises UserError where the broker does not take them."""
    counts = await topics.counts(settings.kafka)
    prefix = settings.kafka.prefix
    producer = TransactionalProducer(
        settings.kafka, f"{prefix}dead-letters.{uuid.uuid4().hex}", f"{prefix}dead-letters"
    )
    sent = 0
    try:
        await producer.start()
        batch: list[Output] = []
        async for output in outputs:
            gone = output.partition is not None and output.partition >= counts.get(output.topic, 0)
            batch.append(replace(output, partition=None) if gone else output)
            if len(batch) >= AT_ONCE:
                await producer.write(batch, {})
                sent, batch = sent + len(batch), []
        if batch:
            await producer.write(batch, {})
            sent += len(batch)
    except (ProducerLostError, OutageError, FatalError) as error:
        raise UserError(
            f"{sent} were sent, then: {error}. Again is safe: what was sent is not done twice", Exit.BROKER
        ) from None
    finally:
        await producer.stop()
    return sent


async def _partitions(settings: Settings) -> int:
    counts = await topics.counts(settings.kafka)
    if topics.DEAD_LETTERS not in counts:
        raise UserError(f"topic {settings.kafka.prefix}{topics.DEAD_LETTERS} is missing", Exit.TOPICS)
    return counts[topics.DEAD_LETTERS]


def _encoded(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()
