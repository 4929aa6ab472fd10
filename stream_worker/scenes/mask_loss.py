"""ultralytics' mask loss for a whole batch at once: a tenth of the kernels, and no waiting for the device."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from ultralytics.utils.loss import v8SegmentationLoss

MOST_ANCHORS = 64
"""Positive anchors per image whose masks are compared, drawn at random where there are more."""

_Loss: Any = v8SegmentationLoss


class BatchedSegmentationLoss(_Loss):  # type: ignore[misc]
    """As its base, which goes image by image (and waits for the device at each) through the same formula."""

    def calculate_segmentation_loss(
        self,
        fg_mask: torch.Tensor,
        masks: torch.Tensor,
        target_gt_idx: torch.Tensor,
        target_bboxes: torch.Tensor,
        batch_idx: torch.Tensor,
        proto: torch.Tensor,
        pred_masks: torch.Tensor,
        imgsz: torch.Tensor,
    ) -> torch.Tensor:
        """Mean over anchors of the cross-entropy within the target's box, over the box's share of the image.

        Shapes, for b images, a anchors and c coefficients: fg_mask and target_gt_idx (b, a), masks (b, h, w) with n + 1
        where the image's n-th object is, target_bboxes (b, a, 4) in pixels, proto (b, c, h, w), pred_masks (b, a, c).
        """
        height, width = proto.shape[-2:]
        lots = torch.rand(fg_mask.shape, device=proto.device) * fg_mask
        drawn, anchor = lots.topk(min(MOST_ANCHORS, lots.shape[1]), dim=1)
        valid = drawn > 0
        wide = anchor[..., None]
        coefficients = pred_masks.gather(1, wide.expand(-1, -1, pred_masks.shape[2]))
        boxes = target_bboxes.gather(1, wide.expand(-1, -1, 4)) / imgsz[[1, 0, 1, 0]]
        share = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=1e-6)
        logits = torch.einsum("bkc,bchw->bkhw", coefficients, proto)
        truth = (masks[:, None] == (target_gt_idx.gather(1, anchor) + 1)[..., None, None]).to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        x = torch.arange(width, device=proto.device)
        y = torch.arange(height, device=proto.device)
        across = (x >= boxes[..., 0:1] * width) & (x < boxes[..., 2:3] * width)
        down = (y >= boxes[..., 1:2] * height) & (y < boxes[..., 3:4] * height)
        inside = torch.einsum("bkh,bkhw,bkw->bk", down.to(loss.dtype), loss, across.to(loss.dtype))
        per_anchor = inside / (height * width) / share
        return (per_anchor * valid).sum() / valid.sum().clamp(min=1)
