"""Real networks of every kind, in a model's process: what is found, and that nothing is fetched from anywhere.

The weights are random: these tests are about everything around them. What the shipped weights find is
tested with rendered scenes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from stream_worker.errors import Exit, Reason, RecordFault, UserError
from stream_worker.geometry import masks
from stream_worker.images.pixels import Pixels
from stream_worker.models.batches import Batches
from stream_worker.models.environment import compute_limits
from stream_worker.models.host import ModelHost
from tests.integration.staged_networks import KINDS, NAMES

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {
    "weights_sha256": None,
    "classes": None,
    "confidence": 0.0,
    "iou": 0.5,
    "agnostic_nms": True,
    "max_objects": 12,
    "image_size": 320,
    "min_box_px": 0,
    "batch": 1,
    "half": True,
    "device": "cpu",
    "threads": 1,
}

Detect = Callable[..., Awaitable[dict[str, Any]]]

# One loop for the file, so that one process can load every network: importing torch takes seconds.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, a photo, and what ultralytics draws on it."""
    folder = tmp_path_factory.mktemp("networks")
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.staged_networks", str(folder)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def detect(networks: Path) -> AsyncIterator[Detect]:
    """`await detect(weights, pixels, asked classes, **options)`: the answer, with the model's `info`."""
    host = ModelHost(
        name="detector",
        model="tests.integration.staged_networks:Loader",
        env={**compute_limits(threads=1, device="cpu"), "PYTHONPATH": str(ROOT)},
        fault_reason=Reason.DETECT_FAILED,
    )

    async def detect_with(
        weights: str, pixels: Pixels, asked: list[str] | None = None, **options: Any
    ) -> dict[str, Any]:
        settings = {**OPTIONS, **options, "weights": str(networks / weights)}
        result = await host.infer({"options": settings, "task": {"photos": [_task(pixels, asked)]}})
        (answer,) = json.loads(result.payload)
        if "fault" in answer:
            raise RecordFault(Reason.DETECT_FAILED, "{code}: {message}".format(**answer["fault"]))
        return {**result.header, **answer}

    async with host:
        yield detect_with


def _host(weights: Path, **options: Any) -> ModelHost:
    return ModelHost(
        name="detector",
        model="stream_worker.models.yolo.adapter:Yolo",
        options={**OPTIONS, **options, "weights": str(weights)},
        env=compute_limits(threads=1, device="cpu"),
        fault_reason=Reason.DETECT_FAILED,
    )


@pytest.fixture
def pixels(networks: Path, tmp_path: Path) -> Pixels:
    return _pixels(np.load(networks / "photo.npy"), tmp_path)


def _pixels(photo: NDArray[np.uint8], folder: Path) -> Pixels:
    path = folder / f"{photo.shape}.rgb"
    photo.tofile(path)
    return Pixels(str(path), photo.shape[1], photo.shape[0])


def _task(pixels: Pixels, classes: list[str] | None = None) -> dict[str, Any]:
    return {"pixels": pixels.path, "width": pixels.width, "height": pixels.height, "classes": classes}


