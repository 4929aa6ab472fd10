"""What of a dead letter is sent back, and what is not: pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from stream_worker import topics
from stream_worker.contract import decode, encode
from stream_worker.events import BlobRef, ImageEvent, ObjectEvent, utc_now
from stream_worker.letters import RETRIES, Letter, retried
from stream_worker.records import Output
from tests.benchmarks.objects import object_event

NOW = utc_now()
GRACE_S = 3600.0


def letter(**fields: object) -> Letter:
    event = ImageEvent(image_id="a", url="https://x.test/a.jpg", metadata={"order": 7})
    made = Letter(
        name="0:1",
        at=NOW,
        topic=topics.IMAGES,
        place="5:17",
        stage="detector",
        reason="fetch_failed",
        message="the host answered 503",
        attempts="4",
        first_at=NOW.isoformat(),
        last_at=NOW.isoformat(),
        key=b"a",
        value=encode(event),
        headers=(("traceparent", b"00-1-2-01"),),
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def work(deadline: timedelta) -> ObjectEvent:
    photo = BlobRef(key="images/a", sha256="0" * 64, size=1, media_type="image/png")
    event = object_event(7, photo, np.ones((4, 4), bool))
    return event.model_copy(update={"deadline_at": NOW + deadline})


def sent(one: Letter, most: int = 3) -> Output:
    found = retried(one, most, GRACE_S, NOW)
    assert isinstance(found, Output), found
    return found


def run_of(one: Output) -> str:
    return decode(ImageEvent, one.value).run


def test_a_photo_goes_back_under_a_run_of_its_own() -> None:
    found = sent(letter())
    event = decode(ImageEvent, found.value)
    assert (found.topic, found.key, found.partition) == (topics.IMAGES, b"a", None)
    assert (event.image_id, event.run, event.metadata) == ("a", "live.retry-1", {"order": 7})
    assert found.headers == (("traceparent", b"00-1-2-01"), (RETRIES, b"1"))


def test_one_that_fails_again_counts_on_up_to_the_cap() -> None:
    one = letter()
    for count in (1, 2, 3):
        found = sent(one)
        assert run_of(found) == f"live.retry-{count}"
        one = letter(value=found.value, headers=found.headers)
    assert "tried again 3 times" in str(retried(one, 3, GRACE_S, NOW))
    assert run_of(sent(one, most=4)) == "live.retry-4"


@pytest.mark.parametrize("count", [None, b"", b"x", b"-1", b"9" * 5000, b"\xff"])
def test_a_count_that_is_none_is_a_count_of_none(count: bytes | None) -> None:
    assert run_of(sent(letter(headers=((RETRIES, count),)))) == "live.retry-1"


def test_the_longest_run_still_makes_one_that_is_valid() -> None:
    value = encode(ImageEvent(image_id="a", url="https://x.test/a.jpg", run="r" * 64))
    assert run_of(sent(letter(value=value))) == "r" * 48 + ".retry-1"


def test_an_object_goes_back_as_it_came_to_where_it_was() -> None:
    value = encode(work(timedelta()))
    found = sent(letter(topic=topics.OBJECTS, value=value, key=b"object"))
    assert (found.topic, found.key, found.value, found.partition) == (topics.OBJECTS, b"object", value, 5)
    assert sent(letter(topic=topics.OBJECTS, value=value, place="?:?")).partition is None


def test_what_is_of_no_use_any_more_is_left_out() -> None:
    forgotten = letter(topic=topics.OBJECTS, value=encode(work(timedelta(seconds=-GRACE_S - 1))))
    assert "forgotten by the aggregator" in str(retried(forgotten, 3, GRACE_S, NOW))
    assert "can't be read" in str(retried(letter(value=b"no JSON"), 3, GRACE_S, NOW))
    assert "can't be read" in str(retried(letter(value=None), 3, GRACE_S, NOW))
    assert "no retry mends" in str(retried(letter(topic=topics.DETECTIONS), 3, GRACE_S, NOW))
    assert "no retry mends" in str(retried(letter(topic="?"), 3, GRACE_S, NOW))
