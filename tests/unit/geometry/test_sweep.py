from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from stream_worker.geometry import sweep

any_mask = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16)).filter(np.any)


def disc(radius, margin=3):
    axis = np.arange(-radius - margin, radius + margin + 1)
    return axis[:, None] ** 2 + axis**2 <= (radius + 0.5) ** 2


def volume_of(solid, cell=(1.0, 1.0)):
    return solid.thickness.sum() * cell[0] * cell[1]


def filled_by_flood(mask):
    grid = np.pad(mask, 1)
    seen, queue = {(0, 0)}, deque([(0, 0)])
    while queue:
        row, column = queue.popleft()
        for step in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = 0 <= step[0] < grid.shape[0] and 0 <= step[1] < grid.shape[1]
            if inside and step not in seen and not grid[step]:
                seen.add(step)
                queue.append(step)
    return np.array([[(r + 1, c + 1) not in seen for c in range(mask.shape[1])] for r in range(mask.shape[0])])


@given(any_mask)
def test_holes_are_filled_as_a_flood_from_outside_would_leave_them(mask):
    np.testing.assert_array_equal(sweep.fill_holes(mask), filled_by_flood(mask))


def test_a_long_spiral_is_not_a_hole():
    spiral = np.zeros((101, 101), bool)
    for ring in range(0, 50, 2):
        spiral[ring, ring : 101 - ring] = spiral[100 - ring, ring : 101 - ring] = True
        spiral[ring : 101 - ring, ring] = spiral[ring : 101 - ring, 100 - ring] = True
        spiral[ring + 1, ring] = False  # a door in every wall
    np.testing.assert_array_equal(sweep.fill_holes(spiral), filled_by_flood(spiral))


@pytest.mark.parametrize("radius", [10, 40, 120])
def test_a_disc_becomes_a_sphere(radius):
    solid = sweep.inflate(disc(radius), (1.0, 1.0), samples=5000)
    assert volume_of(solid) == pytest.approx(4 / 3 * np.pi * (radius + 0.5) ** 3, rel=0.03 if radius < 20 else 0.01)
    from_centre = np.linalg.norm(solid.positions - (solid.low + solid.high) / 2, axis=1)
    assert np.abs(from_centre - (radius + 0.5)).max() < 1.5
    outward = (solid.positions - (solid.low + solid.high) / 2) / from_centre[:, None]
    assert np.median((outward * solid.normals).sum(axis=1)) > 0.99
    assert ((outward * solid.normals).sum(axis=1) > 0.5).all()


@pytest.mark.parametrize(("rows", "columns"), [(90, 30), (30, 90), (40, 40)])
def test_a_rectangle_becomes_a_cylinder_along_its_longer_side(rows, columns):
    solid = sweep.inflate(np.ones((rows, columns), bool), (0.5, 0.5), samples=4000)
    across, along = min(rows, columns) / 2, max(rows, columns) / 2
    assert volume_of(solid, (0.5, 0.5)) == pytest.approx(np.pi / 4 * across**2 * along, rel=1e-9)
    np.testing.assert_allclose(solid.high - solid.low, [columns / 2, rows / 2, across], rtol=1e-9)
    # Both ends are closed.
    axis = 0 if columns > rows else 1
    ends = np.isclose(solid.positions[:, axis], solid.low[axis]) & (solid.normals[:, axis] < -0.9)
    assert ends.sum() > 100


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 30), (30, 1), (2, 2)])
def test_the_thinnest_masks_are_rods(rows, columns):
    solid = sweep.inflate(np.ones((rows, columns), bool), (1.0, 1.0), samples=1000)
    across, along = min(rows, columns), max(rows, columns)
    assert volume_of(solid) == pytest.approx(np.pi / 4 * across**2 * along)
    assert len(solid.positions) > 0
    assert solid.spacing > 0


def test_cells_need_not_be_square():
    solid = sweep.inflate(np.ones((20, 10), bool), (2.0, 3.0), samples=1000)
    assert volume_of(solid, (2.0, 3.0)) == pytest.approx(np.pi / 4 * 20**2 * 60)


def test_a_hole_is_cut_through_and_lined():
    ring = disc(40)
    ring &= ~np.pad(disc(10, 0), 33)
    solid = sweep.inflate(ring, (1.0, 1.0), samples=100_000)
    whole = sweep.inflate(disc(40), (1.0, 1.0), samples=100_000)
    # The tube through a sphere: what is left is a ring of height 2 sqrt(R^2 - r^2) (the napkin ring problem).
    assert volume_of(solid) == pytest.approx(4 / 3 * np.pi * (40.5**2 - 10.5**2) ** 1.5, rel=0.02)
    np.testing.assert_allclose(solid.high - solid.low, (whole.high - whole.low) * [1, 1, 1], atol=3)
    assert (solid.thickness[~ring] == 0).all()
    lining = np.abs(np.linalg.norm(solid.positions[:, :2] - 43.5, axis=1) - 10.5) < 1.5
    inward = ((solid.positions[:, :2] - 43.5) * solid.normals[:, :2]).sum(axis=1) < -5
    assert (lining & inward & (solid.positions[:, 2] > -10)).sum() > 100


def test_parts_are_swept_by_themselves():
    apart = np.zeros((60, 50), bool)
    apart[:, :10] = apart[:, 30:] = True
    solid = sweep.inflate(apart, (1.0, 1.0), samples=1000)
    assert volume_of(solid) == pytest.approx(np.pi / 4 * 60 * (10**2 + 20**2))
    assert solid.high[2] == 10


@given(any_mask)
@settings(max_examples=200)
def test_any_mask_gives_a_sound_solid(mask):
    solid = sweep.inflate(mask, (0.25, 0.25), samples=300)
    assert 0 < len(solid.positions) <= 300
    assert np.isfinite(solid.positions).all()
    np.testing.assert_allclose(np.linalg.norm(solid.normals, axis=1), 1)
    assert mask[solid.cells[:, 0], solid.cells[:, 1]].all()
    assert (solid.positions >= solid.low - 1e-9).all()
    assert (solid.positions <= np.minimum(solid.high, [np.inf, np.inf, 0]) + 1e-9).all()
    assert ((solid.thickness > 0) == mask).all()
    size = solid.high - solid.low
    assert 0 < volume_of(solid, (0.25, 0.25)) <= np.prod(size) + 1e-9


def test_samples_are_spread_evenly():
    solid = sweep.inflate(np.ones((120, 60), bool), (1.0, 1.0), samples=1500)
    side = np.abs(solid.normals[:, 1]) < 0.5
    counts, _ = np.histogram(solid.positions[side, 1], bins=10, range=(0, 120))
    assert counts.min() > 0.8 * counts.mean()
    assert len(solid.positions) == 1500


def test_a_comb_does_not_cost_more_than_its_surface():
    comb = np.zeros((256, 256), bool)
    comb[::2] = True
    assert len(sweep.inflate(comb, (1.0, 1.0), samples=1000).positions) == 1000


@pytest.mark.parametrize("mask", [np.zeros((3, 3), bool), np.zeros((0, 0), bool), np.ones(3, bool)])
def test_an_empty_mask_is_refused(mask):
    with pytest.raises(ValueError, match="empty mask"):
        sweep.inflate(mask, (1.0, 1.0), samples=10)
