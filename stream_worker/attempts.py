"""What a record gets: attempts within bounds, then its result or its failure. An outage of ours costs it nothing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from stream_worker import metrics, telemetry
from stream_worker.dead_letters import dead_letter
from stream_worker.errors import FatalError, OutageError, Reason, RecordFault, TransientFault
from stream_worker.events import utc_now
from stream_worker.outages import Outages
from stream_worker.records import Group, Output, Received
from stream_worker.retry import RetryPolicy, jittered, outage_delay
from stream_worker.settings import Stage
from stream_worker.turnstile import Turnstile

log = telemetry.get(__name__)


async def pause(delay_s: float) -> None:
    """Sleep for about that long."""
    await asyncio.sleep(jittered(delay_s, random.random()))  # noqa: S311  # no secret depends on it


class Attempts:
    """The attempts of all lanes of a process."""

    def __init__(
        self,
        group: Group,
        settings: Stage,
        outages: Outages,
        *,
        progress: Callable[[], None],
        fatal: Callable[[FatalError], None],
    ) -> None:
        self._group = group
        self._retry = RetryPolicy(settings.retries, settings.retry_delay_s, settings.retry_deadline_s)
        self._outages = outages
        self._progress = progress
        self._fatal = fatal
        self._turnstile = Turnstile()

    async def outputs(
        self, record: Received, starts: Callable[[], None], *, alone: Callable[[], Awaitable[None]] | None = None
    ) -> list[Output]:
        """The outputs of one record, whatever happens: of its result, or of its failure.

        `starts` is called when the group is about to be given the record, and again at each further attempt.
        With `alone`, no other record of this process is in work at the same time: it is awaited once that is so and
        before the group is given the record, at each attempt. What it raises ends the attempts.
        """
        first_at, started, attempts = utc_now(), time.monotonic(), 0
        outages_s: list[float] = []
        while True:
            attempts += 1
            try:
                return await self._process(record, starts, alone, outages_s)
            except RecordFault as fault:
                final = fault
                metrics.ERRORS.labels(self._group.name, fault.reason.value).inc()
            except FatalError as error:
                self._fatal(error)
                raise asyncio.CancelledError from None
            delay = None
            if isinstance(final, TransientFault):
                delay = self._retry.delay(final.reason, attempts, time.monotonic() - started - sum(outages_s))
            if delay is None:
                letter = dead_letter(record, final, self._group.name, attempts, first_at, utc_now())
                return [*self.failed(record, final, attempts), letter]
            metrics.RETRIES.labels(self._group.name, final.reason.value).inc()
            log.warning("attempt failed", reason=final.reason.value, error=final.message, retry_in_s=round(delay, 2))
            await pause(delay)

    def crashed(self, record: Received, attempts: int) -> list[Output]:
        """The outputs of a record that was alone in work whenever a worker died."""
        fault = RecordFault(Reason.WORKER_CRASHED, f"{attempts} workers died with this record alone in work")
        metrics.ERRORS.labels(self._group.name, fault.reason.value).inc(attempts)
        now = utc_now()  # when they began is not known any more
        letter = dead_letter(record, fault, self._group.name, attempts, now, now)
        return [*self.failed(record, fault, attempts), letter]

    def failed(self, record: Received, fault: RecordFault, attempts: int) -> list[Output]:
        """What tells the join of the failure."""
        metrics.DEAD_LETTERS.labels(self._group.name, fault.reason.value).inc()
        log.warning(
            "record failed",
            topic=record.topic,
            offset=record.offset,
            reason=fault.reason.value,
            error=fault.message,
            attempts=attempts,
        )
        return self._group.failed(record, fault)

    async def _process(
        self,
        record: Received,
        starts: Callable[[], None],
        alone: Callable[[], Awaitable[None]] | None,
        outages_s: list[float],
    ) -> list[Output]:
        """One attempt. An outage is waited out, as long as it takes; its seconds are noted, and part of no bound."""
        waits = 0
        with self._outages.waiter() as hit:
            while True:
                begun = time.monotonic()
                async with self._turn(alone):
                    try:
                        starts()  # no await from here: the next record of the lane may start once this one has
                        return await self._group.process(record)
                    except OutageError as outage:
                        hit(outage)
                        delay = outage_delay(waits)
                        log.warning("waiting out an outage", error=str(outage), retry_in_s=round(delay, 1))
                    except (RecordFault, FatalError):
                        raise
                    except Exception as error:  # a bug of ours on this record must not stop the others
                        log.exception("processing failed", topic=record.topic, offset=record.offset)
                        raise RecordFault(Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}") from error
                waits += 1
                self._progress()
                await pause(delay)
                outages_s.append(time.monotonic() - begun)

    @asynccontextmanager
    async def _turn(self, alone: Callable[[], Awaitable[None]] | None) -> AsyncIterator[None]:
        """Beside others; or alone, and said so."""
        if alone is None:
            async with self._turnstile.shared():
                yield
        else:
            async with self._turnstile.alone():
                await alone()
                yield
