"""torch.compile for what has fixed shapes: stage 1's embedders, its transformer, and its decoder.

Upstream has the same list (`_compile` of inference_pipeline_pointmap.py), but its warm-up calls a method that does not
exist. Stage 2 stays as it is: its shapes change with every object, and each would be compiled anew.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

Place = tuple[Any, str]


def compile_stage_1(pipeline: Any, torch: Any, try_out: Callable[[], None]) -> str | None:
    """Compile, and run once. None where that went well; otherwise why not, and all is as it was before.

    A compiler that fails (no C compiler, a driver too old) must not cost the service a GPU.
    """
    before = [(place, getattr(*place)) for place in _places(pipeline)]
    try:
        torch._dynamo.config.cache_size_limit = 64
        torch._dynamo.config.accumulated_cache_size_limit = 2048
        torch._dynamo.config.capture_scalar_outputs = True
        for (owner, name), function in before:
            setattr(owner, name, _compiled(function, torch))
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
    places.append((pipeline.models["ss_generator"].reverse_fn, "inner_forward"))
    places.append((pipeline.models["ss_decoder"], "forward"))
    return places


def _compiled(function: Callable[..., Any], torch: Any) -> Callable[..., Any]:
    """Compiled code that keeps its results in buffers of its own, which the next call writes over: hand out copies."""
    compiled = torch.compile(function, mode="max-autotune", fullgraph=True)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        tree = torch.utils._pytree.tree_map_only
        args, kwargs = tree(torch.Tensor, lambda tensor: tensor.contiguous(), (args, kwargs))
        return tree(torch.Tensor, lambda tensor: tensor.clone(), compiled(*args, **kwargs))

    return call
