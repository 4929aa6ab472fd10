"""How much of a fetcher one host may hold: so that a slow or silent one costs the others next to nothing.

A host begins with few requests at a time and earns more by answering. One that has let request after request run out of
time counts as silent: for a while it is not asked at all, its photos fail at once, and then it is tried by one request,
briefly. But only while more photos come from others than are wanted from it: else there is little to protect, and
waiting is better than failing.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from stream_worker import telemetry
from stream_worker.errors import Reason, RecordFault, TransientFault

UNPROVEN = 2
"""Requests at a time to a host that has not answered yet; each answer allows one more."""
STRIKES = 2
"""Requests in a row that ran out of time, after which a host counts as silent."""
REST_S = 30.0
"""A silent host is left alone for this long..."""
PROBE_S = 5.0
"""... and then has this long to answer one request."""
REMEMBERED = 4096
"""Hosts without a request under way that are remembered."""

log = telemetry.get(__name__)


@dataclass(eq=False, slots=True)
class _Host:
    """What is known of one host and port."""

    name: str
    room: int = UNPROVEN
    inside: int = 0
    waiting: int = 0
    strikes: int = 0
    """Requests that ran out of time, in a row."""
    wanted: int = 0
    """Requests that were to be made since it last answered, those that waited or were refused included."""
    others: int = 0
    """Answers of all hosts together, when it last answered."""
    rests_until: float = 0.0


class Hosts:
    """The requests at a time, to one host and altogether."""

    def __init__(
        self, total: int, per_host: int, wait_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`wait_s` is how long a request waits for room, at most."""
        self._total = total
        self._per_host = per_host
        self._wait_s = wait_s
        self._clock = clock
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._inside = 0
        self._answers = 0
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def asked(self, name: str) -> AsyncIterator[float | None]:
        """Ask the host `name` within this context; it yields how many seconds it may take, where that is few.

        A fault of FETCH_TIMEOUT that the context raises tells that the host let us wait; any other outcome, be it a
        refusal, that it answers.

        Raises TransientFault(FETCH_TIMEOUT): the host is silent, or no room came free in time.
        """
        host = self._known(name)
        host.wanted += 1
        host.waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                while not self._is_refused(host) and not self._has_room(host):
                    await self._changed.wait()
        except TimeoutError:
            raise TransientFault(Reason.FETCH_TIMEOUT, "too many photos wait for this host") from None
        finally:
            host.waiting -= 1
        if self._is_refused(host):
            raise TransientFault(
                Reason.FETCH_TIMEOUT, f"the host is silent: {host.strikes} requests in a row had no answer in time"
            )
        host.inside += 1
        self._inside += 1
        try:
            yield PROBE_S if self._is_silent(host) else None
        except RecordFault as fault:
            self._heard(host, silent=fault.reason is Reason.FETCH_TIMEOUT)
            raise
        else:
            self._heard(host, silent=False)
        finally:
            host.inside -= 1
            self._inside -= 1
            self._tell()

    def _known(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name, room=min(UNPROVEN, self._per_host), others=self._answers)
        self._hosts.move_to_end(name)
        while len(self._hosts) > REMEMBERED:
            idle = next((one for one in self._hosts.values() if not (one.inside or one.waiting)), None)
            if idle is None:
                break
            del self._hosts[idle.name]
        return host

    def _is_silent(self, host: _Host) -> bool:
        return host.strikes >= STRIKES and self._answers - host.others > host.wanted

    def _is_refused(self, host: _Host) -> bool:
        return self._is_silent(host) and (self._clock() < host.rests_until or host.inside > 0)

    def _has_room(self, host: _Host) -> bool:
        return host.inside < host.room and self._inside < self._total

    def _heard(self, host: _Host, *, silent: bool) -> None:
        if not silent:
            if host.strikes >= STRIKES:
                log.info("a host answers again", host=host.name)
            self._answers += 1
            host.strikes = host.wanted = 0
            host.others = self._answers
            host.room = min(host.room + 1, self._per_host)
            return
        host.strikes += 1
        host.rests_until = self._clock() + REST_S
        if host.strikes == STRIKES:
            log.warning("a host lets requests run out of time", host=host.name, requests=host.strikes)

    def _tell(self) -> None:
        """Without an await: one who is cancelled on the way out must wake the others all the same."""
        self._changed.set()
        self._changed = asyncio.Event()
