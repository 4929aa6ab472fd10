"""The report's HTML: whole, self-contained, and safe to open whatever the events say."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from stream_worker import events
from stream_worker.demo import drawing, report, views
from tests.unit.demo.synthetic import Synthetic

HOSTILE = "</script><script>alert('x')</script>\"'><img src=x onerror=alert(1)>&{{7*7}}"


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of script elements by id or data-for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._open: dict[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._open = dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        self._open = None if tag == "script" else self._open

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.scripts.append((self._open, data))


def test_every_photo_mask_and_object_is_there(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("room-1", 1, objects=4)
    made.room("empty", 2, objects=0)
    made.failed("broken", "not_an_image", "not a whole JPEG")
    path = report.write(tmp_path, made.record)
    page = path.read_text()
    found = Elements(page)
    count = len(made.record.objects)
    classes = [attributes.get("class") for _, attributes in found.tags]
    assert classes.count("base") == 2
    assert classes.count("mask") == count > 1
    assert classes.count("view") == count
    views_of = {a["data-for"]: json.loads(text) for a, text in found.scripts if "data-for" in a}
    assert set(views_of) == {f"object-{key}" for key in made.record.objects}
    assert all(set(view) == {"xyz", "rgb", "box", "sizes"} for view in views_of.values())
    gantt = next(json.loads(text) for attributes, text in found.scripts if attributes.get("id") == "gantt-data")
    assert {"detector-0", "detector-1", "aggregator", "waiting"} < {trace["name"] for trace in gantt["traces"]}
    assert "not_an_image: not a whole JPEG" in page
    assert "Some photos are not complete" in page
    assert "2/3" in page


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("room-1", 1, objects=1)
    found = Elements(report.page(made.record))
    for tag, attributes in found.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            if value is None:
                continue
            assert value.startswith(("data:", "#", "ply/")), (tag, name, value[:80])
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_hostile_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("kind", 1, objects=2)
    calm = Elements(report.page(made.record))
    made = Synthetic(tmp_path)
    made.room(HOSTILE, 1, objects=2)
    record = made.record
    for kept in (record.reconstructions, record.objects):
        for key, event in list(kept.items()):
            kept[key] = event.model_copy(update={"label": HOSTILE})
    done = record.completed[HOSTILE]
    items = [item.model_copy(update={"label": HOSTILE}) for item in done.objects]
    record.completed[HOSTILE] = done.model_copy(update={"objects": items})
    page = report.page(record)
    found = Elements(page)
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in calm.tags], "no element more, no element less"
    assert not any("onerror" in attributes for _, attributes in found.tags)
    data = [text for attributes, text in found.scripts if attributes.get("type") == "application/json"]
    assert all("<" not in text for text in data)
    gantt = next(json.loads(text) for a, text in found.scripts if a.get("id") == "gantt-data")
    texts = gantt["ticks"] + [text for trace in gantt["traces"] for text in [trace["name"], *trace["hovertext"]]]
    assert any("&lt;" in text for text in gantt["ticks"])
    assert all("<" not in re.sub(r"</?b>|<br>", "", text) for text in texts), "plotly reads markup too"


def test_a_mask_a_photo_or_a_ply_that_is_bad_costs_itself_only(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("room-1", 1, objects=3)
    first, second, *_ = made.record.objects
    bad = events.Mask(size=[3, 3], counts="!!")
    made.record.objects[first] = made.record.objects[first].model_copy(update={"mask": bad})
    made.record.plys[second].write_bytes(b"ply\nbroken")
    found = Elements(report.page(made.record))
    count = len(made.record.objects)
    assert sum("data-for" in attributes for attributes, _ in found.scripts) == count - 1
    assert sum(attributes.get("class") == "mask" for _, attributes in found.tags) == count - 1
    made.record.photos["room-1"].write_bytes(b"gone")
    page = report.page(made.record)
    assert not any(attributes.get("class") in ("base", "mask") for _, attributes in Elements(page).tags)
    assert "the PLY can&#39;t be shown" in page


def test_a_big_run_stays_small(tmp_path: Path, monkeypatch) -> None:
    made = Synthetic(tmp_path)
    made.room("room-1", 1, objects=3)
    monkeypatch.setattr(report, "ALL_POINTS", 900)
    taken: list[int] = []
    real = views.view
    monkeypatch.setattr(views, "view", lambda *a: taken.append(a[2]) or real(*a))
    report.page(made.record)
    assert set(taken) == {max(report.FEWEST_POINTS, 900 // len(made.record.plys))}
    assert max(taken) < views.POINTS


def test_tints_repeat_but_never_run_out() -> None:
    assert drawing.tint(0) == drawing.tint(len(drawing.TINTS))


def test_a_run_in_which_nothing_happened(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.record.photos["lost"] = tmp_path / "lost.jpg"
    page = report.page(made.record)
    assert "no outcome" in page
    assert "0/1" in page
