"""How much a join holds, counted by what its images wait for, and how much it may hold."""

from __future__ import annotations

from collections import Counter
from typing import Literal, get_args

from stream_worker.aggregator.image import Image

State = Literal["awaiting_manifest", "awaiting_results", "finished"]
STATES: tuple[State, ...] = get_args(State)

SHARES: dict[State, float] = {"awaiting_manifest": 0.25, "awaiting_results": 0.5, "finished": 0.25}
"""Of what a join may hold. What waits for results is most: manifests and, until the last one is there, results."""

NOT_FULL_AGAIN = 0.9
"""What is full takes more only below this part of its share, lest an input is paused and resumed at every record."""

RESULT_TO_COME_BYTES = 1500
"""Set aside for every result that an image waits for: results are never refused for want of room in
`awaiting_results`. A packed result takes 1,200 bytes (measured), and keeping it `image.RESULT_BYTES`."""


class Memory:
    """The books of one join: images, bytes and results by state. Never walks over the images."""

    def __init__(self, allowed: int) -> None:
        """`allowed`: bytes that the join may hold."""
        self.images: Counter[State] = Counter()
        self.bytes: Counter[State] = Counter()
        self.results: Counter[State] = Counter()
        self._to_come = 0
        self._allowed = allowed
        self._full: set[State] = set()

    def allow(self, allowed: int) -> None:
        """Change how many bytes the join may hold."""
        self._allowed = allowed

    def add(self, image: Image, state: State) -> None:
        """Count an image in."""
        self._count(image, state, 1)

    def remove(self, image: Image, state: State) -> None:
        """Count an image out. It must be as it was when it was counted in."""
        self._count(image, state, -1)

    def share(self, state: State) -> int:
        """The bytes that images in this state may take."""
        return int(self._allowed * SHARES[state])

    def used(self, state: State) -> int:
        """The bytes that images in this state take, and those that are set aside for them."""
        return self.bytes[state] + (self._to_come * RESULT_TO_COME_BYTES if state == "awaiting_results" else 0)

    def over(self, state: State) -> bool:
        """Whether the images in this state take more than their share."""
        return self.used(state) > self.share(state)

    def full(self, state: State) -> bool:
        """Whether there should be no more of these now: since they took more than their share, until well below it."""
        if self.over(state):
            self._full.add(state)
        elif self.used(state) <= NOT_FULL_AGAIN * self.share(state):
            self._full.discard(state)
        return state in self._full

    def _count(self, image: Image, state: State, sign: int) -> None:
        self.images[state] += sign
        self.bytes[state] += sign * image.size
        self.results[state] += sign * image.held()
        if state == "awaiting_results":
            self._to_come += sign * image.to_come()
