"""Two runs beside each other: what is the same object, and what has changed."""

from __future__ import annotations

import pytest

from stream_worker.comparison import Change, Item, Seen, beside, iou, matched


def item(label: str, *box: float, status: str = "reconstructed", volume: float | None = 1.0, unit: str = "mm") -> Item:
    return Item(label, box, status, volume, unit)


def seen(*items: Item, status: str = "complete", reason: str | None = None, model_s: float = 1.0) -> Seen:
    return Seen(1, status, reason, items, model_s, 0)


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0),
        ((0, 0, 2, 2), (3, 3, 4, 4), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
    ],
)
def test_the_overlap_of_boxes(a: tuple[float, ...], b: tuple[float, ...], value: float) -> None:
    assert iou(a, b) == iou(b, a) == pytest.approx(value)


def test_the_same_object_has_the_label_and_the_place() -> None:
    sofa, chair = item("sofa", 0, 0, 10, 10), item("chair", 20, 0, 30, 10)
    moved, near = item("sofa", 1, 0, 11, 10), item("sofa", 3, 0, 13, 10)
    table = item("table", 20, 0, 30, 10)
    pairs, lost, gained = matched((sofa, chair), (near, moved, table))
    assert pairs == [(sofa, moved)], "the best overlap, not the first"
    assert (lost, gained) == ([chair], [near, table])


def test_what_differs_is_said_and_what_does_not_is_not() -> None:
    sofa, bigger = item("sofa", 0, 0, 10, 10), item("sofa", 0, 0, 10, 10, volume=2.0)
    undone = item("sofa", 0, 0, 10, 10, status="failed", volume=None)
    first = {
        "same": seen(sofa),
        "mended": seen(status="failed", reason="fetch_failed"),
        "lost": seen(sofa, item("chair", 20, 0, 30, 10)),
        "undone": seen(sofa),
        "only first": seen(sofa),
    }
    second = {
        "same": seen(bigger),
        "mended": seen(sofa),
        "lost": seen(sofa),
        "undone": seen(undone, status="partial"),
        "only second": seen(),
    }
    found = beside("live", first, "again", second)
    assert found.changes == [
        Change("mended", "failed (fetch_failed) -> complete, + sofa"),
        Change("lost", "- chair"),
        Change("undone", "complete -> partial, sofa: reconstructed -> failed"),
    ]
    one, other = found.sides
    assert (one.images, other.images, found.images, found.matched) == (5, 5, 4, 3)
    assert (one.statuses, one.alone) == ({"complete": 3, "failed": 1}, {"chair": 1})
    assert (other.objects, other.alone) == ({"reconstructed": 3, "failed": 1}, {"sofa": 1})
    assert found.volume == (1.0, 1.5, 2.0)
    plain = found.plain()
    assert plain["sides"][0]["alone"] == {"chair": 1}
    assert plain["changes"][1] == {"image_id": "lost", "what": "- chair"}


def test_volumes_in_other_units_are_not_compared() -> None:
    one, other = seen(item("sofa", 0, 0, 1, 1, unit="relative")), seen(item("sofa", 0, 0, 1, 1, unit="mm"))
    assert beside("live", {"a": one}, "again", {"a": other}).volume is None
