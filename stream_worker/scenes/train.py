"""Trains the small segmentation model that we ship, from scratch, on scenes that are rendered meanwhile.

    python -m stream_worker.scenes.train work/ --minutes 17 --workers 16        # one GPU; resumes from work/
    python -m stream_worker.scenes.train work/ --minutes 600 --batch 8 --workers 1 --device cpu

The architecture comes from a yaml inside ultralytics; the loop is our own, because ultralytics' trainer reads labels as
polygons, checks mixed precision with a download, and waits for its data loader most of the time. The schedule runs
by the clock: a run of so many minutes always ends with the learning rate at its end. Checkpoints (weights, their moving
average, optimiser) are replaced atomically every minute. `stream_worker.scenes.export` makes the file that is shipped.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from stream_worker.scenes import CLASSES
from stream_worker.scenes.feed import Feed
from stream_worker.scenes.offline import offline
from stream_worker.scenes.split import LONGER_SIDE, TRAINING_FROM

ARCHITECTURE = "yolo11n-seg.yaml"
PEAK_RATE = 1.5e-3
LAST_RATE = 2e-5
WARM_UP = 0.03
"""Share of the schedule in which the rate climbs."""
DECAY = 0.02
CLIP = 10.0
AVERAGE_KEEPS = 0.998
SMALL_SIDES = (416, 480)
SMALL_UNTIL = 0.5
"""Up to this share of the schedule batches are small squares; after that LONGER_SIDE, which is what is served."""
CALM_FROM = 0.85
"""From here on the augmentation is weak: the model ends on scenes as they are."""
SAVE_EVERY_S = 60.0


def build(device: torch.device) -> Any:
    """An untrained model on the device, with the gains that its loss needs."""
    offline()
    from ultralytics.cfg import get_cfg
    from ultralytics.nn import tasks

    network: Any = tasks.SegmentationModel
    model = network(ARCHITECTURE, nc=len(CLASSES), verbose=False)
    model.names = dict(enumerate(CLASSES))
    model.args = get_cfg(overrides={"task": "segment", "imgsz": LONGER_SIDE, "model": ARCHITECTURE})
    return model.to(device)


class Average:
    """The moving average of a model's weights and statistics, which is what gets shipped."""

    def __init__(self, model: Any) -> None:
        self.model = deepcopy(model).eval()
        self.updates = 0
        self._pairs = [
            (mine, theirs.detach())
            for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
            if mine.dtype.is_floating_point
        ]

    def update(self) -> None:
        """Take one step towards the model as it is now; the first steps are larger."""
        self.updates += 1
        keep = AVERAGE_KEEPS * (1 - math.exp(-self.updates / 300))
        torch._foreach_lerp_([mine for mine, _ in self._pairs], [theirs for _, theirs in self._pairs], 1 - keep)


def rate(progress: float) -> float:
    """Learning rate at a share of the schedule: a linear climb, then a cosine down."""
    if progress < WARM_UP:
        return PEAK_RATE * (0.02 + progress / WARM_UP)
    fallen = 0.5 - 0.5 * math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1.0))
    return PEAK_RATE + (LAST_RATE - PEAK_RATE) * fallen


def _optimizer(model: Any) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1 and p.requires_grad]
    plain = [p for p in model.parameters() if p.ndim <= 1 and p.requires_grad]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE)