def _sound(objects: list[dict[str, Any]], pixels: Pixels) -> None:
    """What holds for every list of objects."""
    order = [(-one["confidence"], one["box"], one["label"]) for one in objects]
    assert order == sorted(order)
    for one in objects:
        x0, y0, x1, y1 = one["box"]
        assert 0 <= x0 < x1 <= pixels.width
        assert 0 <= y0 < y1 <= pixels.height
        mask = masks.decode(masks.validate(one["mask"]))
        assert mask.shape == (pixels.height, pixels.width)
        assert mask.sum() == one["area_px"] > 0
        left, top, right, bottom = masks.box(one["mask"])
        assert (left + 0.5 >= x0, right - 0.5 <= x1) == (True, True)
        assert (top + 0.5 >= y0, bottom - 0.5 <= y1) == (True, True)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_network_draws_the_masks_that_ultralytics_draws_the_slow_way(
    networks: Path, detect: Detect, pixels: Pixels, kind: str
) -> None:
    first = await detect(f"{kind}.pt", pixels)
    objects, info = first["objects"], first["info"]
    assert objects
    assert objects == (await detect(f"{kind}.pt", pixels))["objects"]
    assert set(first["times"]) == {"infer_s", "masks_s"}
    _sound(objects, pixels)
    assert info["model"] == kind
    assert info["weights_sha256"] == hashlib.sha256((networks / f"{kind}.pt").read_bytes()).hexdigest()
    assert info["version"].startswith("ultralytics 8")
    if kind.startswith("yoloe"):
        assert info["classes"] == sorted(NAMES)

    slow = np.load(networks / f"{kind}.npz")
    for one in objects:
        distances = np.abs(slow["boxes"] - one["box"]).max(axis=1) + np.abs(slow["confidences"] - one["confidence"])
        nearest = int(distances.argmin())
        assert distances[nearest] < 0.02
        # The line of pixels that a box cuts is the one difference: ours goes by the pixels' centres.
        x0, y0, x1, y1 = (int(side) for side in one["box"])
        inner = (slice(y0 + 1, max(y0 + 1, y1 - 1)), slice(x0 + 1, max(x0 + 1, x1 - 1)))
        ours, theirs = masks.decode(one["mask"])[inner], slow["masks"][nearest][inner]
        assert (ours & theirs).sum() >= 0.995 * (ours | theirs).sum()


async def test_the_square_is_the_one_that_ultralytics_makes(networks: Path) -> None:
    """Else the network sees another picture than in its training."""
    assert (networks / "squares.txt").read_text() == "8 squares are equal"


async def test_what_is_said_of_a_photo_does_not_depend_on_those_that_came_with_it(networks: Path) -> None:
    """Bit for bit: the network always sees as many squares, and each photo has an NMS of its own.

    That of ultralytics gives up on the last photos of a batch after a while; and takes six boxes for a network's that
    needs none.
    """
    said = json.loads((networks / "together.json").read_text())
    assert min(said["objects"]) > 3
    assert said["as alone"] == [True] * 4
    assert said["own classes"] == [[0.0], [2.0], []]
    assert said["hurried"] == [True] * 3
    assert said["six"] == 6


@pytest.mark.parametrize("threads", [1, 2])
async def test_the_network_has_the_threads_that_are_set(detect: Detect, pixels: Pixels, threads: int) -> None:
    """ultralytics sets its own number, from that of the cores, when it is told the device."""
    answer = await detect("yolo11n-seg.pt", pixels, threads=threads)
    assert answer["info"]["threads"] == min(threads, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("width", "height"), [(1920, 1080), (1080, 1920), (800, 600), (1201, 777), (33, 1001), (1, 1), (2000, 1)]
)
async def test_photos_of_any_shape(detect: Detect, tmp_path: Path, width: int, height: int) -> None:
    photo = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = _pixels(photo, tmp_path)
    _sound((await detect("yolo11n-seg.pt", pixels))["objects"], pixels)


async def test_options_narrow_what_is_found(detect: Detect, pixels: Pixels) -> None:
    weights = "yoloe-11s-seg.pt"
    narrow: dict[str, Any] = {"classes": ["sofa"], "max_objects": 3, "min_box_px": 200}
    objects = (await detect(weights, pixels, **narrow))["objects"]
    assert 0 < len(objects) <= 3
    assert {one["label"] for one in objects} == {"sofa"}
    assert all(min(one["box"][2] - one["box"][0], one["box"][3] - one["box"][1]) >= 200 for one in objects)
    lamps = (await detect(weights, pixels, ["floor lamp"], **narrow))["objects"]
    assert {one["label"] for one in lamps} == {"floor lamp"}
    assert (await detect(weights, pixels, [], **narrow))["objects"] == []
    with pytest.raises(RecordFault, match="no class 'piano'; they know: chair, floor lamp, sofa") as fault:
        await detect(weights, pixels, ["piano"], **narrow)
    assert fault.value.reason is Reason.DETECT_FAILED
    assert (await detect(weights, pixels, **narrow))["objects"] == objects
    assert (await detect(weights, pixels, confidence=1.0))["objects"] == []


