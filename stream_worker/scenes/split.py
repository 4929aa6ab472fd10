"""Which rendered scenes train and which judge, and which of their objects count."""

from __future__ import annotations

from stream_worker.scenes import Scene, SceneObject, render

HELD_OUT = range(500_000, 501_000)
"""Seeds of the scenes that judge a model. None of them is ever trained on."""
TRAINING_FROM = 1_000_000
"""The first seed that trains."""

LONGER_SIDE = 640
SHAPES = ((640, 480), (640, 480), (480, 640), (640, 360), (360, 640), (560, 560))
"""Image sizes, (width, height), as the seeds take turns."""

LEAST_VISIBLE = 0.15
LEAST_AREA = 0.002
"""An object counts if at least this share of its silhouette is visible and it fills this share of the image."""


def scene(seed: int) -> Scene:
    """The scene of a seed, in the image shape whose turn it is."""
    width, height = SHAPES[seed % len(SHAPES)]
    return render(seed, width, height)


def counts(found: SceneObject) -> bool:
    """Whether a detector is expected to find the object. What does not count is neither a miss nor a false alarm."""
    return found.visible_share >= LEAST_VISIBLE and float(found.mask.mean()) >= LEAST_AREA
