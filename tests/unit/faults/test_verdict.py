"""The verdict over the readers: exactly the expected outcomes, once each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stream_worker.events import CompletedImageEvent, Failure, ObjectOutcome, object_id, utc_now
from tests.faults.plan import Image, Outcome
from tests.faults.verdict import differences

IMAGES = (Image(0, 2, ".r"), Image(1, 0))
EXPECTED = {image.image_id: image.outcome() for image in IMAGES}


def event(image_id: str, outcome: Outcome, revision: int = 1) -> CompletedImageEvent:
    return CompletedImageEvent(
        image_id=image_id,
        run="live",
        revision=revision,
        status=outcome.status,  # type: ignore[arg-type]
        objects=[
            ObjectOutcome(
                object_id=identity,
                index=index,
                status="failed" if code else "reconstructed",
                reason=Failure(code=code, message="") if code else None,
                label="x",
                confidence=1,
                box=[0, 0, 1, 1],
            )
            for index, (identity, code) in enumerate(outcome.objects.items())
        ],
        published_at=utc_now(),
        completed_at=utc_now(),
    )


def exactly() -> list[CompletedImageEvent]:
    return [event(image_id, outcome) for image_id, outcome in EXPECTED.items()]


def test_exactly_the_expected_outcomes_are_no_difference() -> None:
    assert differences("reader", exactly(), EXPECTED) == []


LOST = exactly()[:1]
TWICE = [*exactly(), exactly()[1]]
REVISED = [*exactly(), event("image-1", EXPECTED["image-1"], revision=2)]
STRANGE = [*exactly(), event("image-9", EXPECTED["image-1"])]
WRONG_REASON = Outcome(
    "partial", None, {object_id("image-0", "live", 0): None, object_id("image-0", "live", 1): "model_timeout"}
)
ONE_OBJECT = Outcome("partial", None, {object_id("image-0", "live", 1): "reconstruct_failed"})


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (LOST, "1 outcomes missing: ('image-1', 'live', 1)"),
        (TWICE, "1 outcomes too many: ('image-1', 'live', 1)"),
        (REVISED, "1 outcomes too many: ('image-1', 'live', 2)"),
        (STRANGE, "1 outcomes too many: ('image-9', 'live', 1)"),
        ([event("image-0", WRONG_REASON), exactly()[1]], "1 outcomes are not what they must be"),
        ([event("image-0", ONE_OBJECT), exactly()[1]], "1 outcomes are not what they must be"),
    ],
)
def test_each_difference_is_named(events: Sequence[CompletedImageEvent], said: str) -> None:
    (found,) = differences("reader", events, EXPECTED)
    assert found.startswith(f"reader: {said}")


def hanging(*codes: str) -> dict[str, Outcome]:
    """One image for each code: an object that should hang its model, and how it was told."""
    return {
        f"image-{number}": Outcome("partial", None, {object_id(f"image-{number}", "live", 0): code})
        for number, code in enumerate(codes)
    }


def test_a_model_that_is_killed_while_it_hangs_has_crashed() -> None:
    wanted = hanging("model_timeout", "model_timeout")
    told = [event(*one) for one in hanging("model_crashed", "model_crashed").items()]
    assert differences("reader", told, wanted, models_killed=2) == []
    (found,) = differences("reader", told, wanted, models_killed=1)
    assert found.startswith("reader: 1 outcomes are not what they must be")
    (found,) = differences("reader", told, wanted)
    assert found.startswith("reader: 2 outcomes are not what they must be")


@pytest.mark.parametrize("code", ["reconstruct_failed", "model_timeout"])
def test_nothing_else_is_excused_by_a_killed_model(code: str) -> None:
    (found,) = differences("reader", [event(*one) for one in hanging(code).items()], hanging("model_crashed"), 5)
    assert found.startswith("reader: 1 outcomes are not what they must be")
