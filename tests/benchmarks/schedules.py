"""Schedules in which nothing costs anything but the models: what the service is measured against. Pure."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Photo:
    """When it is published, and how many seconds it and each of its objects takes."""

    at: float
    image_s: float
    objects_s: tuple[float, ...]


def log_normal(count: int, mean_s: float, sigma: float, seed: int) -> list[float]:
    """That many times, in whole milliseconds: log-normal with this sigma, scaled so that their mean is `mean_s`.

    The same seed draws the same times, but for the scale.
    """
    numbers = random.Random(seed)
    drawn = [math.exp(numbers.gauss(0.0, sigma)) for _ in range(count)]
    scale = mean_s * count / sum(drawn)
    return [max(1, round(1000 * scale * one)) / 1000 for one in drawn]


def detected(photos: Sequence[Photo], detectors: int) -> list[float]:
    """When each photo's objects are known: the next photo goes to the detector that is free first."""
    free = [0.0] * detectors
    moments = []
    for photo in photos:
        moments.append(max(heapq.heappop(free), photo.at) + photo.image_s)
        heapq.heappush(free, moments[-1])
    return moments


def list_schedule(photos: Sequence[Photo], detectors: int, gpus: int) -> list[float]:
    """When each photo is complete, where the next object goes to the GPU that is free first. Photos come in order."""
    ready = detected(photos, detectors)
    done = list(ready)
    free = [0.0] * gpus
    for number in sorted(range(len(photos)), key=ready.__getitem__):
        for seconds in photos[number].objects_s:
            ended = max(heapq.heappop(free), ready[number]) + seconds
            heapq.heappush(free, ended)
            done[number] = max(done[number], ended)
    return done


def by_count(photos: Sequence[Photo], detectors: int, gpus: int) -> list[float]:
    """The same where each object is given away as soon as it is known, to the GPU with the fewest unfinished ones.

    What the best policy can do that knows nothing of an object's time, and takes nothing back.
    """
    ready = detected(photos, detectors)
    done = list(ready)
    ends: list[list[float]] = [[] for _ in range(gpus)]
    for number in sorted(range(len(photos)), key=ready.__getitem__):
        for seconds in photos[number].objects_s:
            ends = [[end for end in one if end > ready[number]] for one in ends]
            queue = min(ends, key=len)
            queue.append(max([ready[number], *queue]) + seconds)
            done[number] = max(done[number], queue[-1])
    return done
