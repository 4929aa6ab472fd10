"""Writes scenes as a COCO data set: photos, and exact masks as annotations.

    python -m stream_worker.scenes.dataset FOLDER --first 500000 --count 1000

writes FOLDER/images/*.jpg and FOLDER/annotations.json (COCO instances, exact masks as compressed RLE). Polygons, as
in YOLO's own label files, would lose the holes of a chair's back and the parts of a table behind a chair; training
reads ids straight from the renderer instead (`stream_worker.scenes.train`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stream_worker.geometry import masks
from stream_worker.scenes import CLASSES
from stream_worker.scenes.split import HELD_OUT, counts, scene


def write(folder: Path, seeds: range, workers: int) -> int:
    """Write the scenes of those seeds as a COCO data set; returns the number of objects that count."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        records = list(pool.imap(partial(_write_one, folder), seeds, chunksize=4))
    annotations = [dict(a, id=number) for number, a in enumerate(_annotations(records), start=1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": [r["image"] for r in records], "categories": categories, "annotations": annotations}
    (folder / "annotations.json").write_text(json.dumps(content))
    return sum(not a["iscrowd"] for a in annotations)


def _annotations(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in records:
        yield from record["annotations"]


def _write_one(folder: Path, seed: int) -> dict[str, Any]:
    drawn = scene(seed)
    height, width, _ = drawn.rgb.shape
    name = f"{seed}.jpg"
    Image.fromarray(drawn.rgb).save(folder / "images" / name, quality=95)
    annotations = []
    for found in drawn.objects:
        x0, y0, x1, y1 = found.box
        annotations.append(
            {
                "image_id": seed,
                "category_id": CLASSES.index(found.label),
                "segmentation": masks.encode(np.asarray(found.mask)),
                "area": int(found.mask.sum()),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                # COCO's word for "leave it out of the score": matches with it are neither right nor wrong.
                "iscrowd": 0 if counts(found) else 1,
                "visible_share": found.visible_share,
            }
        )
    return {"image": {"id": seed, "file_name": name, "width": width, "height": height}, "annotations": annotations}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stream_worker.scenes.dataset", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--first", type=int, default=HELD_OUT.start, help="first seed (default: the held-out ones)")
    parser.add_argument("--count", type=int, default=len(HELD_OUT), help="number of scenes")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    args = parser.parse_args()
    found = write(args.folder, range(args.first, args.first + args.count), args.workers)
    print(f"{args.count} scenes with {found} objects in {args.folder}")


if __name__ == "__main__":
    main()
