"""In which order a publisher takes partitions: a burst reaches as many detectors as it has photos."""

from __future__ import annotations

from collections import Counter

import pytest

from stream_worker.publish import Spread


def owners(start: int, photos: int, partitions: int, detectors: int) -> list[int]:
    """The detector of each photo, where each has as many partitions as the others, beside each other."""
    spread = Spread(start)
    return [spread.next(partitions) * detectors // partitions for _ in range(photos)]


@pytest.mark.parametrize(("partitions", "detectors"), [(12, 1), (12, 2), (12, 4), (16, 8), (64, 16), (128, 64)])
@pytest.mark.parametrize("start", [0, 1, 7, 65_533])
def test_as_many_photos_as_detectors_reach_all_of_them(partitions: int, detectors: int, start: int) -> None:
    assert len(set(owners(start, detectors, partitions, detectors))) == detectors


@pytest.mark.parametrize(("partitions", "detectors"), [(12, 3), (12, 6), (12, 12), (10, 5), (7, 7)])
@pytest.mark.parametrize("start", [0, 5, 40_000])
def test_any_number_of_detectors_gets_equal_parts_of_many_photos(partitions: int, detectors: int, start: int) -> None:
    parts = Counter(owners(start, 64 * detectors, partitions, detectors))
    assert len(parts) == detectors
    assert max(parts.values()) - min(parts.values()) <= 6


def test_publishers_begin_at_places_of_their_own() -> None:
    assert len({Spread().next(65_536) for _ in range(50)}) > 25
