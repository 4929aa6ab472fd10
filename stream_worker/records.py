"""What a group sees of Kafka: records in, outputs out, and the verbs that every group has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stream_worker.errors import RecordFault

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Received:
    """A record as it came. `topic` is the logical name (`images`), without the deployment's prefix."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Output:
    """A record to be written in the transaction that moves the input's offset.

    `topic` is the logical name. Without a `partition` the key decides, as Kafka's default partitioner does.
    A `value` of None is a tombstone.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


class Group(Protocol):
    """A consumer group's work; the runner in `stage.py` does all the rest.

    A *lane* is one partition number of all the group's topics together, with one transactional producer.
    """

    name: str
    """Name of the consumer group, such as `detector`."""

    topics: tuple[str, ...]
    """Logical names of the input topics. Several must have the same number of partitions."""

    window: int
    """How many records of all lanes of this process may be in work at once."""

    longest_s: float
    """How long a record may be in work with nothing being wrong; past that and `stage.watchdog_s`, something is."""

    async def start(self) -> None:
        """Get ready for the first record: load and warm up the model. Called before the group is joined."""

    async def stop(self) -> None:
        """Let everything go. Called once, after the last lane is closed."""

    async def open(self, lane: int) -> None:
        """Take a lane over: restore its state. Called after the former owner was fenced, before any record."""

    async def seal(self, lane: int) -> None:
        """Called before a lane is given up in order, when everything that was processed is committed.

        A group that keeps state leaves a mark by which it will know whether anybody else has had the lane since.
        """

    async def close(self, lane: int, *, sealed: bool = False) -> None:
        """Give a lane up: forget its state. Where `sealed`, it was whole when it was sealed, and we owned the lane
        after that still: it may be kept for a while, in case the lane comes back.
        """

    async def process(self, record: Received) -> list[Output]:
        """Turn one record into outputs.

        Calls of one lane start in the order of its offsets; they may overlap where the method awaits.
        Raises RecordFault for a record that can't be done, OutageError while something of ours is away.
        """

    def failed(self, record: Received, fault: RecordFault) -> list[Output]:
        """The outputs that tell the join that this record has failed; none, if it can't be told whose it is."""

    async def tick(self, lane: int) -> list[Output]:
        """What the clock alone brings about (a deadline). Called about once a second while the lane is open."""

    def full(self, lane: int) -> frozenset[str]:
        """The input topics of which the lane should be given nothing more now, lest it hold too much."""


class Stateless:
    """The verbs of a group that keeps nothing between records."""

    async def open(self, lane: int) -> None:
        """Nothing to restore."""

    async def seal(self, lane: int) -> None:
        """Nothing to keep."""

    async def close(self, lane: int, *, sealed: bool = False) -> None:
        """Nothing to forget."""

    async def tick(self, lane: int) -> list[Output]:
        """Nothing happens by the clock alone."""
        return []

    def full(self, lane: int) -> frozenset[str]:
        """Never: nothing is held."""
        return frozenset()
