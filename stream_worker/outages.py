"""Outages of ours that are being waited out now: who waits for what, and since when."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from stream_worker import metrics
from stream_worker.errors import Ours, OutageError


@dataclass
class Outages:
    """Feeds the gauge `stream_worker_outage_seconds`: the age of the oldest wait for each thing of ours."""

    clock: Callable[[], float] = time.monotonic
    _since: dict[object, tuple[Ours, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for of in Ours:
            metrics.OUTAGE_SECONDS.labels(of.value).set_function(partial(self.seconds, of))

    def seconds(self, of: Ours) -> float:
        """How long the oldest wait for it has lasted; 0 where nobody waits."""
        now = self.clock()
        return max((now - since for what, since in list(self._since.values()) if what is of), default=0.0)

    @contextmanager
    def waiter(self) -> Iterator[Callable[[OutageError], None]]:
        """For one who may have to wait: call what it gives at every OutageError; leaving means the wait is over."""
        token = object()

        def hit(outage: OutageError) -> None:
            of, since = self._since.get(token, (outage.of, self.clock()))
            self._since[token] = (outage.of, since if of is outage.of else self.clock())

        try:
            yield hit
        finally:
            self._since.pop(token, None)
