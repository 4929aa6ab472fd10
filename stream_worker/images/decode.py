"""Photos out of untrusted bytes, by sandboxed processes: the parent's side of `decoding.py`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import uuid
from types import TracebackType
from typing import Self

from stream_worker.errors import Reason, RecordFault, TransientFault
from stream_worker.images.pixels import Pixels
from stream_worker.models.environment import compute_limits
from stream_worker.models.host import ModelHost, ModelResult
from stream_worker.models.scratch import SHARED_MEMORY, ScratchFolder
from stream_worker.settings import Images

CPU_PER_TASK_S = 15
"""40 megapixels take 1 s (JPEG) to 4 s (PNG); a file that takes longer wants to."""

WALL_PER_TASK_S = 60.0
LOAD_TIMEOUT_S = 60.0

BASE_BYTES = 1024 * 1024 * 1024
BYTES_PER_PIXEL = 24
"""Address space: the interpreter with its libraries, and up to five copies of the picture (16-bit grey)."""


class Decoder:
    """As many decoding processes as `images.decoders` says, behind one method.

    Use as an async context manager: it starts and ends the processes and the folders for the pixels.
    """

    def __init__(self, settings: Images) -> None:
        self._max_pixels = settings.max_pixels
        self._hosts = [
            ModelHost(
                name=f"decoder-{number}",
                model="stream_worker.images.decoding:Decoding",
                options={"max_pixels": settings.max_pixels},
                env=compute_limits(threads=1, device="cpu"),
                load_timeout_s=LOAD_TIMEOUT_S,
                task_timeout_s=WALL_PER_TASK_S,
                rss_limit_bytes=BASE_BYTES + BYTES_PER_PIXEL * settings.max_pixels,
                limits={
                    "as": BASE_BYTES + BYTES_PER_PIXEL * settings.max_pixels,
                    "fsize": 3 * settings.max_pixels,
                    "nofile": 64,
                    "cpu_per_task_s": CPU_PER_TASK_S,
                    "no_new_privs": True,
                },
                fault_reason=Reason.DECODE_FAILED,
            )
            for number in range(settings.decoders)
        ]
        self._idle: asyncio.LifoQueue[ModelHost] = asyncio.LifoQueue()
        self._folders: list[ScratchFolder] = []
        self._work: set[asyncio.Task[Pixels]] = set()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._remove_folders)
            for parent in (SHARED_MEMORY, tempfile.gettempdir()):
                with contextlib.suppress(OSError):
                    self._folders.append(ScratchFolder("pixels", parent))
            for host in self._hosts:
                stack.push_async_callback(host.stop)
            await asyncio.gather(*(host.start() for host in self._hosts))
            for host in self._hosts:
                self._idle.put_nowait(host)
            self._resources = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def decode(self, data: bytes) -> Pixels:
        """The upright RGB pixels of a JPEG, PNG or WebP; the caller releases them.

        Raises:
            RecordFault: NOT_AN_IMAGE, TOO_LARGE, or DECODE_FAILED where a limit was hit.
            TransientFault: DECODE_FAILED, when the process died otherwise, or there is no room for the pixels.
            OutageError: no decoder can be started.
        """
        work = asyncio.create_task(self._decode(data))
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_release)  # the child goes on, and nobody waits for what it writes
            raise

    async def _decode(self, data: bytes) -> Pixels:
        name = uuid.uuid4().hex
        targets = [folder.file(name) for folder in self._folders]
        host = await self._idle.get()
        try:
            result = await host.infer({"targets": targets}, data)
            pixels = self._pixels(result, targets)
        except BaseException as error:
            for target in targets:
                with contextlib.suppress(OSError):
                    os.unlink(target)
            if isinstance(error, RecordFault):
                raise _in_our_terms(error) from None
            raise
        finally:
            self._idle.put_nowait(host)
        return pixels

    def _pixels(self, result: ModelResult, targets: list[str]) -> Pixels:
        """What the child says it wrote, if it is so: it read hostile bytes, and may be somebody else's by now."""
        width, height, target = (result.header.get(name) for name in ("width", "height", "target"))
        match (width, height, target):
            case (int(), int(), int()) if (
                0 < width * height <= self._max_pixels
                and width > 0
                and 0 <= target < len(targets)
                and _size(targets[target]) == width * height * 3
            ):
                return Pixels(targets[target], width, height)
        raise RecordFault(Reason.DECODE_FAILED, "the decoder wrote something else than it said")

    def _remove_folders(self) -> None:
        for folder in self._folders:
            folder.remove()
        self._folders.clear()


def _size(path: str) -> int | None:
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def _in_our_terms(fault: RecordFault) -> RecordFault:
    if fault.reason not in (Reason.MODEL_CRASHED, Reason.MODEL_TIMEOUT):
        return fault
    if "SIGXCPU" in fault.message:
        return RecordFault(Reason.DECODE_FAILED, f"decoding takes more than {CPU_PER_TASK_S} s of CPU time")
    return TransientFault(Reason.DECODE_FAILED, fault.message)


def _release(work: asyncio.Task[Pixels]) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().release()
