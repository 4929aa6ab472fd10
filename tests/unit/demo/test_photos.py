"""The demo's photos, and the server that has nothing else."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import numpy as np
import pytest
from PIL import Image, ImageOps

from stream_worker.demo import photos
from stream_worker.errors import UserError
from stream_worker.scenes import render


def test_eight_rooms_of_many_shapes() -> None:
    assert len(photos.ROOMS) >= 8
    assert len({room.name for room in photos.ROOMS}) == len(photos.ROOMS)
    assert sum(room.objects == 0 for room in photos.ROOMS) == 1
    assert any(room.width * 9 == room.height * 16 for room in photos.ROOMS)
    assert any(room.height > room.width and room.sideways for room in photos.ROOMS)


def test_a_photo_stored_on_its_side_is_upright_by_its_exif(tmp_path: Path) -> None:
    room = photos.Room("side.jpg", 5, 96, 160, sideways=True)
    path = photos.render_rooms(tmp_path, (room,))["side.jpg"]
    with Image.open(path) as stored:
        assert stored.size == (160, 96)
        assert stored.getexif()[photos.ORIENTATION_TAG] == photos.TURN_RIGHT
        upright = np.asarray(ImageOps.exif_transpose(stored), np.int16)
    truth = render(5, 96, 160).rgb
    assert np.abs(upright - truth).mean() < 6


def test_a_folder_gives_its_photos_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "d.jpg").mkdir()
    assert list(photos.photos_in(tmp_path)) == ["a.png", "b.JPG", "c.webp"]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_photos_is_one_clear_line(tmp_path: Path, there: bool) -> None:
    folder = tmp_path if there else tmp_path / "none"
    with pytest.raises(UserError, match=str(folder)):
        photos.photos_in(folder)


async def test_only_these_files_are_served_and_only_on_loopback(tmp_path: Path) -> None:
    path, secret = tmp_path / "../evil name?.jpg".replace("/", "_"), tmp_path / "secret.jpg"
    path.write_bytes(b"photo")
    secret.write_bytes(b"secret")
    socket = photos.listen()
    assert socket.getsockname()[0] == "127.0.0.1"
    async with photos.served({"../evil": path}, socket) as urls, aiohttp.ClientSession() as session:
        (url,) = urls.values()
        async with session.get(url) as answer:
            assert (answer.status, await answer.read()) == (200, b"photo")
            assert answer.content_type == "image/jpeg"
        base = url.rsplit("/", 1)[0]
        for other in ("/", "/1.jpg", "/secret.jpg", "/%2e%2e/secret.jpg", "/0.jpg/"):
            async with session.get(base + other) as answer:
                assert answer.status == 404
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url)
