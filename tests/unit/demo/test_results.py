"""What is kept of a run."""

from __future__ import annotations

from pathlib import Path

import orjson
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.demo import results
from stream_worker.events import BlobRef
from tests.unit.demo.synthetic import Synthetic


@given(st.text(min_size=1, max_size=256), st.integers(0, 9999), st.text(min_size=1, max_size=128))
def test_no_name_from_outside_leaves_the_folder(image_id: str, index: int, label: str) -> None:
    name = results.file_name(image_id, index, label, set())
    assert Path(name).name == name
    assert not name.startswith(".")
    assert name.endswith(".ply")
    assert name.isascii()
    assert name.isprintable()
    assert len(name) < 200


def test_names_that_would_collide_differ() -> None:
    taken: set[str] = set()
    names = [results.file_name(image_id, 0, "sofa", taken) for image_id in ("a/b", "a?b", "A_B", "a_b")]
    assert names[0] == "a_b-0-sofa.ply"
    assert len({name.lower() for name in names}) == 4


async def test_plys_and_completed_events_are_written(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("../room 1", 1, objects=3)
    made.failed("broken", "not_an_image", "no")
    made.record.plys.clear()

    async def get(ref: BlobRef) -> bytes:
        return made.plys[ref.sha256]

    out = tmp_path / "out"
    await results.save_plys(out / "ply", made.record, get)
    results.save_completed(out / "completed.jsonl", made.record)
    files = sorted((out / "ply").iterdir())
    assert [path.name for path in files] == sorted(path.name for path in made.record.plys.values())
    assert files
    for item in made.record.completed["../room 1"].objects:
        assert item.ply is not None
        assert made.record.plys[item.object_id].read_bytes() == made.plys[item.ply.sha256]
    lines = [orjson.loads(line) for line in (out / "completed.jsonl").read_bytes().splitlines()]
    assert [(line["image_id"], line["status"]) for line in lines] == [("../room 1", "complete"), ("broken", "failed")]
