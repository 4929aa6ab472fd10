"""The sandboxed decoder: hostile bytes in, upright RGB or one clear reason out."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import struct
import subprocess
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

from stream_worker.errors import Reason, RecordFault, TransientFault
from stream_worker.images import decode as decode_module
from stream_worker.images.decode import Decoder
from stream_worker.settings import Images

MAX_PIXELS = 4_000_000


@pytest.fixture
async def decoder() -> AsyncIterator[Decoder]:
    async with Decoder(Images(max_pixels=MAX_PIXELS)) as started:
        yield started


def picture(width: int = 60, height: int = 40) -> npt.NDArray[np.uint8]:
    """Smooth, and different in every corner and channel."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + y) * 127 // max(1, width + height - 2)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def encoded(image: Image.Image | npt.NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


async def pixels_of(decoder: Decoder, data: bytes) -> npt.NDArray[np.uint8]:
    pixels = await decoder.decode(data)
    try:
        return np.array(pixels.array())
    finally:
        pixels.release()


async def refused(decoder: Decoder, data: bytes) -> RecordFault:
    with pytest.raises(RecordFault) as fault:
        (await decoder.decode(data)).release()
    assert "\n" not in fault.value.message
    return fault.value


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


async def test_png_and_lossless_webp_come_out_exactly_and_jpeg_nearly(decoder: Decoder) -> None:
    truth = picture()
    for data in (encoded(truth), encoded(truth, "WEBP", lossless=True)):
        assert np.array_equal(await pixels_of(decoder, data), truth)
    for data in (encoded(truth, "JPEG", quality=95), encoded(truth, "JPEG", progressive=True, quality=95)):
        assert np.abs(await pixels_of(decoder, data) - truth.astype(int)).max() < 24
    assert np.abs(await pixels_of(decoder, encoded(truth, "WEBP", quality=95)) - truth.astype(int)).mean() < 6


async def test_pixels_lie_in_a_private_file_that_is_released(decoder: Decoder) -> None:
    pixels = await decoder.decode(encoded(picture()))
    path = Path(pixels.path)
    assert (pixels.width, pixels.height, path.stat().st_size) == (60, 40, 60 * 40 * 3)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    pixels.release()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_every_exif_orientation_comes_out_upright(decoder: Decoder, kind: str) -> None:
    upright = picture(64, 32)
    # What a camera stores for each orientation, by what EXIF says of row 0 and column 0.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    for orientation, array in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        options: dict[str, Any] = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
        data = encoded(np.ascontiguousarray(array), kind, exif=exif, **options[kind])
        result = await pixels_of(decoder, data)
        assert result.shape == upright.shape, orientation
        assert np.abs(result - upright.astype(int)).max() < 8, orientation


