"""The network itself: squares in, boxes and mask logits out.

It sees every photo in one and the same shape: always as many squares at once, grey ones where photos are lacking. So
what it says of a photo does not depend on which others came with it, and one shape is all there is to warm up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_worker.models.yolo.squares import PADDING, Image

END_TO_END_ROWS = 6
"""ultralytics' NMS takes a prediction of as many anchors for one of a network that needs no NMS."""


class Found(NamedTuple):
    """What there is on one square, the most confident first: `rows` (n, 6) float32 of x0, y0, x1, y1 in the square's
    pixels, confidence and class; `logits` (n, rows, columns) float32 of the masks, over the whole square."""

    rows: NDArray[np.float32]
    logits: NDArray[np.float32]


class Network:
    """A segmentation network of ultralytics, on its device, its layers fused.

    Args:
        model: `YOLO(path)`.
        device: cpu, or cuda:0.
        half: half precision, on a GPU.
        size: of the squares, pixels.
        together: squares that it sees at once.
        confidence, iou, agnostic_nms, max_objects: as the settings of `detector`.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: str,
        half: bool,
        size: int,
        together: int,
        confidence: float,
        iou: float,
        agnostic_nms: bool,
        max_objects: int,
    ) -> None:
        torch, predict = import_module("torch"), import_module("ultralytics.models.yolo.segment")
        self._torch = torch
        self._suppress = import_module("ultralytics.utils.nms").non_max_suppression
        quantize = 16 if half and device != "cpu" else None
        chosen = {"task": "segment", "mode": "predict", "imgsz": size, "device": device, "quantize": quantize}
        predictor = predict.SegmentationPredictor(overrides={**chosen, "batch": together, "verbose": False})
        predictor.setup_model(model.model, verbose=False)
        self._net = predictor.model
        self._device = predictor.device
        self._size = size
        # A prompt-free head chooses its anchors for all squares of a batch alike: it takes one.
        self._together = 1 if hasattr(model.model.model[-1], "lrpc") else together
        # Page-locked for a GPU, which then fetches it without a copy in between.
        shape, on_gpu = (self._together, size, size, 3), self._device.type == "cuda"
        self._stacked = torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu)
        self._end_to_end = bool(getattr(self._net, "end2end", False))
        self._classes = len(self._net.names)
        self._limits = {"conf_thres": confidence, "iou_thres": iou, "agnostic": agnostic_nms, "max_det": max_objects}

    def find(self, squares: Sequence[Image], wanted: Sequence[list[int] | None]) -> list[Found]:
        """What is on each square (size, size, 3) uint8 RGB; of the `wanted` classes alone, where that is not None."""
        found: list[Found] = []
        for first in range(0, len(squares), self._together):
            part = slice(first, first + self._together)
            found += self._find(squares[part], wanted[part])
        return found

    def warm_up(self) -> None:
        """Have kernels chosen and memory taken."""
        grey = np.full((self._size, self._size, 3), PADDING, dtype=np.uint8)
        for _ in range(1 if self._device.type == "cpu" else 3):
            self.find([grey], [None])

    def _find(self, squares: Sequence[Image], wanted: Sequence[list[int] | None]) -> list[Found]:
        with self._torch.inference_mode():
            predicted = self._net(self._input(squares))
            # As ultralytics' predictor takes them apart: exported networks give a list, others a tuple.
            raw, prototypes = predicted[0] if isinstance(predicted[0], tuple) else predicted[:2]
            rows = [
                self._kept(photo, classes)
                for photo, classes in zip(self._candidates(raw, len(squares)), wanted, strict=True)
            ]
            logits = self._logits([kept[:, 6:] for kept in rows], prototypes)
            return [Found(kept[:, :6].numpy(), of) for kept, of in zip(rows, logits, strict=True)]

    def _input(self, squares: Sequence[Image]) -> Any:
        """(together, 3, size, size) in 0 to 1, the channels in the order R, G, B."""
        stacked = self._stacked.numpy()
        for number, square in enumerate(squares):
            stacked[number] = square
        stacked[len(squares) :] = PADDING
        pixels = self._stacked.to(self._device).permute(0, 3, 1, 2).contiguous()
        return (pixels.half() if self._net.fp16 else pixels.float()).div_(255)

    def _candidates(self, raw: Any, count: int) -> list[Any]:
        """Of each photo, what is confident enough, on the host: a prediction as `non_max_suppression` takes it."""
        if self._end_to_end:
            return list(raw[:count].float().cpu())
        enough = raw[:count, 4 : 4 + self._classes].amax(1) > self._limits["conf_thres"]
        photo, anchor = enough.nonzero(as_tuple=True)
        rows = raw.transpose(1, 2)[photo, anchor].float().cpu()
        return list(rows.split(enough.sum(1).tolist()))

    def _kept(self, candidates: Any, classes: list[int] | None) -> Any:
        """The rows (n, 6 + coefficients) that are objects. One photo at a time: the time limit of ultralytics' NMS
        would leave the last ones of a batch empty, and say so in a log alone."""
        if not self._end_to_end:
            few = END_TO_END_ROWS + 1 - len(candidates)
            if few > 0:  # confident of nothing: they are dropped
                candidates = self._torch.cat([candidates, candidates.new_zeros(few, candidates.shape[1])])
            candidates = candidates.T
        (kept,) = self._suppress(
            candidates[None],
            classes=classes,
            nc=self._classes,
            end2end=self._end_to_end,
            max_time_img=math.inf,
            **self._limits,
        )
        return kept

    def _logits(self, coefficients: Sequence[Any], prototypes: Any) -> list[NDArray[np.float32]]:
        """Of each photo's masks, before they are masks of the square: in the photo's own pixels they are exact.

        The device is waited for twice, however many photos there are.
        """
        counts = [len(of) for of in coefficients]
        there = self._torch.cat(list(coefficients)).to(prototypes.device).split(counts)
        flat = prototypes.float().flatten(2)
        every = self._torch.cat([of @ flat[number] for number, of in enumerate(there)]).cpu().numpy()
        shaped = every.reshape(len(every), *prototypes.shape[2:])
        return np.split(shaped, np.cumsum(counts)[:-1])
