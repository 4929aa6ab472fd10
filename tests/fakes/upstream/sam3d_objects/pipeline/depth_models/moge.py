"""`MoGe` (sam3d_objects/pipeline/depth_models/moge.py): gives `pointmaps`, (H, W, 3) float32."""

from __future__ import annotations

import torch


class MoGe:
    """A depth network that recovers no camera from its own output, as the real one now and then."""

    def __init__(self, model: object = None) -> None:
        self.model = model

    def __call__(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pointmaps": torch.full((*image.shape[:2], 3), torch.nan)}
