"""Feeds training: processes render scenes without end, a reservoir on the device holds them, batches are drawn from it.

No epoch is ever the same: scenes keep coming while the model trains, and each draw is mirrored, zoomed, moved and
re-lit on the device. Boxes are taken from the masks after that, so they always fit.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from stream_worker.scenes import CLASSES
from stream_worker.scenes.split import LONGER_SIDE, counts, scene

MOST_OBJECTS = 13
"""Objects per scene that are kept; rooms hold fewer."""
GREY = 114
"""What letterboxes are filled with, as ultralytics does."""
LEAST_PIXELS = 90
LEAST_LEFT = 0.2
"""After zooming, an object is a target if it still has so many pixels (per 640 x 640) and this share of its area."""

SLOTS = 4
"""Scenes that each process may be ahead of the reservoir."""

Ticket = tuple[int, int, int, int, list[int]]
"""Worker, slot, height, width, class numbers."""


def _render_for_ever(worker: int, first: int, step: int, buffer: torch.Tensor, free: Any, tickets: Any) -> None:
    """Render seeds `first`, `first + step`, ... into the worker's slots: (slot, 4, side, side), RGB and ids.

    Ids are 1..n for the n objects that count and 0 elsewhere. Pixels go through shared memory, not through a pipe:
    unpickling them would hold up the thread that trains.
    """
    slots = buffer.numpy()
    slot, seed = 0, first
    while True:
        drawn = scene(seed)
        height, width = drawn.ids.shape
        ids = np.zeros((height, width), np.uint8)
        classes: list[int] = []
        for found in drawn.objects:
            if counts(found) and len(classes) < MOST_OBJECTS:
                classes.append(CLASSES.index(found.label))
                ids[found.mask] = len(classes)
        free.acquire()
        slots[slot, :3, :height, :width] = drawn.rgb.transpose(2, 0, 1)
        slots[slot, 3, :height, :width] = ids
        tickets.put((worker, slot, height, width, classes))
        slot, seed = (slot + 1) % SLOTS, seed + step


class Feed:
    """A reservoir of scenes on a device, filled in the background by `workers` processes from seed `first` on.

    When it is full, new scenes replace the oldest.
    """

    def __init__(self, first: int, workers: int, capacity: int, device: torch.device) -> None:
        side = LONGER_SIDE
        # The thread that collects must not keep the one that trains waiting (the default is 5 ms at a time).
        sys.setswitchinterval(0.0005)
        self._images = torch.full((capacity, 3, side, side), GREY, dtype=torch.uint8, device=device)
        self._ids = torch.zeros((capacity, side, side), dtype=torch.uint8, device=device)
        self._classes = torch.full((capacity, MOST_OBJECTS), -1, dtype=torch.int64, device=device)
        self._areas = torch.zeros((capacity, MOST_OBJECTS), dtype=torch.float32, device=device)
        self._device = device
        self.rendered = 0
        self.first = first
        context = multiprocessing.get_context("spawn")
        self._buffers = torch.zeros((workers, SLOTS, 4, side, side), dtype=torch.uint8)
        self._buffers.share_memory_()
        self._free = [context.Semaphore(SLOTS) for _ in range(workers)]
        self._tickets: multiprocessing.Queue[Ticket] = context.Queue()
        for worker in range(workers):
            task = (worker, first + worker, workers, self._buffers[worker], self._free[worker], self._tickets)
            context.Process(target=_render_for_ever, args=task, daemon=True).start()
        self.arrived = threading.Condition()
        threading.Thread(target=self._collect, daemon=True).start()

    def __len__(self) -> int:
        return min(self.rendered, len(self._images))

    def _collect(self) -> None:
        while True:
            worker, source, height, width, classes = self._tickets.get()
            slot = self.rendered % len(self._images)
            top, left = (LONGER_SIDE - height) // 2, (LONGER_SIDE - width) // 2
            area = (slice(top, top + height), slice(left, left + width))
            pixels = self._buffers[worker, source, :, :height, :width].to(self._device)
            self._free[worker].release()
            self._images[slot] = GREY
            self._images[slot, :, *area] = pixels[:3]
            self._ids[slot] = 0
            self._ids[slot][area] = pixels[3]
            row = torch.full((MOST_OBJECTS,), -1, dtype=torch.int64)
            row[: len(classes)] = torch.tensor(classes, dtype=torch.int64)
            self._classes[slot] = row.to(self._device)
            numbers = torch.arange(1, MOST_OBJECTS + 1, device=self._device)
            self._areas[slot] = (pixels[3].flatten() == numbers[:, None]).sum(1) / LONGER_SIDE**2
            with self.arrived:
                self.rendered += 1
                self.arrived.notify_all()

    def wait_for(self, scenes: int, timeout_s: float) -> None:
        """Wait until so many scenes are there. Raises TimeoutError."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: self.rendered >= scenes, timeout_s):
                raise TimeoutError(f"only {self.rendered} of {scenes} scenes were rendered in {timeout_s:.0f} s")

    def batch(self, size: int, side: int, strength: float) -> dict[str, Any]:
        """A batch of `size` square images of `side` pixels as ultralytics' losses take it.

        `strength` 0..1 scales the augmentation.
        """
        choice = torch.randint(len(self), (size,), device=self._device)
        grid = F.affine_grid(self._affine(size, strength), [size, 3, side, side], align_corners=False)
        images = self._images[choice].float() / 255 - GREY / 255
        images = F.grid_sample(images, grid, mode="bilinear", align_corners=False) + GREY / 255
        images = self._relight(images, strength)
        ids = F.grid_sample(self._ids[choice][:, None].float(), grid, mode="nearest", align_corners=False)
        ids = ids[:, 0].round().to(torch.uint8)
        return {"img": images, **_targets(ids, self._areas[choice], self._classes[choice], side)}

    def _affine(self, size: int, strength: float) -> torch.Tensor:
        """Random zoom, shift, slight turn and mirror: (size, 2, 3), from output to input coordinates in -1..1."""

        def uniform(low: float, high: float) -> torch.Tensor:
            return torch.empty(size, device=self._device).uniform_(low, high)

        zoom = torch.exp(uniform(-0.35, 0.45) * strength)
        angle = uniform(-0.06, 0.06) * strength
        mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        stretch = torch.exp(uniform(-0.08, 0.08) * strength)
        shift = 0.25 * strength
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        top = torch.stack([cos * mirror * stretch, -sin, uniform(-shift, shift)], dim=1)
        bottom = torch.stack([sin * mirror, cos / stretch, uniform(-shift, shift)], dim=1)
        return torch.stack([top, bottom], dim=1)

    def _relight(self, images: torch.Tensor, strength: float) -> torch.Tensor:
        size = len(images)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(size, *shape, 1, 1, device=self._device) * strength

        images = images * torch.exp(0.18 * normal(1) + 0.05 * normal(3)) + 0.03 * normal(1)
        grey = images.mean(1, keepdim=True)
        keep = 1 + 0.25 * normal(1)
        keep = torch.where(
            torch.rand(size, 1, 1, 1, device=self._device) < 0.05 * strength, torch.zeros_like(keep), keep
        )
        images = grey + (images - grey) * keep
        images = images + torch.randn_like(images) * (0.02 * strength * torch.rand(size, 1, 1, 1, device=self._device))
        return images.clamp(0, 1)


