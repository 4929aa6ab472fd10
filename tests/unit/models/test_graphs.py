"""An answer that was begun beside another one, without a GPU: streams that only say who waited for whom.

With one: tests/gpu/test_sam3d.py, where every pass is compared with upstream's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from stream_worker.models.sam3d import graphs

MAIN = "main"


class Stream:
    waited: list[tuple[str, str]]

    def __init__(self, name: str = "side") -> None:
        self.name = name

    def wait_stream(self, other: Stream) -> None:
        self.waited.append((self.name, other.name))


class Played:
    """In the place of a recorded graph: says on which stream it played."""

    def __init__(self, now: list[Stream], *, recorded: bool = True) -> None:
        self.recorded = recorded
        self.plays: list[str] = []
        self._now = now

    def __call__(self, *args: Any) -> str:
        self.plays.append(self._now[-1].name)
        return f"{args} on {self._now[-1].name}"


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    now = [Stream(MAIN)]
    Stream.waited = []

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        now.append(stream)
        yield
        now.pop()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: now[-1])
    return now


def test_what_was_begun_is_taken_when_its_stream_has_done_it(streams: list[Stream]) -> None:
    graph = Played(streams)
    beside, x = graphs.Beside(graph), object()
    beside.begin(x, 1)
    assert Stream.waited == [("side", MAIN)]  # x must be there
    assert beside.take(x, 1) == f"{(x, 1)} on side"
    assert Stream.waited[1:] == [(MAIN, "side")]
    assert graph.plays == ["side"]
    assert beside.take(x, 1) == f"{(x, 1)} on main"  # once taken it is gone


def test_for_other_arguments_it_is_done_anew_after_what_was_begun(streams: list[Stream]) -> None:
    graph = Played(streams)
    beside = graphs.Beside(graph)
    beside.begin([1.0])
    assert beside.take([1.0]) == "([1.0],) on main"  # equal, but not the same: it may have been written to
    assert (MAIN, "side") in Stream.waited


def test_what_is_not_recorded_yet_is_not_begun(streams: list[Stream]) -> None:
    graph = Played(streams, recorded=False)
    beside = graphs.Beside(graph)
    beside.begin(1)
    assert beside.take(1) == "(1,) on main"
    assert graph.plays == [MAIN]


def test_a_second_begin_waits_until_the_first_is_taken(streams: list[Stream]) -> None:
    graph = Played(streams)
    beside = graphs.Beside(graph)
    beside.begin(1)
    beside.begin(2)
    assert graph.plays == ["side"]
    assert beside.take(2) == "(2,) on main"
