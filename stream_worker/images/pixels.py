"""Decoded photos on their way between processes: raw RGB in a file of shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Pixels:
    """An upright RGB photo as a raw file: height x width x 3, uint8, row-major, no header.

    The file lies in shared memory where there is some. Whoever made it calls `release` once the last
    reader is done.
    """

    path: str
    width: int
    height: int

    def array(self) -> npt.NDArray[np.uint8]:
        """The pixels, (height, width, 3) uint8 RGB, mapped read-only (nothing is copied)."""
        return np.memmap(self.path, dtype=np.uint8, mode="r", shape=(self.height, self.width, 3))

    def release(self) -> None:
        """Give the memory back. Harmless when it is gone already."""
        Path(self.path).unlink(missing_ok=True)
