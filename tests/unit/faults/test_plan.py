"""The plan: what a seed publishes, and what must come of it."""

from __future__ import annotations

from collections import Counter

from stream_worker.events import object_id
from tests.faults.plan import Image, drawn, plan
from tests.stubs import Faulty, photo

SEED = 3


def test_a_seed_is_repeated_to_the_letter_and_another_one_differs() -> None:
    assert plan(SEED, 500) == plan(SEED, 500)
    assert plan(SEED, 500).events != plan(SEED + 1, 500).events


def test_the_shares_are_those_of_the_issue() -> None:
    planned = plan(SEED, 10_000)
    published = Counter(image.image_id for image in planned.events)
    fates = Counter(
        fate for image in {image.image_id: image for image in planned.events}.values() for fate in image.fates
    )
    poison = sum(fates.values()) - fates["."]
    assert len(planned.expected) == len(published) == 10_000
    assert 29_000 < planned.objects < 31_000
    assert 0.18 < sum(count == 2 for count in published.values()) / 10_000 < 0.22
    assert 0.008 < planned.statuses["failed"] / 10_000 < 0.012
    assert 0.008 < poison / sum(fates.values()) < 0.012
    assert all(fates[fate] for fate in "rch"), "every kind of poison"


def test_an_image_with_poison_objects_is_partial_with_exactly_those_failed() -> None:
    image = Image(7, 4, ".rch")
    ids = [object_id("image-7", "live", index) for index in range(4)]
    outcome = image.outcome()
    assert (outcome.status, outcome.reason) == ("partial", None)
    reasons = [None, "reconstruct_failed", "model_crashed", "model_timeout"]
    assert outcome.objects == dict(zip(ids, reasons, strict=True))


def test_a_poison_image_fails_and_an_image_without_objects_is_complete() -> None:
    assert Image(1, Faulty.HANG).outcome().reason == "model_timeout"
    assert Image(1, Faulty.HANG).outcome().status == "failed"
    assert Image(1, 0).outcome().status == "complete"


def test_the_path_of_an_image_draws_its_photo() -> None:
    assert drawn(Image(300, 3, ".c.").path(35)) == photo(300, 3, ".c.", 35)
    assert photo(300, 3, ".c.", 35) != photo(300, 3, "...", 35)
