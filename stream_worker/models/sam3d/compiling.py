"""torch.compile for the blocks of both stages, and for stage 1's embedders and decoder.

Upstream means to compile the embedders, stage 1's transformer as a whole, and the decoder (`_compile` of
inference_pipeline_pointmap.py), but its warm-up calls a method that does not exist. Here one block is compiled, and
serves for all 24 that are built like it: minutes less. Stage 2's blocks can be compiled with a length that varies once
they run on plain tensors, see `backbones`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from stream_worker.models.sam3d import backbones

MODE = "default"
"""CUDA graphs are recorded around the whole pass, see `graphs`; those of the compiler would be in their way."""

Place = tuple[Any, str]


def compile_stages(pipeline: Any, try_out: Callable[[], None]) -> str | None:
    """Compile, and run once. None where that went well; otherwise why not, and all is as it was before.

    A compiler that fails (no C compiler, a driver too old) must not cost the service a GPU.
    """
    compiler = partial(torch.compile, mode=MODE)
    before = [(place, getattr(*place)) for place in _places(pipeline)]
    try:
        torch._dynamo.config.cache_size_limit = 64
        torch._dynamo.config.accumulated_cache_size_limit = 2048
        for (owner, name), function in before:
            setattr(owner, name, compiler(function, dynamic=owner is backbones))
        try_out()
    except Exception as error:  # noqa: BLE001  (whatever it is, the model works without)
        traceback.print_exception(error, file=sys.stderr)
        for (owner, name), function in before:
            setattr(owner, name, function)
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    return None


def _places(pipeline: Any) -> list[Place]:
    """Where the functions are that are to be compiled."""
    embedder = pipeline.condition_embedders["ss_condition_embedder"]
    places: list[Place] = [
        # A point map's embedder prepares its input with shapes that change; only its inner part is fixed.
        (one, "inner_forward" if hasattr(one, "inner_forward") else "forward")
        for one, _ in getattr(embedder, "embedder_list", [])
    ]
    places += [(block, "forward") for block in pipeline.models["ss_generator"].reverse_fn.backbone.blocks]
    places.append((pipeline.models["ss_decoder"], "forward"))
    places.append((backbones, "modulated"))
    return places