def _save(folder: Path, model: Any, average: Average, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Three files below 16 MiB each; the optimiser's moments are kept in bfloat16, which resuming does not notice."""
    moments = optimizer.state_dict()
    # A new dictionary: the one above shares its tensors' dictionaries with the optimiser.
    moments["state"] = {
        key: {k: v.to(torch.bfloat16) if k.startswith("exp_avg") else v for k, v in values.items()}
        for key, values in moments["state"].items()
    }
    for name, content in (
        ("optimizer", moments),
        ("average", {"weights": average.model.state_dict(), "updates": average.updates}),
        ("model", {"weights": model.state_dict(), "state": state}),
    ):
        torch.save(content, folder / f"{name}.tmp")
        os.replace(folder / f"{name}.tmp", folder / f"{name}.pt")


def _resume(
    folder: Path, model: Any, average: Average, optimizer: torch.optim.Optimizer, device: torch.device
) -> dict[str, Any]:
    saved = torch.load(folder / "model.pt", map_location=device, weights_only=True)
    mean = torch.load(folder / "average.pt", map_location=device, weights_only=True)
    moments = torch.load(folder / "optimizer.pt", map_location=device, weights_only=True)
    model.load_state_dict(saved["weights"])
    average.model.load_state_dict(mean["weights"])
    average.updates = mean["updates"]
    optimizer.load_state_dict(moments)
    state: dict[str, Any] = saved["state"]
    return state


def _loss(model: Any, criterion: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean loss per image; the network runs in bfloat16 on a GPU, the loss always in float32."""
    images = batch["img"].contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        outputs = model(images)
    exact = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in outputs.items()}
    total, parts = criterion(exact, batch)
    return total.sum() / len(images), parts


def train(
    folder: Path,
    minutes: float,
    batch_size: int,
    workers: int,
    capacity: int,
    least: int,
    device: torch.device,
    back_to: float = 1.0,
) -> None:
    """Train until the schedule of `minutes` is over, counting what earlier runs in that folder have done of it.

    A finished run is continued from `back_to`, a share of the schedule: the rate rises to what it was there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    model = build(device).to(memory_format=torch.channels_last)
    average = Average(model)
    from stream_worker.scenes.mask_loss import BatchedSegmentationLoss

    criterion = BatchedSegmentationLoss(model)
    optimizer = _optimizer(model)
    state: dict[str, Any] = {"progress": 0.0, "batches": 0, "images": 0, "scenes": 0}
    if (folder / "model.pt").exists():
        state = _resume(folder, model, average, optimizer, device)
        state["progress"] = min(state["progress"], back_to)
        print(f"resumed at {state}", flush=True)
    earlier = state["scenes"]
    feed = Feed(TRAINING_FROM + earlier, workers, capacity, device)
    feed.wait_for(least, 600)
    print(f"{len(feed)} scenes rendered; training starts", flush=True)
    model.train()
    began = saved = told = time.monotonic()
    start, seconds = state["progress"], minutes * 60
    pick = torch.Generator().manual_seed(state["batches"])
    while state["progress"] < 1.0:
        progress = min(start + (time.monotonic() - began) / seconds, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(progress)
        side = LONGER_SIDE
        if progress < SMALL_UNTIL:
            side = SMALL_SIDES[int(torch.randint(len(SMALL_SIDES), (1,), generator=pick))]
        batch = feed.batch(batch_size, side, 1.0 if progress < CALM_FROM else 0.25)
        loss, parts = _loss(model, criterion, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        average.update()
        state = {
            "progress": progress,
            "batches": state["batches"] + 1,
            "images": state["images"] + batch_size,
            "scenes": earlier + feed.rendered,
        }
        now = time.monotonic()
        if now - told > 10 or progress >= 1.0 or state["batches"] in (1, 2, 3, 10, 20, 30):
            shown = " ".join(f"{name} {float(value):.3f}" for name, value in parts.items())
            print(f"{now - began:6.0f} s {progress:.3f} {state} lr {rate(progress):.5f} {shown}", flush=True)
            told = now
        if now - saved > SAVE_EVERY_S or progress >= 1.0:
            if not math.isfinite(float(loss.detach())):
                raise SystemExit("the loss is no longer finite: the last checkpoint is kept, resume from it")
            _save(folder, model, average, optimizer, state)
            saved = now


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stream_worker.scenes.train", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="checkpoints; training resumes from what is there")
    parser.add_argument("--minutes", type=float, required=True, help="length of the whole schedule")
    parser.add_argument("--batch", type=int, default=96, help="images a batch")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    parser.add_argument("--capacity", type=int, default=30_000, help="scenes held on the device (1.6 MB each)")
    parser.add_argument("--least", type=int, default=2_000, help="scenes before training starts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    parser.add_argument("--back-to", type=float, default=1.0, help="go on with a finished run from this share of it")
    args = parser.parse_args()
    if not 0 < args.least <= args.capacity:
        parser.error("--least must be between 1 and --capacity")
    train(
        args.folder,
        args.minutes,
        args.batch,
        args.workers,
        args.capacity,
        args.least,
        torch.device(args.device),
        args.back_to,
    )


if __name__ == "__main__":
    main()
