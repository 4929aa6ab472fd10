"""What a model says, before anything of it is published: nothing impossible gets past, every refusal has its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stream_worker.errors import Reason, RecordFault
from stream_worker.events import Failure
from stream_worker.geometry import gaussians, masks
from stream_worker.geometry.gaussians import Gaussians
from stream_worker.models import results
from stream_worker.models.answer import read_answer, read_loaded

HEIGHT, WIDTH = 6, 8
INF, NAN = float("inf"), float("nan")

PLY = gaussians.to_ply(Gaussians(*(np.ones((3, *shape), np.float32) for shape in ((3,), (3,), (), (3,), (4,)))))
GEOMETRY: dict[str, Any] = {
    "gaussians": 3,
    "frame": "camera",
    "unit": "m",
    "oriented_box": {"center": [0, 0, 1], "rotation": np.eye(3).tolist(), "width": 1, "height": 1.5, "depth": 0.0},
    "volume": 1.0,
    "volume_method": "box",
    "pose": {"rotation": [1.0, 0, 0, 0], "translation": [0.0, 0, 1], "scale": 1.0},
    "times": {"infer_s": 0.1},
}


def changed(value: dict[str, Any], path: str, to: Any) -> dict[str, Any]:
    """A copy in which the value at `path` is another, or is missing where `to` is ...."""
    first, _, rest = path.partition(".")
    copy = dict(value)
    if rest:
        copy[first] = changed(copy[first], rest, to)
    elif to is ...:
        del copy[first]
    else:
        copy[first] = to
    return copy


def test_a_whole_geometry_passes() -> None:
    assert results.reconstructed(GEOMETRY, PLY).oriented_box.height == 1.5


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("volume", NAN, Reason.BAD_GEOMETRY),
        ("volume", INF, Reason.BAD_GEOMETRY),
        ("volume", -1.0, Reason.BAD_GEOMETRY),
        ("oriented_box.width", -0.1, Reason.BAD_GEOMETRY),
        ("oriented_box.center", [0.0, NAN, 0.0], Reason.BAD_GEOMETRY),
        ("oriented_box.rotation", [[INF, 0.0, 0.0]] * 3, Reason.BAD_GEOMETRY),
        ("pose.translation", [0.0, 0.0, -INF], Reason.BAD_GEOMETRY),
        ("pose.scale", 0.0, Reason.BAD_GEOMETRY),
        ("gaussians", 0, Reason.BAD_GEOMETRY),
        ("gaussians", -3, Reason.BAD_GEOMETRY),
        ("gaussians", 4, Reason.BAD_GEOMETRY),
        pytest.param("gaussians", 10**400, Reason.BAD_GEOMETRY, id="gaussians-beyond-all-bounds"),
        ("gaussians", "3", Reason.RECONSTRUCT_FAILED),
        ("gaussians", 3.0, Reason.RECONSTRUCT_FAILED),
        ("gaussians", True, Reason.RECONSTRUCT_FAILED),
        ("gaussians", ..., Reason.RECONSTRUCT_FAILED),
        ("volume", "1", Reason.RECONSTRUCT_FAILED),
        ("volume", None, Reason.RECONSTRUCT_FAILED),
        ("oriented_box", [], Reason.RECONSTRUCT_FAILED),
        ("oriented_box.center", [0.0, 0.0], Reason.RECONSTRUCT_FAILED),
        ("pose", ..., Reason.RECONSTRUCT_FAILED),
        ("frame", "\ud800", Reason.RECONSTRUCT_FAILED),
        ("frame", "x" * 300, Reason.RECONSTRUCT_FAILED),
    ],
)
def test_an_impossible_geometry_is_refused(path: str, value: Any, reason: Reason) -> None:
    with pytest.raises(RecordFault) as refused:
        results.reconstructed(changed(GEOMETRY, path, value), PLY)
    assert refused.value.reason is reason
    assert type(refused.value) is RecordFault  # it would come again
    Failure(code=refused.value.reason.value, message=refused.value.message)  # it can be told


def test_a_volume_beyond_any_float_is_refused() -> None:
    with pytest.raises(RecordFault):
        results.reconstructed(changed(GEOMETRY, "volume", 10**400), PLY)


@pytest.mark.parametrize("payload", [b"", PLY[:-1], PLY[:-4] + np.float32(np.nan).tobytes()])
def test_a_ply_that_is_not_what_the_header_says_is_refused(payload: bytes) -> None:
    with pytest.raises(RecordFault) as refused:
        results.reconstructed(GEOMETRY, payload)
    assert refused.value.reason is Reason.BAD_GEOMETRY


FOUND: dict[str, Any] = {
    "label": "chair",
    "confidence": 0.9,
    "box": [1, 1, 3.5, 4],
    "mask": masks.encode(np.pad(np.ones((3, 2), bool), ((1, 2), (1, 5)))),
    "area_px": 6,
}


def test_objects_pass_as_they_are() -> None:
    objects, times = results.found({"objects": [FOUND, FOUND], "times": {"infer_s": 0.1}}, WIDTH, HEIGHT, 2)
    assert [one.box for one in objects] == [[1, 1, 3.5, 4]] * 2
    assert times == {"infer_s": 0.1}
    assert results.found({"objects": []}, WIDTH, HEIGHT, 2) == ([], {})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("label", ""),
        ("label", "\udc80"),
        ("label", 5),
        ("label", "x" * 129),
        ("confidence", NAN),
        ("confidence", 1.01),
        ("confidence", "0.9"),
        ("box", [NAN, 1, 3, 4]),
        ("box", [1, 1, INF, 4]),
        ("box", [1, 1, 3]),
        ("box", [3, 1, 1, 4]),
        ("box", {}),
        ("mask", None),
        ("mask.size", [WIDTH, HEIGHT]),
        ("mask.size", [float(HEIGHT), WIDTH]),
        ("mask.counts", "not run lengths"),
        ("mask.counts", "0"),
        ("mask.counts", ...),
        ("area_px", -1),
        ("area_px", NAN),
        ("area_px", ...),
    ],
)
def test_an_impossible_object_is_refused(path: str, value: Any) -> None:
    with pytest.raises(RecordFault, match="object 1 of the detector") as refused:
        results.found({"objects": [FOUND, changed(FOUND, path, value)]}, WIDTH, HEIGHT, 64)
    assert refused.value.reason is Reason.DETECT_FAILED
    assert type(refused.value) is RecordFault
    Failure(code=refused.value.reason.value, message=refused.value.message)


@pytest.mark.parametrize("header", [{}, {"objects": {}}, {"objects": None}, {"objects": [FOUND] * 3}])
def test_no_list_or_too_long_a_list_of_objects_is_refused(header: dict[str, Any]) -> None:
    with pytest.raises(RecordFault) as refused:
        results.found(header, WIDTH, HEIGHT, 2)
    assert refused.value.reason is Reason.DETECT_FAILED


@pytest.mark.parametrize(
    "times", [[], None, {"a": NAN}, {"a": -1}, {"a": INF}, {"a": "1"}, {"\ud800": 1}, {"a": 10**400}, {"a": True}]
)
def test_times_that_are_none_cost_the_photo_nothing(times: Any) -> None:
    assert results.found({"objects": [FOUND], "times": times}, WIDTH, HEIGHT, 64)[1] == {}


@pytest.mark.parametrize("busy_s", [NAN, INF, -1.0, 10**400])
def test_an_answer_that_took_no_possible_time_is_none(busy_s: float) -> None:
    assert read_answer({"result": {}, "busy_s": busy_s}) is None


def test_the_words_of_a_fault_can_be_told_whatever_they_are() -> None:
    """A lone half of a surrogate pair is in no event, and the worker would end when it tries to say so."""
    answer = read_answer({"fault": {"code": "odd", "message": "\udc80" + "x" * 5000}, "busy_s": 1})
    assert answer is not None
    with pytest.raises(RecordFault) as fault:
        answer.raise_failure(Reason.RECONSTRUCT_FAILED)
    Failure(code=fault.value.reason.value, message=fault.value.message[:1000])


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"info": []},
        {"info": {}, "times": 3},
        {"info": {}, "times": {"a": "x"}},
        {"fault": 7},
        {"fault": {"code": 1}},
    ],
)
def test_what_has_not_the_form_of_an_init_is_none(header: dict[str, Any]) -> None:
    assert read_loaded(header) is None


def test_an_init_says_what_was_loaded_or_why_not() -> None:
    loaded = read_loaded({"info": {"model": "x"}, "times": {"load_s": 1}})
    assert loaded is not None
    assert (loaded.info, loaded.times, loaded.fault) == ({"model": "x"}, {"load_s": 1.0}, None)
    failed = read_loaded({"fault": {"code": "weights_missing", "message": "no"}})
    assert failed is not None
    assert failed.fault == ("weights_missing", "no")
