"""A reconstructor whose objects say themselves how long they take; it runs in a model's process."""

from __future__ import annotations

import time
from typing import Any

from tests.stubs import Dots


class Slow(Dots):
    """`Dots`, but an object labelled `6.5 s` takes that long."""

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        seconds, _, unit = task["label"].partition(" ")
        if unit == "s":
            time.sleep(float(seconds))
        return super().infer(task, payload)
