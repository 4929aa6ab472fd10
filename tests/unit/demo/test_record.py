"""What a run counts, and when it is over."""

from __future__ import annotations

from pathlib import Path

from stream_worker.demo.record import RunRecord
from tests.unit.demo.synthetic import Synthetic


def test_stages_grow_with_the_events_and_end_whole(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("a", 1, objects=3)
    made.room("empty", 2, objects=0)
    full = made.record
    seen = RunRecord("demo", full.photos)
    assert seen.waiting == ["a", "empty"]
    for event in [*full.manifests.values(), *full.objects.values()]:
        assert seen.add(event)
    count = len(full.objects)
    assert count > 0
    assert seen.stages == {"images": (2, 2), "objects": (count, count), "results": (0, count), "completed": (0, 2)}
    for event in full.completed.values():
        seen.add(event)
    assert not seen.waiting
    assert not seen.whole, "the results that were joined have not been seen yet"
    for event in full.reconstructions.values():
        seen.add(event)
    assert seen.whole
    assert seen.succeeded


def test_other_runs_other_photos_and_repeats_say_nothing_new(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("a", 1, objects=1)
    manifest = made.record.manifests["a"]
    assert not made.record.add(manifest)
    assert not made.record.add(manifest.model_copy(update={"run": "live"}))
    assert not made.record.add(manifest.model_copy(update={"image_id": "b"}))


def test_a_later_revision_replaces_the_earlier(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("a", 1, objects=1)
    first = made.record.completed["a"]
    assert made.record.add(first.model_copy(update={"revision": 2, "status": "partial"}))
    assert not made.record.add(first)
    assert not made.record.succeeded


def test_a_failed_photo_is_an_outcome_but_no_success(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.failed("broken", "not_an_image", "no")
    assert made.record.whole
    assert not made.record.succeeded
