"""CUDA graphs: thousands of kernels started by one call, where shapes never change.

A pass of stage 1 is some four thousand small kernels; the host takes longer to start them than the GPU to run them.
A graph records them once, with the addresses that they read and write, and plays them again. Between two small kernels
the GPU idles even so: a second graph, on a stream of its own, fills the gaps (`Beside`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

WARM_UPS = 3
"""Calls before the recording: libraries set themselves up at the first ones (torch's notes on CUDA graphs)."""


class Graphed:
    """A function of tensors (in dicts, lists and tuples) as a CUDA graph.

    The function must do the same work at every call: no branch on values, no synchronisation, shapes as at the first
    call. Tensors that it closes over are read where they lay when it was recorded: after moving one, `forget`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Any] = []
        self._outputs: Any = None

    @property
    def recorded(self) -> bool:
        return self._graph is not None

    def __call__(self, *args: Any) -> Any:
        leaves, form = pytree.tree_flatten(args)
        if self._graph is None:
            self._record(leaves, form)
        assert self._graph is not None
        for kept, given in zip(self._inputs, leaves, strict=True):
            if isinstance(kept, torch.Tensor):
                kept.copy_(given)
        self._graph.replay()
        return pytree.tree_map_only(torch.Tensor, torch.clone, self._outputs)

    def forget(self) -> None:
        """Record anew at the next call."""
        self._graph, self._inputs, self._outputs = None, [], None

    def _record(self, leaves: list[Any], form: Any) -> None:
        self._inputs = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        args = pytree.tree_unflatten(self._inputs, form)
        # Autocast must not hand the recording a cast weight that it drops when the object is done.
        with torch.autocast("cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), False):
            # A stream for each graph, and not torch's one for all: libraries keep a workspace for each stream, and two
            # graphs that play at a time must not share it.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._function(*args)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Another thread may prepare the next object meanwhile: what it does is no part of the recording.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._outputs = self._function(*args)
        self._graph = graph


class Beside:
    """A graph's answer, begun on a stream of its own while the GPU does something else, and taken later.

    What was begun and is not asked for is dropped.
    """

    def __init__(self, graphed: Graphed) -> None:
        self._graphed = graphed
        self._stream: torch.cuda.Stream | None = None
        self._args: tuple[Any, ...] | None = None
        self._answer: Any = None

    def begin(self, *args: Any) -> None:
        """Start it, if it is recorded already: a recording must be alone."""
        if self._args is not None or not self._graphed.recorded:
            return
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._answer = self._graphed(*args)
        self._args = args

    def take(self, *args: Any) -> Any:
        """The answer for these very arguments: the one that was begun, or a new one."""
        begun, answer = self._args, self._answer
        self._args = self._answer = None
        if begun is None:
            return self._graphed(*args)
        here = torch.cuda.current_stream()
        here.wait_stream(self._stream)
        if len(begun) != len(args) or any(one is not other for one, other in zip(begun, args, strict=True)):
            return self._graphed(*args)
        for leaf in pytree.tree_leaves(answer):
            if isinstance(leaf, torch.Tensor):
                leaf.record_stream(here)
        return answer
