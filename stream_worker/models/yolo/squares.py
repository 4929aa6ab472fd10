"""A photo on the square that the network looks at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_worker.geometry.letterbox import Letterbox

PADDING = 114  # the grey that ultralytics letterboxes with, in training as well

Image = NDArray[np.uint8]


def on_square(photo: Image, letterbox: Letterbox) -> Image:
    """The photo (height, width, 3) on its grey square (size, size, 3), pixel for pixel as ultralytics does it.

    Done here and not by `predict`, which would want a BGR copy of all the photo's pixels first.
    """
    import cv2

    inner_width, inner_height = letterbox.inner
    left, top = letterbox.origin
    square = np.full((letterbox.size, letterbox.size, 3), PADDING, dtype=np.uint8)
    place = square[top : top + inner_height, left : left + inner_width]
    if photo.shape[:2] == place.shape[:2]:
        place[:] = photo
    else:
        place[:] = cv2.resize(np.ascontiguousarray(photo), (inner_width, inner_height), interpolation=cv2.INTER_LINEAR)
    return square
