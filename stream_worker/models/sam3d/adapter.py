"""The model class: loads upstream's pipeline once, and reconstructs one object after another with it."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stream_worker.geometry import gaussians, pointmap
from stream_worker.models.gpu_memory import keep_within
from stream_worker.models.protocol import ModelFault
from stream_worker.models.sam3d import checkpoint, pipeline
from stream_worker.models.sam3d.lull import HANDOVER_S, Lull
from stream_worker.models.sam3d.options import Options
from stream_worker.models.sam3d.phases import Phases

if TYPE_CHECKING:  # it needs torch, which may not be here
    from stream_worker.models.sam3d.preprocessing import Ready

VERSION = "cf06676"
"""The commit of upstream's that this was written against."""

LEAST_PX = 16
"""Fewer pixels than this show no shape: upstream would blow them up to a square of 518."""


_NOT_FINITE = re.compile(r"\b(nans?|infs?)\b", re.IGNORECASE)


class Sam3d:
    """SAM 3D Objects, one object at a time (upstream's pipeline is not re-entrant).

    Options: see `options.Options`. A task is `{"pixels": path of height x width x 3 RGB bytes, "width", "height"}`, its
    payload the mask as `numpy.packbits` of the (height, width) rows; `prepare` makes both ready while the object before
    is in work. The answer has `gaussians` (how many), `pose` (upstream's `rotation`, `translation` and `scale`),
    `times` (seconds a phase; `ahead_s` are those of `prepare`), `peak_gpu_bytes` and `voxels`; its body is the PLY
    file, made while the next object is in work. The service measures it: see `result`.

    Faults in loading: `bad_options`, `weights_missing`, `weights_unpinned`, `weights_mismatch`, `weights_refused`,
    `import_failed`, `device_missing`. In a task: `empty_mask`, `mask_too_small`, `bad_mask`, `bad_pointmap`.
    """

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        self._options = Options.of(options)
        folder = Path(self._options.checkpoint).expanduser()
        config = pipeline.configuration(folder)
        lean = pipeline.without_what_is_not_needed(config, self._options)
        began = time.perf_counter()
        sums = checkpoint.pins(Path(self._options.sha256sums).expanduser())
        weights_sha256 = checkpoint.verify(folder, checkpoint.files(lean), sums)
        verified = time.perf_counter()
        self._torch = _torch(self._options.threads)
        device = _device(self._options.device, self._torch)
        keep_within(self._torch, self._options.gpu_memory_mb)
        self._pipeline = pipeline.build(lean, folder, device)
        self._speedups = import_module("stream_worker.models.sam3d.speedups").Speedups(self._pipeline, self._options)
        if self._options.pointmap == "pinhole":
            pipeline.know_the_camera(self._torch)
        self._preprocessing = import_module("stream_worker.models.sam3d.preprocessing").Preprocessing(self._pipeline)
        self._phases = Phases(self._pipeline, self._synchronize)
        self._lull = Lull(self._pipeline)
        loaded = time.perf_counter()
        print(f"verified in {verified - began:.1f} s, loaded in {loaded - verified:.1f} s", file=sys.stderr)
        self._info: dict[str, Any] = {
            "model": "sam-3d-objects",
            "version": VERSION,
            "weights_sha256": weights_sha256,
            "device": device,
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "verify_s": round(verified - began, 3),
            "compiled": False,
            "exact_savings": self._speedups.active,
        }
        return self._info

    def warm_up(self) -> None:
        """Check the exact savings, compile (each where it is on and possible), and run objects that are made up."""
        self._speedups.check(self._run_made_up)
        self._info["exact_savings"] = self._speedups.active
        if self._options.compile and not self._speedups.graphs:  # with them it was measured to gain nothing
            compiling = import_module("stream_worker.models.sam3d.compiling")
            failure = compiling.compile_stages(self._pipeline, self._run_made_up)
            self._info["compiled"] = failure is None
            if failure is not None:
                print(f"runs uncompiled: {failure}", file=sys.stderr)
        for _ in range(self._options.warm_up_runs):
            self._run_made_up()

    def prepare(self, task: dict[str, Any], payload: bytes) -> Ready:
        """The photo and its mask, ready for the GPU."""
        width, height = int(task["width"]), int(task["height"])
        photo = np.memmap(task["pixels"], np.uint8, "r", shape=(height, width, 3))
        self._lull.wait()
        return self._ready(photo, unpacked(payload, width, height))

    def infer(self, task: dict[str, Any], ready: Ready) -> tuple[dict[str, Any], bytes | Callable[[], bytes]]:
        with self._lull.at_work():
            self._phases.start()
            self._reset_peak()
            output = self._run(ready)
            with self._phases.of("decode"):
                table = self._table(output["gaussian"][0])

        def body() -> bytes:
            self._lull.wait(HANDOVER_S)
            return gaussians.table_to_ply(table) + glb

        glb = b"" if output.get("glb") is None else output["glb"].export(file_type="glb")  # a mesh of trimesh
        answer = {
            "gaussians": len(table),
            "pose": {name: _array(output[name]).reshape(-1).tolist() for name in ("rotation", "translation", "scale")},
            "times": self._phases.times() | {"ahead_s": round(ready.seconds, 4)},
            "voxels": len(output["coords"]),
            "peak_gpu_bytes": self._peak(),
        }
        return answer | ({"glb_bytes": len(glb)} if glb else {}), body

    # ------------------------------------------------------------------ upstream's call

    def _ready(self, photo: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Ready:
        height, width = mask.shape
        plane = None
        if self._options.pointmap == "pinhole":
            # Upstream turns its own depth network's points into PyTorch3D's frame, but not those that it is given.
            points = pointmap.to_pytorch3d(pointmap.pointmap(width, height))
            plane = self._torch.from_numpy(points)
        image = np.dstack((photo, np.where(mask, np.uint8(255), np.uint8(0))))
        with _known_faults():
            ready: Ready = self._preprocessing.ready(image, plane)
        return ready

    def _run(self, ready: Ready) -> dict[str, Any]:
        options, given = self._options, self._preprocessing.given(ready)
        with self._torch.inference_mode(False), self._torch.no_grad(), given, _known_faults():
            output: dict[str, Any] = self._pipeline.run(
                ready.image,
                None,
                options.seed,
                stage1_only=False,
                with_mesh_postprocess=options.mesh_postprocess,
                with_texture_baking=options.texture_baking,
                with_layout_postprocess=options.layout_postprocess,
                use_vertex_color=not options.texture_baking,
                stage1_inference_steps=options.stage1_steps,
                stage2_inference_steps=options.stage2_steps,
                pointmap=ready.pointmap,
                decode_formats=options.formats,
            )
        return output

    def _run_made_up(self) -> None:
        """A square in noise, of the size that upstream works on. If its depth is of no use, the noise is at fault."""
        noise = np.random.default_rng(0).integers(0, 255, (518, 518, 3), np.uint8)
        mask = np.zeros((518, 518), np.bool_)
        mask[129:389, 129:389] = True
        try:
            self._run(self._ready(noise, mask))
        except ModelFault as fault:
            print(f"the made-up object: {fault.message}", file=sys.stderr)

    def _table(self, found: Any) -> NDArray[np.float32]:
        """The values that upstream's `save_ply` writes, (N, 17): no vertex by vertex loop, and no infinity.

        It takes the logit of a sigmoid that may have rounded to 1: there, what went into the sigmoid is taken.
        """
        torch = self._torch
        with torch.no_grad():
            opacity = found.get_opacity
            logits = torch.log(opacity / (1 - opacity))
            raw = found._opacity + found.opacity_bias
            columns = (
                *(found.get_xyz, torch.zeros_like(found.get_xyz)),
                found._features_dc.transpose(1, 2).flatten(start_dim=1),
                torch.where(torch.isfinite(logits), logits, raw),
                torch.log(found.get_scaling),
                found._rotation + found.rots_bias[None, :],
            )
            return _array(torch.cat(columns, dim=1))

    # ------------------------------------------------------------------ the device

    def _synchronize(self) -> None:
        if self._torch.cuda.is_available():
            self._torch.cuda.synchronize()

    def _reset_peak(self) -> None:
        if self._torch.cuda.is_available():
            self._torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> int | None:
        return int(self._torch.cuda.max_memory_allocated()) if self._torch.cuda.is_available() else None


def unpacked(payload: bytes, width: int, height: int) -> NDArray[np.bool_]:
    """The mask (height, width). Raises ModelFault for one of another size, with no pixel, or with too few."""
    if len(payload) != (width * height + 7) // 8:
        raise ModelFault("bad_mask", f"a mask of {len(payload)} bytes is not of a photo of {width} x {height}")
    bits = np.unpackbits(np.frombuffer(payload, np.uint8), count=width * height)
    mask = bits.reshape(height, width).astype(np.bool_)
    pixels = int(mask.sum())
    if pixels == 0:
        raise ModelFault("empty_mask", "the mask holds no pixel")
    if pixels < LEAST_PX:
        raise ModelFault("mask_too_small", f"the mask holds {pixels} pixels, and an object has at least {LEAST_PX}")
    return mask


@contextlib.contextmanager
def _known_faults() -> Iterator[None]:
    """Upstream's ways to say that a photo or its depth is of no use, as faults of the task."""
    try:
        yield
    except (ValueError, AssertionError, FloatingPointError) as error:
        text = str(error)
        if _NOT_FINITE.search(text):
            raise ModelFault("bad_pointmap", f"the depth of the photo is not finite: {text[:200]}") from error
        raise


def _torch(threads: int) -> Any:
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise ModelFault("import_failed", f"torch is not installed here: {error}") from error
    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # too late where something has run in parallel already
        torch.set_num_interop_threads(2)
    return torch


def _device(asked: str, torch: Any) -> str:
    """Upstream knows the device `cuda` and, in some of its classes, no other: `cpu` is for its stand-in in tests."""
    if asked == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise ModelFault("device_missing", "SAM 3D Objects needs a CUDA GPU, and torch sees none")
    return "cuda"


def _array(value: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.ascontiguousarray(value.detach().cpu().float().numpy())
    return array