@pytest.mark.parametrize("orientation", [0, 9, 65535])
async def test_an_impossible_orientation_counts_as_none(decoder: Decoder, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(await pixels_of(decoder, encoded(picture(), exif=exif)), picture())


async def test_broken_exif_does_not_cost_the_photo(decoder: Decoder) -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\xff" * 50)
    assert (await pixels_of(decoder, data)).shape == (40, 60, 3)


async def test_16_bit_grey_keeps_its_shades(decoder: Decoder) -> None:
    grey = np.linspace(0, 65535, 60 * 1100).reshape(1100, 60).astype(np.uint16)
    result = await pixels_of(decoder, encoded(grey))
    expected = np.round(grey / 257).astype(np.uint8)
    assert np.array_equal(result, np.stack([expected] * 3, axis=-1))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = await pixels_of(decoder, encoded(grey, exif=exif))
    assert np.array_equal(turned[..., 0], np.rot90(expected, -1))


async def test_16_bit_colour_keeps_its_shades(decoder: Decoder) -> None:
    row = b"\x00" + struct.pack(">3H", 0x1234, 0x8000, 0xFFFF) * 4
    data = png([header(4, 2, depth=16), (b"IDAT", zlib.compress(row * 2)), (b"IEND", b"")])
    assert np.abs((await pixels_of(decoder, data))[0, 0] - np.array([0x12, 0x80, 0xFF])).max() <= 1


async def test_grey_one_bit_and_palette(decoder: Decoder) -> None:
    truth = picture()
    grey = Image.fromarray(truth).convert("L")
    assert np.array_equal(await pixels_of(decoder, encoded(grey)), np.stack([np.asarray(grey)] * 3, axis=-1))
    assert (await pixels_of(decoder, encoded(grey, "JPEG"))).shape == (40, 60, 3)
    one_bit = grey.convert("1")
    assert np.array_equal((await pixels_of(decoder, encoded(one_bit)))[..., 0], np.asarray(one_bit) * np.uint8(255))
    palette = Image.fromarray(truth).quantize(64)
    assert np.array_equal(await pixels_of(decoder, encoded(palette)), np.asarray(palette.convert("RGB")))


async def test_what_is_transparent_is_white_and_hides_its_colour(decoder: Decoder) -> None:
    rgba = np.dstack([picture(), np.full((40, 60), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    rgba[20:, :30, 3] = 128
    for data in (encoded(rgba), encoded(rgba, "WEBP", lossless=True, exact=True)):
        result = await pixels_of(decoder, data)
        assert (result[:20] == 255).all()
        assert np.abs(result[20:, :30] - (rgba[20:, :30, :3] * (128 / 255) + 255 * (127 / 255))).max() <= 1.5
        assert np.array_equal(result[20:, 30:], rgba[20:, 30:, :3])

    grey_alpha = Image.merge("LA", [Image.new("L", (8, 8), 40), Image.new("L", (8, 8), 0)])
    assert (await pixels_of(decoder, encoded(grey_alpha)) == 255).all()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(1, (4, 0, 8, 8))
    result = await pixels_of(decoder, encoded(palette, transparency=0))
    assert (result[:, :4] == 255).all()
    assert (result[:, 4:] == (200, 100, 50)).all()
    assert (await pixels_of(decoder, encoded(Image.new("L", (8, 8), 7), transparency=7)) == 255).all()
    grey16 = np.full((8, 8), 300, np.uint16)
    assert (await pixels_of(decoder, encoded(grey16, transparency=300)) == 255).all()


async def test_cmyk_is_not_inverted(decoder: Decoder) -> None:
    truth = Image.new("RGB", (64, 64), (200, 30, 60))
    result = await pixels_of(decoder, encoded(truth.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(result.astype(int) - (200, 30, 60)).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
async def test_the_first_frame_of_an_animation_is_the_photo(decoder: Decoder, kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (await pixels_of(decoder, data) == (200, 0, 0)).all()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not a JPEG, PNG or WebP"),
        (b"\x00" * 5000, "not a JPEG, PNG or WebP"),
        (b"\xff\xd8\xff", "not a JPEG, PNG or WebP"),
        (b"RIFF\x00\x00\x00\x00WEBP", "not a JPEG, PNG or WebP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG, PNG or WebP"),
        *[
            (encoded(picture(), kind), "not a JPEG, PNG or WebP")
            for kind in ("GIF", "TIFF", "BMP", "PPM", "ICO", "TGA")
        ],
    ],
    ids=lambda value: repr(value[:8]) if isinstance(value, bytes) else "",
)
async def test_what_is_no_photo_is_not_an_image(decoder: Decoder, data: bytes, complaint: str) -> None:
    fault = await refused(decoder, data)
    assert fault.reason is Reason.NOT_AN_IMAGE
    assert complaint in fault.message


async def test_a_truncated_photo_is_not_an_image(decoder: Decoder) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(noise, kind)
        for share in (0.01, 0.3, 0.6, 0.95):
            fault = await refused(decoder, data[: int(len(data) * share)])
            assert fault.reason is Reason.NOT_AN_IMAGE, (kind, share)


async def test_any_damage_gives_pixels_or_a_reason_and_never_ends_the_process(decoder: Decoder) -> None:
    chance = np.random.default_rng(7)
    before = [host.pid for host in decoder._hosts]
    reasons: set[Reason] = set()
    for kind in ("JPEG", "PNG", "WEBP"):
        whole = encoded(picture(), kind)
        for _ in range(60):
            damaged = bytearray(whole)
            for position in chance.integers(0, len(whole), 4):
                damaged[position] = chance.integers(0, 256)
            try:
                (await decoder.decode(bytes(damaged))).release()
            except RecordFault as fault:
                reasons.add(fault.reason)
    assert reasons <= {Reason.NOT_AN_IMAGE, Reason.TOO_LARGE}
    assert [host.pid for host in decoder._hosts] == before


async def test_bombs_are_refused_by_their_header(decoder: Decoder) -> None:
    row = zlib.compress(b"\x00" * 100)
    bomb = png([header(60_000, 60_000), (b"IDAT", row), (b"IEND", b"")])
    wide = png([header(70_000, 1), (b"IDAT", row), (b"IEND", b"")])
    just_over = png([header(2001, 2000), (b"IDAT", row), (b"IEND", b"")])
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    webp = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = b"\xfe\x3f\x00" * 2  # a canvas of 16383 x 16383, which libwebp would allocate
    for data in (bomb, wide, just_over, webp):
        fault = await refused(decoder, bytes(data))
        assert fault.reason is Reason.TOO_LARGE
        assert "limit" in fault.message
    assert (await pixels_of(decoder, encoded(np.zeros((2000, 2000), np.uint8)))).shape == (2000, 2000, 3)


async def test_a_text_bomb_is_refused(decoder: Decoder) -> None:
    text = b"Comment\x00\x00" + zlib.compress(b"\x00" * 200_000_000, 1)
    row = zlib.compress(b"\x00" * 4)
    data = png([header(1, 1), (b"zTXt", text), (b"IDAT", row), (b"IEND", b"")])
    assert (await refused(decoder, data)).reason is Reason.NOT_AN_IMAGE


async def test_a_decoder_that_dies_is_replaced_and_the_photo_may_be_tried_again(decoder: Decoder) -> None:
    big = encoded(np.random.default_rng(0).integers(0, 255, (2000, 2000, 3), dtype=np.uint8))
    host = decoder._hosts[0]
    assert host.pid is not None
    work = asyncio.create_task(decoder.decode(big))
    await asyncio.sleep(0)
    psutil.Process(host.pid).send_signal(signal.SIGSTOP)  # so that it is still at it when the other comes
    os.kill(host.pid, signal.SIGKILL)
    with pytest.raises(TransientFault) as fault:
        (await work).release()
    assert fault.value.reason is Reason.DECODE_FAILED
    assert (await pixels_of(decoder, big)).shape == (2000, 2000, 3)


async def test_nothing_is_left_of_a_cancelled_caller_or_a_failure(decoder: Decoder) -> None:
    folders = [Path(folder.path) for folder in decoder._folders]
    work = asyncio.create_task(decoder.decode(encoded(picture(1500, 1500))))
    await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await refused(decoder, b"broken")
    assert [path.name for folder in folders for path in folder.iterdir()] == [".owner"] * len(folders)


async def test_two_decoders_share_the_work() -> None:
    async with Decoder(Images(max_pixels=MAX_PIXELS, decoders=2)) as decoder:
        photos = [picture(30 + n, 20) for n in range(12)]
        results = await asyncio.gather(*(pixels_of(decoder, encoded(photo)) for photo in photos))
        assert all(np.array_equal(result, photo) for result, photo in zip(results, photos, strict=True))
        assert all(host.counters.tasks > 0 for host in decoder._hosts)


async def test_cpu_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "CPU_PER_TASK_S", 0)  # the kernel's smallest: up to a second
    rows = zlib.compress((b"\x00" + bytes(2 * 65_000)) * 1500, 1)  # takes 3 s
    data = png([header(65_000, 1500, depth=16, colour=0), (b"IDAT", rows), (b"IEND", b"")])
    async with Decoder(Images(max_pixels=100_000_000)) as decoder:
        fault = await refused(decoder, data)
        assert fault.reason is Reason.DECODE_FAILED
        assert "CPU" in fault.message
        assert not isinstance(fault, TransientFault)


async def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "BASE_BYTES", 600 * 2**20)
    monkeypatch.setattr(decode_module, "BYTES_PER_PIXEL", 0)
    async with Decoder(Images()) as decoder:
        fault = await refused(decoder, encoded(Image.new("RGBA", (6300, 6300))))
        assert (fault.reason, type(fault)) == (Reason.DECODE_FAILED, RecordFault)
        assert np.array_equal(await pixels_of(decoder, encoded(picture())), picture())


async def test_the_largest_photos_fit_into_the_limits() -> None:
    async with Decoder(Images()) as decoder:
        size = (6324, 6324)
        exif = Image.Exif()
        exif[0x0112] = 6
        for image in (Image.new("RGBA", size, (9, 8, 7, 255)), Image.new("I;16", size, 5000), Image.new("RGB", size)):
            pixels = await decoder.decode(encoded(image, exif=exif, compress_level=1))
            assert (pixels.width, pixels.height) == size
            pixels.release()


@pytest.fixture
def small_folders(tmp_path: Path) -> Iterator[list[Path]]:
    """Two file systems of 64 KiB."""
    folders = [tmp_path / "shared", tmp_path / "temporary"]
    mounted: list[Path] = []
    try:
        for folder in folders:
            folder.mkdir()
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=False).returncode:
                pytest.skip("can't mount a small tmpfs here")
            mounted.append(folder)
        yield folders
    finally:
        for folder in mounted:
            subprocess.run(["umount", str(folder)], check=False)


async def test_full_shared_memory_is_no_fault_of_the_photo(
    small_folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, temporary = map(str, small_folders)
    monkeypatch.setattr(decode_module, "SHARED_MEMORY", shared)
    async with Decoder(Images(max_pixels=MAX_PIXELS)) as decoder:  # its second folder has room
        pixels = await decoder.decode(encoded(picture(300, 300)))
        assert not pixels.path.startswith(shared)
        pixels.release()
    monkeypatch.setattr(decode_module.tempfile, "gettempdir", lambda: temporary)
    async with Decoder(Images(max_pixels=MAX_PIXELS)) as decoder:
        fault = await refused(decoder, encoded(picture(300, 300)))
        assert (fault.reason, type(fault)) == (Reason.DECODE_FAILED, TransientFault)
        assert "no room" in fault.message
        assert np.array_equal(await pixels_of(decoder, encoded(picture())), picture())


async def test_without_shared_memory_the_temporary_folder_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(decode_module, "SHARED_MEMORY", "/nowhere")
    async with Decoder(Images(max_pixels=MAX_PIXELS)) as decoder:
        assert np.array_equal(await pixels_of(decoder, encoded(picture())), picture())


async def test_the_folders_end_with_the_decoder() -> None:
    async with Decoder(Images(max_pixels=MAX_PIXELS)) as decoder:
        folders = [Path(folder.path) for folder in decoder._folders]
        pixels = await decoder.decode(encoded(picture()))
    assert not any(folder.exists() for folder in folders)
    pixels.release()
