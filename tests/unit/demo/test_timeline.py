"""When what was worked on."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_worker.demo import timeline
from tests.unit.demo.synthetic import Synthetic


def test_spans_follow_each_photo_through_the_stages(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("a", 1, objects=2)
    made.room("b", 1, objects=1)
    spans = timeline.spans(made.record)
    rows = list(dict.fromkeys((span.row.image_id, span.row.index) for span in spans))
    count = len(timeline.results_of(made.record, "a"))
    assert count
    assert rows[: count + 2] == [("a", None), *(("a", index) for index in range(count)), ("b", None)]
    a = {span.kind: span for span in spans if span.row == timeline.Row("a")}
    assert (a["detector-1"].start, a["detector-1"].end) == pytest.approx((0.3, 0.6)), "the model's time, without waits"
    assert "queue 100 ms" in a["detector-1"].text
    assert a["waiting"].start == 0
    assert a["aggregator"].end - a["aggregator"].start == pytest.approx(0.05)
    first = [span for span in spans if span.row.image_id == "a" and span.row.index == 0]
    assert [span.kind for span in first] == ["waiting", "reconstructor-0"]
    assert first[1].end - first[1].start == pytest.approx(0.2)
    assert first[1].end == pytest.approx(0.84), "before its result was stored"


def test_stage_times_add_up(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("a", 1, objects=2)
    made.room("empty", 1, objects=0)
    made.failed("broken", "not_an_image", "no")
    times = timeline.stage_times(made.record, "a")
    assert times.detect is not None
    assert times.reconstruct is not None
    assert times.join is not None
    assert times.detect + times.reconstruct + times.join == pytest.approx(times.total)
    assert timeline.stage_times(made.record, "empty").reconstruct is None
    assert timeline.stage_times(made.record, "broken").total == pytest.approx(1.1)
    assert timeline.stage_times(made.record, "unknown") == timeline.StageTimes()


def test_a_run_without_events_has_no_spans(tmp_path: Path) -> None:
    assert timeline.spans(Synthetic(tmp_path).record) == []


def test_a_long_run_shows_its_photos_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_ROWS", 1)
    made = Synthetic(tmp_path)
    made.room("a", 1, objects=2)
    assert {span.row.index for span in timeline.spans(made.record)} == {None}
