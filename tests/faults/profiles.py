"""The two sizes of a run: the long one of `make faults`, and the short one of `make test`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.faults import faults
from tests.faults.schedule import Choice, Rhythm

SESSION_S = 6.0
TRANSACTION_S = 10.0
TASK_TIMEOUT_S = 2.5
OBJECT_MS = int(os.environ.get("OBJECT_MS", "20"))
BEYOND_S = TRANSACTION_S + 3.0
"""A zombie is stopped this long at least: its session and its transactions are over by then."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How much work, on how many nodes, under which faults."""

    name: str
    images: int
    nodes: int
    rhythms: Mapping[str, Rhythm]
    publish_s: float
    """Publishing is spread over this long, so that work arrives while faults go on."""
    poison: float = 0.01
    """The share of images, and of objects, that fail, crash or hang."""
    inject_until: float = 0.85
    """No new fault once this share of the images has its outcome."""
    horizon_s: float = 3600.0
    """No new fault after this long either."""
    within_s: float = 2400.0
    object_ms: int = OBJECT_MS
    commit_interval_ms: int = 0
    request_timeout_ms: int = 10_000
    """Longer than a lone node is stopped; of three, whoever asks a stopped one waits as long in vain."""
    restart_s: tuple[float, float] = (0.5, 4.0)
    """Instead of the supervisor's longest back-off of a minute: there would soon be nobody left to kill."""
    spared: frozenset[str] = field(default_factory=frozenset)
    least_kills: int = 0
    limits: bool = True
    """Whether the figures are held against their limits, or only the guarantees."""


LONG = Profile(
    name="long",
    images=10_000,
    nodes=3,
    # Eight images a second, and not the most that two cores with three nodes can do: all would wait for the processor
    # all the time, and the figures would be of that queue. (With ten nothing was idle any more beside the restarts.)
    publish_s=1250.0,
    # Later than its partitions are taken over, which takes a session and two to five seconds more here: one that starts
    # just then takes the processor away from it, and makes a second rebalance of it.
    restart_s=(12.0, 12.0),
    request_timeout_ms=5_000,
    commit_interval_ms=1000,  # three brokers on two cores: their time goes into transactions
    spared=frozenset({"detector-0", "reconstructor-0", "aggregator-0"}),
    least_kills=50,
    rhythms={
        "workers": Rhythm((5.0, 15.0), (Choice(faults.KILL),)),
        "models": Rhythm((10.0, 30.0), (Choice(faults.KILL_MODEL),)),
        "zombies": Rhythm((40.0, 90.0), (Choice(faults.ZOMBIE, (BEYOND_S, BEYOND_S + 7)),)),
        "nodes": Rhythm(
            (60.0, 120.0),  # long enough apart that many kills of a worker have no other fault beside them
            (
                Choice(faults.NODE_KILL, (1.0, 10.0)),
                Choice(faults.NODE_TERM, (1.0, 10.0)),
                Choice(faults.NODE_STOP, (60.0, 60.0)),
            ),
        ),
    },
)

SHORT = Profile(
    name="short",
    images=400,
    nodes=1,
    publish_s=35.0,
    poison=0.02,  # of so few images: some of each kind
    limits=False,
    horizon_s=40.0,
    within_s=240.0,
    rhythms={
        "workers": Rhythm((4.0, 8.0), (Choice(faults.KILL),)),
        "models": Rhythm((3.0, 6.0), (Choice(faults.KILL_MODEL),)),
        "zombies": Rhythm((2.0, 4.0), (Choice(faults.ZOMBIE, (BEYOND_S, BEYOND_S + 2)),)),
        "nodes": Rhythm(
            (10.0, 15.0),
            (
                Choice(faults.NODE_KILL, (0.0, 1.0)),
                Choice(faults.NODE_TERM, (0.0, 1.0)),
                Choice(faults.NODE_STOP, (4.0, 8.0)),
            ),
        ),
    },
)