async def test_classes_that_mean_the_same_have_one_label(detect: Detect, pixels: Pixels) -> None:
    weights = "yoloe-11s-seg.pt"
    everything = (await detect(weights, pixels))["objects"]
    assert {"sofa", "chair"} <= {one["label"] for one in everything}
    told: dict[str, Any] = {"synonyms": {"sofa": "seat", "chair": "seat"}}
    seats = (await detect(weights, pixels, **told))["objects"]
    same = {"sofa": "seat", "chair": "seat"}
    assert [one["label"] for one in seats] == [same.get(one["label"], one["label"]) for one in everything]
    asked = (await detect(weights, pixels, ["seat"], **told))["objects"]
    assert {one["label"] for one in asked} == {"seat"}
    assert {one["label"] for one in (await detect(weights, pixels, ["sofa"], **told))["objects"]} == {"seat"}
    with pytest.raises(RecordFault, match=r"classes_unknown: .* no class 'couch'"):
        await detect(weights, pixels, synonyms={"couch": "sofa"})


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("missing.pt", {}, "weights_missing: no weights at"),
        ("yolo11n-seg.pt", {"weights_sha256": "0" * 64}, "weights_mismatch: .* is asked for"),
        ("yolo11n.pt", {}, "weights_unusable: .* a segmentation model is needed"),
        ("yoloe-11s-seg-without-names.pt", {}, "weights_unusable: .* without class names"),
        ("yoloe-26s-seg-without-names.pt", {}, "weights_unusable: .* without class names"),
        ("broken.pt", {}, "weights_unusable: .* can't be loaded"),
        ("pickle.pt", {}, "weights_unusable: .* can't be loaded"),
        ("model.onnx", {}, r"weights_unusable: .* weights are a \.pt file"),
        ("yolo11n-seg.pt", {"classes": ["sofa"]}, "classes_unknown: .* no class 'sofa'"),
        ("yolo11n-seg.pt", {"device": "cuda"}, "device_missing: .* finds no such GPU"),
    ],
)
async def test_what_is_wrong_with_the_weights_or_options_is_one_line(
    networks: Path, detect: Detect, pixels: Pixels, name: str, options: dict[str, Any], complaint: str
) -> None:
    (networks / "broken.pt").write_bytes(b"PK\x03\x04 not really")
    (networks / "model.onnx").touch()
    (networks / "pickle.pt").write_bytes(f"cposix\nsystem\n(S'touch {networks}/it-ran'\ntR.".encode())
    with pytest.raises(RecordFault, match=complaint) as error:
        await detect(name, pixels, **options)
    assert "\n" not in str(error.value)
    assert not (networks / "it-ran").exists()


async def test_a_photo_of_twelve_megapixels_with_fifty_objects_fits_into_its_memory(
    networks: Path, tmp_path: Path
) -> None:
    """Masks in full resolution, one box at a time: never all of them at once."""
    coarse = np.load(networks / "photo.npy")
    pixels = _pixels(np.ascontiguousarray(np.tile(coarse, (5, 4, 1))[:3000, :4000]), tmp_path)
    host = _host(networks / "yoloe-11s-seg.pt", max_objects=60, iou=0.95)
    async with host, Batches(host, 0) as batches:
        objects = (await batches.infer(_task(pixels)))["objects"]
        status = Path(f"/proc/{host.pid}/status").read_text()
    assert len(objects) >= 50
    assert sum(one["area_px"] for one in objects) > 4000 * 3000
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak) * 1024 <= 1.5 * 2**30, f"{int(peak) / 1024:.0f} MiB at the peak"


async def test_an_official_name_that_is_not_there_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no weights at") as error:
        await _host(Path("yolo11n-seg.pt")).start()
    assert error.value.exit_code is Exit.WEIGHTS
    assert list(tmp_path.iterdir()) == []


async def test_nothing_is_written_where_it_is_run(
    networks: Path, pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    async with _host(networks / "yolo11n-seg.pt") as host, Batches(host, 0) as batches:
        _sound((await batches.infer(_task(pixels)))["objects"], pixels)
    assert [str(path) for folder in (home, here) for path in folder.rglob("*")] == []
