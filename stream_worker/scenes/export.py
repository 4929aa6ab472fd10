"""Makes the file that we ship from a training folder: the averaged weights in half precision, and nothing else.

python -m stream_worker.scenes.export work/ stream_worker/models/weights/rooms-seg.pt
"""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path
from typing import Any

import torch

from stream_worker.scenes.split import LONGER_SIDE
from stream_worker.scenes.train import ARCHITECTURE, build

LICENCE = "AGPL-3.0"


def export(folder: Path, target: Path) -> None:
    """Write the moving average in `folder` as an ultralytics checkpoint that safe loading accepts."""
    model = build(torch.device("cpu"))
    from ultralytics import __version__

    average = torch.load(folder / "average.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(average["weights"])
    state = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)["state"]
    arguments = {"task": "segment", "imgsz": LONGER_SIDE, "model": ARCHITECTURE, "data": None}
    model.args = dict(arguments)
    model.criterion = None
    model.half().eval()
    for weight in model.parameters():
        weight.requires_grad = False
    content: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "license": f"{LICENCE} (https://ultralytics.com/license)",
        "epoch": -1,
        "best_fitness": None,
        "model": model,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": arguments,
        "train_metrics": {"batches": state["batches"], "images": state["images"], "scenes": state["scenes"]},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".tmp")
    torch.save(content, partial)
    os.replace(partial, target)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stream_worker.scenes.export", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="what train wrote")
    parser.add_argument("target", type=Path, help="the .pt to write")
    args = parser.parse_args()
    export(args.folder, args.target)
    print(f"{args.target}: {args.target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
