"""Reconstruction from silhouettes of shapes whose size is known, seen by the pinhole camera that the model assumes.

Truth is in the model's unit: the depth of the object's middle is 1. The tolerances are derived where they are used.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stream_worker.geometry import gaussians, masks, rotations
from stream_worker.geometry.pointmap import Pinhole
from stream_worker.models.protocol import ModelFault
from stream_worker.models.silhouette import Silhouette, reconstruct

SETTINGS = {"max_gaussians": 4000, "grid": 256}


def rays(width, height):
    u, v = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
    return Pinhole.of(width, height).points(u, v)


def sphere(directions, centre, radius):
    along = directions @ centre
    return along**2 - (directions**2).sum(axis=-1) * (centre @ centre - radius**2) >= 0


def cylinder(directions, depth, radius, half_height):
    """An upright cylinder on the optical axis."""
    x, y, z = np.moveaxis(directions, -1, 0)
    a, b, c = x * x + z * z, z * depth, depth**2 - radius**2
    root = np.sqrt(np.clip(b * b - a * c, 0, None))
    near, far = (b - root) / a, (b + root) / a
    # Between entry and exit the ray must be at a height that the cylinder has.
    low, high = np.minimum(y * near, y * far), np.maximum(y * near, y * far)
    return (b * b >= a * c) & (low <= half_height) & (high >= -half_height)


def of(mask, settings=SETTINGS, photo=None):
    photo = np.full((*mask.shape, 3), 128, np.uint8) if photo is None else photo
    header, ply = reconstruct(photo, masks.encode(mask), settings)
    return header, gaussians.from_ply(ply)


def in_camera(header, model):
    """The Gaussians' centres in the camera's frame, by the pose."""
    pose = header["pose"]
    turn = rotations.to_matrix(np.array(pose["rotation"]))
    return pose["scale"] * model.positions.astype(float) @ turn.T + np.array(pose["translation"])


def sides(header):
    return tuple(header["oriented_box"][side] for side in ("width", "depth", "height"))


def ball(radius):
    return 4 / 3 * np.pi * radius**3


@pytest.mark.parametrize("radius", [0.05, 0.1, 0.15])
def test_a_sphere_has_its_size_and_volume(radius):
    # The silhouette's cone touches the sphere at radius / cos(a) on the plane through its centre, sin(a) = radius.
    header, _ = of(sphere(rays(1024, 768), np.array([0, 0, 1.0]), radius))
    seen = radius / np.sqrt(1 - radius**2)
    assert sides(header) == pytest.approx([2 * seen] * 3, rel=0.015)
    assert header["volume"] == pytest.approx(ball(seen), rel=0.015)
    # So against the truth: 0.4 % too much at 0.05, 1.5 % at 0.1, 3.4 % at 0.15, and the resolution's share.
    assert header["volume"] == pytest.approx(ball(radius), rel=0.05)


@pytest.mark.parametrize(("x", "y"), [(0.4, 0.0), (-0.4, 0.25), (0.0, 0.3), (-0.35, -0.3)])
def test_a_sphere_at_the_photos_edge_has_the_size_it_has_in_the_middle(x, y):
    # Off the axis its image is an ellipse, up to 30 % larger than in the middle if measured on the flat pointmap.
    centre = np.array([x, y, 1.0])
    header, model = of(sphere(rays(1280, 960), centre, 0.08))
    assert header["volume"] == pytest.approx(ball(0.08), rel=0.05)
    assert sides(header) == pytest.approx([0.16] * 3, rel=0.03)
    np.testing.assert_allclose(header["oriented_box"]["center"], centre, atol=0.005)
    distances = np.linalg.norm(in_camera(header, model) - centre, axis=1)
    assert distances == pytest.approx(0.08, rel=0.06)


@pytest.mark.parametrize(("radius", "half_height"), [(0.03, 0.1), (0.03, 0.2), (0.02, 0.3)])
def test_an_upright_cylinder_has_its_size_and_volume(radius, half_height):
    # The nearer half of its rim hides the farther one: the silhouette is higher by 1 / (1 - radius), and wider by
    # 1 / cos(a) as the sphere's. Together 3.1 % at a radius of 0.03; the rest is the resolution's.
    header, _ = of(cylinder(rays(2048, 2048), 1.0, radius, half_height))
    assert sides(header) == pytest.approx((2 * radius, 2 * radius, 2 * half_height / (1 - radius)), rel=0.02)
    assert header["volume"] == pytest.approx(np.pi * radius**2 * 2 * half_height, rel=0.05)


@pytest.mark.parametrize(("width", "height"), [(200, 300), (300, 200), (240, 240), (501, 301)])
def test_a_box_has_its_front_and_the_stated_depth(width, height):
    mask = np.zeros((601, 801), bool) if width % 2 else np.zeros((600, 800), bool)
    top, left = (mask.shape[0] - height) // 2, (mask.shape[1] - width) // 2
    mask[top : top + height, left : left + width] = True
    header, _ = of(mask)
    focal = 0.9 * mask.shape[1]
    # One view of the front can't tell the depth: it is min(width, height), with a round cross-section.
    depth = min(width, height) / focal
    assert sides(header) == pytest.approx((width / focal, depth, height / focal), rel=1e-9)
    assert header["volume"] == pytest.approx(np.pi / 4 * depth**2 * max(width, height) / focal, rel=1e-9)
    np.testing.assert_allclose(header["oriented_box"]["center"], [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(header["oriented_box"]["rotation"], [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-9)


def test_size_does_not_depend_on_the_resolution():
    volumes = [of(sphere(rays(4 * n, 3 * n), np.array([0.1, 0, 1.0]), 0.1))[0]["volume"] for n in (40, 160, 700)]
    assert volumes == pytest.approx([volumes[-1]] * 3, rel=0.02)


def test_the_pose_puts_the_gaussians_into_the_box_and_before_their_pixels():
    mask = sphere(rays(640, 480), np.array([0.2, -0.1, 1.0]), 0.1)
    header, model = of(mask)
    points, box = in_camera(header, model), header["oriented_box"]
    local = np.abs((points - box["center"]) @ np.array(box["rotation"]).T)
    assert (local <= np.array(sides(header)) / 2 * 1.0001).all()
    u, v = Pinhole.of(640, 480).pixels(points)
    rows, columns = np.nonzero(mask)
    assert np.mean(mask[np.rint(v).astype(int), np.rint(u).astype(int)]) > 0.9
    assert (np.mean(u), np.mean(v)) == pytest.approx((columns.mean(), rows.mean()), abs=3)


def test_the_gaussians_lie_upright_and_centred_in_the_objects_frame():
    mask = np.zeros((480, 640), bool)
    mask[100:400, 300:340] = True
    photo = np.zeros((480, 640, 3), np.uint8)
    photo[:250] = (255, 0, 0)
    photo[250:, :320] = (0, 255, 0)
    photo[250:, 320:] = (0, 0, 255)
    _, model = of(mask, photo=photo)
    assert np.ptp(model.positions, axis=0).max() == pytest.approx(1, abs=0.01)
    assert np.abs(model.positions).max() <= 0.5 + 1e-6
    colours = gaussians.sh_dc_to_rgb(model.sh_dc)
    x, y, _ = model.positions.T
    assert (colours[y > 0.02] == (255, 0, 0)).all()
    assert (colours[(y < -0.02) & (x < -0.02)] == (0, 255, 0)).all()
    assert (colours[(y < -0.02) & (x > 0.02)] == (0, 0, 255)).all()


def test_the_back_mirrors_the_front():
    _, model = of(sphere(rays(320, 240), np.array([0.1, 0.1, 1.0]), 0.1))
    half = len(model) // 2
    np.testing.assert_array_equal(model.positions[half:], model.positions[:half] * np.float32([1, 1, -1]))
    np.testing.assert_array_equal(model.sh_dc[half:], model.sh_dc[:half])
    assert (model.positions[:half, 2] >= 0).all()  # the front is the half towards the viewer


def test_gaussians_are_flat_and_lie_along_the_surface():
    _, model = of(sphere(rays(640, 480), np.array([0, 0, 1.0]), 0.1))
    assert (model.scales[:, 2] < model.scales[:, :2].min(axis=1) - 1).all()
    thin = rotations.to_matrix(model.rotations.astype(float))[:, :, 2]
    outward = model.positions / np.linalg.norm(model.positions, axis=1, keepdims=True)
    assert np.median((thin * outward).sum(axis=1)) > 0.99


def test_one_pixel_is_a_speck_of_its_size():
    mask = np.zeros((480, 640), bool)
    mask[240, 320] = True
    header, model = of(mask)
    pixel = 1 / (0.9 * 640)
    assert sides(header) == pytest.approx([pixel] * 3, rel=0.01)
    assert header["volume"] == pytest.approx(np.pi / 4 * pixel**3, rel=0.01)
    assert header["gaussians"] == len(model) > 0


def test_a_mask_over_the_whole_photo_is_cut_off_at_its_border():
    header, _ = of(np.ones((480, 640), bool))
    focal = 0.9 * 640
    assert sides(header) == pytest.approx((640 / focal, 480 / focal, 480 / focal))


def test_two_parts_share_one_box():
    mask = np.zeros((480, 640), bool)
    mask[140:340, 120:220] = mask[140:340, 420:520] = True
    header, _ = of(mask)
    focal = 0.9 * 640
    assert sides(header) == pytest.approx((400 / focal, 200 / focal, 200 / focal))
    # It is wider than high, so it is swept along its width, over the gap.
    assert header["volume"] == pytest.approx(np.pi / 4 * 200**2 * 200 / focal**3)


def test_a_line_thinner_than_a_cell_is_not_lost():
    mask = np.zeros((3000, 4000), bool)
    mask[np.arange(200, 2200), np.arange(1000, 3000)] = True
    header, model = of(mask, {"max_gaussians": 4000, "grid": 16})
    assert len(model) > 0
    assert sides(header)[0] == pytest.approx(2000 / 3600, rel=0.1)


def test_the_number_of_gaussians_is_bounded():
    mask = sphere(rays(4000, 3000), np.array([0, 0, 1.0]), 0.3)
    for most in (2, 100, 5000):
        header, model = of(mask, {"max_gaussians": most, "grid": 256})
        assert header["gaussians"] == len(model) == most


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)).filter(np.any), st.integers(16, 40))
@settings(max_examples=100, deadline=None)
def test_any_mask_gives_a_sound_result(mask, grid):
    header, model = of(mask, {"max_gaussians": 200, "grid": grid})
    gaussians.check(model)
    assert header["gaussians"] == len(model) <= 200
    assert min(sides(header)) > 0
    assert 0 < header["volume"] <= np.prod(sides(header)) * (1 + 1e-9)
    json.dumps(header, allow_nan=False)


# ---- as the child process calls it ----


@pytest.fixture
def task(tmp_path):
    photo = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    path = tmp_path / "photo"
    path.write_bytes(photo.tobytes())
    mask = np.zeros((48, 64), bool)
    mask[10:40, 20:40] = True
    return {"pixels": str(path), "width": 64, "height": 48, "mask": masks.encode(mask), "label": "box", "settings": {}}


@pytest.fixture
def model():
    silhouette = Silhouette()
    silhouette.load({})
    silhouette.warm_up()
    return silhouette


def test_what_the_model_says_of_itself():
    info = Silhouette().load({"max_gaussians": 500, "seed": 42})
    assert info == {
        "model": "silhouette",
        "version": "1",
        "weights_sha256": None,
        "settings": {"max_gaussians": 500, "grid": 256},
    }


def test_a_task_is_answered_with_header_and_ply(model, task):
    header, ply = model.infer(task, b"")
    assert set(header) == {
        *("gaussians", "frame", "unit", "oriented_box", "volume", "volume_method", "pose", "times"),
    }
    assert header["gaussians"] == len(gaussians.from_ply(ply))
    assert header["times"]["infer_s"] > 0
    assert "OpenCV" in header["frame"]
    assert header["unit"] == "relative: depth of the pinhole plane"
    json.dumps(header, allow_nan=False)


def test_equal_tasks_give_equal_bytes(model, task):
    first, second = model.infer(task, b""), model.infer(task, b"")
    assert first[1] == second[1]
    assert {**first[0], "times": None} == {**second[0], "times": None}


def test_settings_of_the_task_win_over_those_of_the_load(task):
    silhouette = Silhouette()
    silhouette.load({"max_gaussians": 300})
    assert silhouette.infer(task, b"")[0]["gaussians"] == 300
    assert silhouette.infer(task | {"settings": {"max_gaussians": 50}}, b"")[0]["gaussians"] == 50
    assert silhouette.infer(task, b"")[0]["gaussians"] == 300


@pytest.mark.parametrize("value", [0, -1, 10**9, 1.5, "many", True, None])
def test_a_setting_out_of_bounds_is_refused(value):
    with pytest.raises(ModelFault, match=r"silhouette: max_gaussians must be a whole number from 2 to 2000000"):
        Silhouette().load({"max_gaussians": value})


def test_an_empty_mask_is_a_fault_of_its_own(model, task):
    with pytest.raises(ModelFault) as fault:
        model.infer(task | {"mask": masks.encode(np.zeros((48, 64), bool))}, b"")
    assert fault.value.code == "empty_mask"


@pytest.mark.parametrize(
    "change",
    [
        {"mask": masks.encode(np.ones((64, 48), bool))},
        {"mask": {"size": [48, 64], "counts": "oooo"}},
        {"mask": {}},
        {"mask": None},
        {"mask": "mask"},
        {"width": 65},
        {"height": 47},
        {"width": 0, "height": 0},
        {"settings": {"grid": 10**6}},
    ],
    ids=str,
)
def test_a_task_that_does_not_fit_together_is_a_fault(model, task, change):
    with pytest.raises(ModelFault) as fault:
        model.infer(task | change, b"")
    assert fault.value.code == "bad_geometry"
    assert "\n" not in fault.value.message


def test_a_photo_that_is_gone_is_no_fault_of_the_task(model, task):
    with pytest.raises(FileNotFoundError):
        model.infer(task | {"pixels": task["pixels"] + "-gone"}, b"")


def test_the_model_imports_nothing_of_the_service():
    heavy = ["pydantic", "structlog", "aiokafka", "torch", "scipy", "cv2", "matplotlib", "PIL"]
    code = f"import sys, stream_worker.models.silhouette; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
