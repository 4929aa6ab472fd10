"""Upstream's pre-processing before an object's turn: the host's part of its work, while the GPU has the object before.

Upstream's `run` begins with three calls that hardly use the GPU: the point map, and the photo as each of the two stages
wants it. They take a twentieth of an object's time at 1024 x 768 pixels, and more the larger a photo is. Here they are
made in another thread, and `run` is handed what they gave.

Only with a point map that is given: MoGe makes one on the GPU, at its turn.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ready:
    """An object that is ready for its turn."""

    image: NDArray[np.uint8]
    """The photo (height, width, 4), with the mask as its alpha."""
    pointmap: Any
    """(height, width, 3) in PyTorch3D's frame, or None: upstream's depth network is to make it."""
    made: dict[Any, Any]
    """What `compute_pointmap` gave, under None, and `preprocess_image`, under `_key`; empty without a map."""
    seconds: float


class Preprocessing:
    """Stands before two methods of upstream's pipeline, and gives what was made ready in place of doing it again."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._compute_pointmap = pipeline.compute_pointmap
        self._preprocess_image = pipeline.preprocess_image
        self._made: dict[Any, Any] = {}
        # Copies beside the GPU's work would wait for all of it on the stream that everybody uses.
        self._stream = torch.cuda.Stream() if pipeline.device.type == "cuda" else None
        pipeline.compute_pointmap = self._pointmap
        pipeline.preprocess_image = self._image

    def ready(self, image: NDArray[np.uint8], pointmap: Any) -> Ready:
        """An object ready for its turn. Called in any thread, one at a time. Raises what upstream raises."""
        began = time.perf_counter()
        made: dict[Any, Any] = {}
        if pointmap is not None:
            side = contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
            # None of these is inherited from the main thread.
            with torch.inference_mode(False), torch.no_grad(), self._pipeline.device, side:
                made[None] = self._compute_pointmap(image, pointmap)
                stage1, stage2 = self._pipeline.ss_preprocessor, self._pipeline.slat_preprocessor
                points = made[None]["pointmap"]
                made[_key(stage1, points)] = self._preprocess_image(image, stage1, pointmap=points)
                made[_key(stage2, None)] = self._preprocess_image(image, stage2)
            if self._stream is not None:
                self._stream.synchronize()
        return Ready(image, pointmap, made, time.perf_counter() - began)

    @contextlib.contextmanager
    def given(self, ready: Ready) -> Iterator[None]:
        """Within the context, upstream's pipeline finds what was made ready."""
        self._made = ready.made
        try:
            yield
        finally:
            self._made = {}

    def _pointmap(self, image: Any, pointmap: Any = None) -> Any:
        return self._made[None] if None in self._made else self._compute_pointmap(image, pointmap)

    def _image(self, image: Any, preprocessor: Any = None, pointmap: Any = None) -> Any:
        key = _key(preprocessor, pointmap)
        return self._made[key] if key in self._made else self._preprocess_image(image, preprocessor, pointmap=pointmap)


def _key(preprocessor: Any, pointmap: Any) -> tuple[int, bool]:
    """Upstream's preprocessors can't be hashed, and both stages may have the same one."""
    return id(preprocessor), pointmap is not None
