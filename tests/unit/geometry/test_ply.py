"""A PLY that somebody else wrote: what is none, is empty or holds a NaN gets no further."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from stream_worker.geometry import gaussians, ply
from stream_worker.geometry.gaussians import PROPERTIES, Gaussians


def written(count: int, value: float = 1.0) -> bytes:
    return gaussians.to_ply(
        Gaussians(*(np.full((count, *shape), value, np.float32) for shape in ((3,), (3,), (), (3,), (4,))))
    )


def with_harmonics(count: int) -> bytes:
    """As 3D Gaussian Splatting writes it with harmonics of degree 3: 45 more properties behind the colour."""
    names = [*PROPERTIES[:9], *(f"f_rest_{number}" for number in range(45)), *PROPERTIES[9:]]
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            "comment made elsewhere",
            f"element vertex {count}",
            *(f"property float {name}" for name in names),
            "end_header\n",
        ]
    )
    return header.encode() + np.ones((count, len(names)), "<f4").tobytes()


@pytest.mark.parametrize("count", [1, 7, 5000, 100_000])
def test_what_we_write_ourselves_passes(count: int) -> None:
    assert ply.check(written(count)) == count


def test_further_float_properties_are_accepted() -> None:
    assert ply.check(with_harmonics(9)) == 9


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 17 * 3 + 9, 17 * 50_000 - 1])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(number: float, place: int) -> None:
    data = bytearray(written(50_000))
    start = len(data) - 50_000 * gaussians.STRIDE + 4 * place
    data[start : start + 4] = np.float32(number).tobytes()
    vertex, column = divmod(place, 17)
    with pytest.raises(ValueError, match=rf"{PROPERTIES[column]} of Gaussian {vertex} is not finite"):
        ply.check(bytes(data))


GOOD = written(2)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a binary"),
        (b"ply\n", "not a binary"),
        (written(0), "no Gaussians"),
        (GOOD[:-1], "bytes"),
        (GOOD + b"\0", "bytes"),
        (GOOD.replace(b"vertex 2", b"vertex 9999999999"), "bytes"),
        (GOOD.replace(b"vertex 2", b"vertex 99999999999999999999"), "not a binary"),
        (GOOD.replace(b"vertex 2", b"vertex -2"), "not a binary"),
        (GOOD.replace(b"little", b"big"), "not a binary"),
        (GOOD.replace(b"binary_little_endian", b"ascii"), "not a binary"),
        (GOOD.replace(b"float opacity", b"double opacity"), "not a binary"),
        (GOOD.replace(b"end_header", b"element face 1\nend_header"), "not a binary"),
        (GOOD.replace(b"float opacity", b"float opacitx"), "not those of"),
        (GOOD.replace(b"float y", b"float x"), "not those of"),
        (GOOD.replace(b"float nx\nproperty float ny", b"float ny\nproperty float nx"), "not those of"),
        (GOOD.replace(b"end_header", b"property float a\nproperty float a\nend_header"), "not those of"),
        (GOOD.replace(b"1.0\n", b"1.0\n" + b"comment x\n" * 100_000), "not a binary"),
        (b"ply\nformat binary_little_endian 1.0\ncomment " + b"x" * 10_000_000, "not a binary"),
        (GOOD.replace(b"end_header", b"property float a\n" * 100_000), "not a binary"),
    ],
)
def test_what_is_no_ply_of_gaussians_is_refused_in_one_line_and_costs_no_memory(data: bytes, complaint: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=complaint) as refused:
            ply.check(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refused.value)
