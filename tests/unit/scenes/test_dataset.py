"""The COCO data set holds the renderer's masks exactly; the rule says which objects count."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from stream_worker.geometry import masks
from stream_worker.scenes import CLASSES, SceneObject
from stream_worker.scenes.dataset import write
from stream_worker.scenes.split import HELD_OUT, SHAPES, TRAINING_FROM, counts, scene


def test_annotations_are_the_rendered_masks(tmp_path: Path) -> None:
    judged = write(tmp_path, range(500_000, 500_003), workers=1)
    content = json.loads((tmp_path / "annotations.json").read_text())
    assert [category["name"] for category in content["categories"]] == list(CLASSES)
    assert len(content["images"]) == 3
    assert judged == sum(not a["iscrowd"] for a in content["annotations"])
    for image in content["images"]:
        drawn = scene(image["id"])
        with Image.open(tmp_path / "images" / image["file_name"]) as photo:
            assert photo.size == (image["width"], image["height"]) == SHAPES[image["id"] % len(SHAPES)]
        stored = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert len(stored) == len(drawn.objects)
        for annotation, found in zip(stored, drawn.objects, strict=True):
            assert np.array_equal(masks.decode(annotation["segmentation"]), found.mask)
            assert CLASSES[annotation["category_id"]] == found.label


def test_hidden_and_tiny_objects_do_not_count() -> None:
    def thing(pixels: int, share: float) -> SceneObject:
        mask = np.zeros((100, 100), np.bool_)
        mask.ravel()[:pixels] = True
        return SceneObject("box", mask, (0, 0, 100, 1), share)

    assert counts(thing(30, 0.5))
    assert not counts(thing(19, 0.5))
    assert not counts(thing(30, 0.1))


def test_no_scene_both_trains_and_judges() -> None:
    assert HELD_OUT.stop <= TRAINING_FROM
