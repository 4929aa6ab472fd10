"""The demo's photos: rendered rooms or a folder of the user's, and an HTTP server on loopback for exactly these."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image

from stream_worker.errors import Exit, UserError
from stream_worker.scenes import render

HOST = "127.0.0.1"
MEDIA_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
JPEG_QUALITY = 92
ORIENTATION_TAG = 0x0112
TURN_RIGHT = 6
"""EXIF's orientation of a photo from a phone held upright: viewers turn it a quarter clockwise."""


@dataclass(frozen=True, slots=True)
class Room:
    """A rendered photo: what `scenes.render` takes, and whether it is stored on its side."""

    name: str
    seed: int
    width: int
    height: int
    objects: int | None = None
    sideways: bool = False


ROOMS = (
    Room("room-1.jpg", 1, 1280, 960),
    Room("room-2-wide.jpg", 2, 1280, 720),
    Room("room-3.jpg", 3, 1200, 900),
    Room("room-4-turned.jpg", 4, 720, 1280, sideways=True),
    Room("room-5-empty.jpg", 5, 1024, 768, objects=0),
    Room("room-6-square.jpg", 6, 960, 960),
    Room("room-7-odd.jpg", 7, 1111, 833),
    Room("room-8-tall.jpg", 8, 900, 1200),
)
"""Aspect ratios that people's cameras have, and one that none has."""


def render_rooms(folder: Path, rooms: tuple[Room, ...] = ROOMS) -> dict[str, Path]:
    """Render the demo's own photos into `folder`; image_id -> JPEG file."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = {}
    for room in rooms:
        pixels = render(room.seed, room.width, room.height, room.objects).rgb
        exif = Image.Exif()
        if room.sideways:
            pixels = np.ascontiguousarray(np.rot90(pixels))
            exif[ORIENTATION_TAG] = TURN_RIGHT
        path = folder / room.name
        Image.fromarray(pixels).save(path, "JPEG", quality=JPEG_QUALITY, exif=exif)
        photos[room.name] = path
    return photos


def photos_in(folder: Path) -> dict[str, Path]:
    """The JPEG, PNG and WebP files of a folder, by name; image_id -> file.

    They are told by their suffix alone: what is inside is the service's to judge. Raises UserError if there are none.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in MEDIA_TYPES and path.is_file())
    except OSError as error:
        raise UserError(f"folder of images {folder} can't be read: {error.strerror}") from None
    if not files:
        raise UserError(f"folder {folder} holds no .jpg, .jpeg, .png or .webp file")
    # A name that is not UTF-8 is no text, and an image_id is.
    return {os.fsencode(path.name).decode(errors="replace"): path for path in files}


def listen() -> socket.socket:
    """A socket that listens on a free port of loopback; nobody outside this machine can connect."""
    try:
        return socket.create_server((HOST, 0))
    except OSError as error:
        raise UserError(f"no port of {HOST} to serve the photos from: {error.strerror}", Exit.PORT) from None


@asynccontextmanager
async def served(photos: Mapping[str, Path], sock: socket.socket) -> AsyncIterator[dict[str, str]]:
    """Serve the files on `sock` and nothing else, until the context is left; image_id -> URL.

    A URL holds a number and a suffix, never a file's name, so no name can lead to another file.
    """
    files = {f"/{number}{path.suffix.lower()}": path for number, path in enumerate(photos.values())}

    async def answer(request: web.Request) -> web.StreamResponse:
        path = files.get(request.path)
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": MEDIA_TYPES[path.suffix.lower()]})

    application = web.Application()
    application.router.add_get("/{file}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        port = sock.getsockname()[1]
        yield dict(zip(photos, (f"http://{HOST}:{port}{path}" for path in files), strict=True))
    finally:
        await runner.cleanup()