def _targets(ids: torch.Tensor, whole: torch.Tensor, classes: torch.Tensor, side: int) -> dict[str, torch.Tensor]:
    """Boxes, classes and quarter-size masks of what is left of each object after the augmentation.

    `whole` is each object's share of its letterboxed scene before that.
    """
    rows, columns, areas = [], [], []
    for number in range(1, MOST_OBJECTS + 1):
        mask = ids == number
        rows.append(mask.any(2))
        columns.append(mask.any(1))
        areas.append(mask.sum((1, 2)))
    row, column = torch.stack(rows, 1).to(torch.uint8), torch.stack(columns, 1).to(torch.uint8)
    area = torch.stack(areas, 1).float() / side**2
    kept = (area * LONGER_SIDE**2 >= LEAST_PIXELS) & (area >= LEAST_LEFT * whole) & (classes >= 0)
    top, left = row.argmax(2), column.argmax(2)
    bottom, right = side - row.flip(2).argmax(2), side - column.flip(2).argmax(2)
    box = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=2) / side
    order = torch.cumsum(kept, 1) * kept
    table = F.pad(order, (1, 0)).to(torch.float32)
    small = ids[:, 2::4, 2::4].long()
    masks = torch.gather(table, 1, small.flatten(1)).view(small.shape)
    image, slot = torch.nonzero(kept, as_tuple=True)
    return {"batch_idx": image.float(), "cls": classes[image, slot].float(), "bboxes": box[image, slot], "masks": masks}
