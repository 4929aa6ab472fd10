"""Who gets the next object: whoever is done with it first, as far as a detector can know; and no herds."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from stream_worker.balance import LOST_S, REFRESH_S, Measurement, Outstanding
from stream_worker.lag import objects


def measurement(*waiting: int, at: float = 0.0, owners: dict[int, str] | None = None) -> Measurement:
    """So many objects wait in each partition, each followed by its transaction's marker."""
    return Measurement(
        ends={partition: 2 * count for partition, count in enumerate(waiting)},
        done=dict.fromkeys(range(len(waiting)), 0),
        waiting=dict(enumerate(waiting)),
        owners=owners or {},
        at=at,
    )


@pytest.mark.parametrize(("offsets", "count"), [(-1, 0), (0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_offsets_are_objects_and_their_markers(offsets: int, count: int) -> None:
    assert objects(offsets) == count


def test_twelve_objects_on_four_partitions_are_three_each() -> None:
    outstanding = Outstanding(4)
    assert Counter(outstanding.choose() for _ in range(12)) == dict.fromkeys(range(4), 3)


def test_a_partition_with_a_backlog_waits_until_the_others_have_as_much() -> None:
    outstanding = Outstanding(3)
    outstanding.measured(measurement(5, 0, 1))
    assert Counter(outstanding.choose() for _ in range(9)) == {1: 5, 2: 4}


def test_what_was_sent_just_before_a_measurement_still_counts() -> None:
    outstanding = Outstanding(2)
    first = outstanding.choose()
    outstanding.measured(measurement(0, 0))
    assert outstanding.choose() == 1 - first


def test_what_was_sent_counts_once_when_it_is_seen() -> None:
    outstanding = Outstanding(1)
    for sent in range(3):
        outstanding.choose(now=sent)
    assert outstanding.of(0) == 3
    for seen in range(1, 4):
        outstanding.measured(measurement(seen, at=seen))
        assert outstanding.of(0) == 3


def test_what_was_sent_and_never_comes_does_not_count_for_ever() -> None:
    outstanding = Outstanding(2)
    for _ in range(10):
        outstanding.choose(now=0)
    outstanding.measured(measurement(0, 0, at=LOST_S - 1))
    assert [outstanding.of(0), outstanding.of(1)] == [5, 5]
    outstanding.measured(measurement(0, 0, at=LOST_S + 1))
    assert [outstanding.of(0), outstanding.of(1)] == [0, 0]


@pytest.mark.parametrize("each", [1, 3])
def test_detectors_with_a_photo_each_at_the_same_moment_use_all_gpus(each: int) -> None:
    """Four detectors that see the same; each has a photo with one or three objects from a partition of its own."""
    chosen = Counter[int]()
    for detector in range(4):
        outstanding = Outstanding(12, seed=detector)
        outstanding.measured(measurement(*[0] * 12, owners={one: f"gpu {one // 3}" for one in range(12)}))
        chosen.update(outstanding.choose(0.0, (3 * detector + 1) / 12) // 3 for _ in range(each))
    assert chosen == dict.fromkeys(range(4), each)


def test_a_reconstructor_with_many_partitions_gets_no_more_than_one_with_few() -> None:
    outstanding = Outstanding(6)
    outstanding.measured(measurement(*[0] * 6, owners={0: "a", 1: "a", 2: "a", 3: "a", 4: "a", 5: "b"}))
    chosen = Counter("b" if outstanding.choose() == 5 else "a" for _ in range(20))
    assert chosen == {"a": 10, "b": 10}


def test_what_nobody_has_waits_for_nobody_while_somebody_has_something() -> None:
    outstanding = Outstanding(4)
    outstanding.measured(measurement(9, 9, 0, 0, owners={0: "a", 1: "b"}))
    assert {outstanding.choose() for _ in range(20)} == {0, 1}
    outstanding.measured(measurement(9, 9, 0, 0))
    assert outstanding.choose() in {2, 3}, "nobody has anything: by what waits alone"


@dataclass
class Simulated:
    """GPUs that do the objects of their partitions, one after the other, and detectors that choose by measurements."""

    seconds: list[float]
    """An object, of each GPU."""
    detectors: int = 1
    each: int = 1
    """Partitions of a GPU."""
    blind: bool = False
    """Whether detectors suppose nothing of each other."""
    looks: bool = True
    """Whether a detector looks before it sends; else it knows what it is told twice a second."""
    now: float = 0.0
    got: Counter[int] = field(default_factory=Counter)
    last: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.seconds) * self.each
        self.choosers = [Outstanding(count, seed) for seed in range(self.detectors)]
        numbers = random.Random(1)
        self.refreshed = [(numbers.uniform(0, REFRESH_S), n) for n in range(self.detectors)]
        heapq.heapify(self.refreshed)
        self.ends, self.dones = [0] * count, [0] * count
        self.finishing: list[tuple[float, int, int]] = []
        self.free = [0.0] * len(self.seconds)

    def until(self, moment: float) -> None:
        while self.refreshed[0][0] <= moment:
            at, number = heapq.heappop(self.refreshed)
            self.settle(at)
            self.tell(number)
            heapq.heappush(self.refreshed, (at + REFRESH_S, number))
        self.settle(moment)

    def tell(self, detector: int) -> None:
        owners = {partition: f"gpu {partition // self.each}" for partition in range(len(self.ends))}
        waiting = {one: objects(end - done) for one, (end, done) in enumerate(zip(self.ends, self.dones, strict=True))}
        found = Measurement(dict(enumerate(self.ends)), dict(enumerate(self.dones)), waiting, owners, self.now)
        self.choosers[detector].measured(found)

    def settle(self, moment: float) -> None:
        self.now = moment
        while self.finishing and self.finishing[0][0] <= moment:
            _, partition, offset = heapq.heappop(self.finishing)
            self.dones[partition] = max(self.dones[partition], offset + 1)

    def send(self, detector: int) -> float:
        """When the object will be done."""
        if self.looks:
            self.tell(detector)
        partition = self.choosers[detector].choose(None if self.blind else self.now)
        gpu = partition // self.each
        self.got[gpu] += 1
        self.free[gpu] = max(self.free[gpu], self.now) + self.seconds[gpu]
        heapq.heappush(self.finishing, (self.free[gpu], partition, self.ends[partition]))
        self.ends[partition] += 2
        self.last = max(self.last, self.free[gpu])
        return self.free[gpu]


def test_a_slow_gpu_gets_what_it_can_do() -> None:
    service = Simulated([0.5, 0.5, 0.5, 2.0], each=3)
    for number in range(600):
        service.until(number / 6.4)
        service.send(0)
    fast = [service.got[gpu] for gpu in range(3)]
    assert max(fast) < 1.2 * min(fast)
    assert service.got[3] < 0.35 * min(fast), "a quarter of the speed"
    assert service.got[3] >= 5, "and not nothing: the fast ones alone could not do it"


def test_a_gpu_that_has_stopped_gets_nothing_more() -> None:
    service = Simulated([0.5, 0.5, 0.5, 1e6], each=3)
    for number in range(600):
        service.until(number / 5.0)
        service.send(0)
    assert service.got[3] <= 6


def test_a_gpu_that_joins_gets_the_next() -> None:
    outstanding = Outstanding(2)
    outstanding.measured(measurement(4, 4, at=1, owners={0: "a", 1: "a"}))
    outstanding.measured(measurement(4, 0, at=2, owners={0: "a", 1: "new"}))
    assert [outstanding.choose() for _ in range(3)] == [1, 1, 1]


def test_detectors_that_do_not_know_of_each_other_do_not_herd() -> None:
    """Sixteen detectors with images of three objects, at random, on 64 GPUs that nine tenths of the load would fill."""

    def waited(*, blind: bool) -> float:
        """Seconds to its end of one object in a hundred."""
        service = Simulated([0.8] * 64, detectors=16, blind=blind, looks=False)
        numbers = random.Random(2)
        took = []
        for moment, detector in sorted((numbers.uniform(0, 40), numbers.randrange(16)) for _ in range(960)):
            service.until(moment)
            took += [service.send(detector) - moment for _ in range(3)]
        return sorted(took)[round(0.99 * len(took))]

    assert waited(blind=False) < 0.95 * waited(blind=True)


def test_a_backlog_is_shared_as_list_scheduling_would() -> None:
    """400 objects at once, by four detectors, on 16 GPUs: within a tenth of the ideal."""
    service = Simulated([1.0] * 16, detectors=4, each=2)
    for number in range(400):
        service.until(number / 100)
        service.send(number % 4)
    assert service.last < 1.1 * (400 / 16 + 1)
