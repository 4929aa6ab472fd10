"""The report in a real browser: nothing fails, nothing is fetched, every object can be turned with the mouse."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_worker.demo import report
from tests.chromium import Page, page
from tests.unit.demo.synthetic import Synthetic

OBJECTS_AT_LEAST = 17  # more than the WebGL contexts that a browser keeps alive in a page

CAMERA = "document.querySelector('{}')._fullLayout.scene._scene.getCamera().eye"
STILL = """
new Promise((done) => {{
  let before = null, frames = 0;
  const look = () => {{
    const now = JSON.stringify({0});
    frames = now === before ? frames + 1 : 0;
    before = now;
    if (frames >= 5) done(); else requestAnimationFrame(look);
  }};
  look();
}})
"""
IN_SIGHT = """
(async () => {{
  const view = document.querySelector('{0}');
  const live = view.classList.contains('live') || new Promise((done) => view.addEventListener('view-live', done));
  document.documentElement.style.scrollBehavior = 'auto';
  view.scrollIntoView({{block: 'center'}});
  await live;
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const {{x, y, width, height}} = view.getBoundingClientRect();
  return {{x, y, width, height}};
}})()
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Synthetic]:
    folder = tmp_path_factory.mktemp("report")
    made = Synthetic(folder)
    seed = 0
    while len(made.record.objects) < OBJECTS_AT_LEAST:
        seed += 1
        made.room(f"room-{seed}<b>&\"'", seed, 320, 240)
    made.failed("broken", "not_an_image", "not a whole JPEG, PNG or WebP")
    return report.write(folder, made.record), made


async def shown(tab: Page, selector: str) -> tuple[float, float]:
    """Scroll a view into sight and wait until it is drawn; its centre in the window."""
    box = await tab.evaluate(IN_SIGHT.format(selector))
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


async def turn(tab: Page, selector: str, dx: float, dy: float) -> None:
    """Drag a view with the mouse, until plotly has taken note of it (not before that is it kept) and it stands still.

    Plotly turns it on at the speed of the last move until the next frame is drawn: far, on a slow machine.
    """
    x, y = await shown(tab, selector)
    turned = f"new Promise((done) => document.querySelector('{selector}').once('plotly_relayout', () => done()))"
    await tab.evaluate(f"window.turned = {turned}; null")
    await tab.drag(x, y, dx, dy)
    await tab.evaluate("window.turned")
    await tab.evaluate(STILL.format(CAMERA.format(selector)))


def selectors(made: Synthetic) -> list[str]:
    return [f".view[data-view=object-{item.object_id}]" for item in made.record.objects.values()]


async def test_dragging_the_mouse_turns_an_object(written: tuple[Path, Synthetic], tmp_path: Path) -> None:
    path, made = written
    first, *_ = selectors(made)
    async with page(tmp_path / "profile") as tab:
        await tab.open(path.as_uri())
        await shown(tab, first)
        before = await tab.evaluate(CAMERA.format(first))
        picture = await tab.evaluate(f"document.querySelector('{first} canvas').toDataURL()")
        await turn(tab, first, 70, 25)
        after = await tab.evaluate(CAMERA.format(first))
        assert abs(after["x"] - before["x"]) > 0.1, (before, after)
        centre = await tab.evaluate(CAMERA.format(first).replace(".eye", ".center"))
        distance = [sum((eye[axis] - centre[axis]) ** 2 for axis in "xyz") for eye in (before, after)]
        assert distance[0] == pytest.approx(distance[1], rel=0.01), "turned, not zoomed"
        assert len(picture) > 1000
        assert tab.problems == []
        assert [url for url in tab.requests if not url.startswith("data:")] == [path.as_uri()]


async def test_more_objects_than_webgl_contexts_can_all_be_seen(
    written: tuple[Path, Synthetic], tmp_path: Path
) -> None:
    path, made = written
    first, *others = selectors(made)
    async with page(tmp_path / "profile") as tab:
        await tab.open(path.as_uri())
        await turn(tab, first, 60, 0)
        turned = await tab.evaluate(CAMERA.format(first))
        for selector in others:
            await shown(tab, selector)
            assert await tab.evaluate(
                f"!document.querySelector('{selector} canvas').getContext('webgl').isContextLost()"
            )
            assert await tab.evaluate("live.size <= MOST_LIVE")
        assert not await tab.evaluate(f"document.querySelector('{first}').classList.contains('live')")
        await shown(tab, first)
        assert await tab.evaluate(CAMERA.format(first)) == pytest.approx(turned, abs=1e-3), "it is as it was left"
        assert tab.problems == []
        assert not [line for line in tab.warnings if "WebGL" in line]


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
async def test_phones_and_dark_rooms(written: tuple[Path, Synthetic], tmp_path: Path, width: int, scheme: str) -> None:
    path, made = written
    async with page(tmp_path / "profile", width, 844, mobile=width < 600) as tab:
        await tab.prefer(scheme)
        await tab.open(path.as_uri())
        await shown(tab, selectors(made)[0])
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        red, green, blue = await tab.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert (red + green + blue < 200) == (scheme == "dark")
        assert await tab.evaluate("document.querySelectorAll('#gantt .barlayer .point').length") > OBJECTS_AT_LEAST
        assert tab.problems == []
