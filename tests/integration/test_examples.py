"""The examples of ops/examples, as their first lines say to run them, against the whole service."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest

from stream_worker import topics
from tests.photo_server import serving
from tests.staging import whole, with_stubs
from tests.stubs import photo

EXAMPLES = Path(__file__).parents[2] / "ops" / "examples"
STARTS_S = 60.0


@asynccontextmanager
async def app(name: str, env: dict[str, str]) -> AsyncIterator[str]:
    """The base URL of an example that uvicorn runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", f"{name}:app", "--port", str(port)),
        cwd=EXAMPLES,
        env={**os.environ, **env},
    )
    try:
        async with asyncio.timeout(STARTS_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    assert process.returncode is None, "it ended"
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    break
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 20)


@pytest.mark.timeout(180)
async def test_an_app_that_tells_its_callers_when_a_photo_is_done(kafka: str, prefix: str, tmp_path: Path) -> None:
    env = {"STREAM_WORKER_KAFKA__BOOTSTRAP_SERVERS": kafka, "STREAM_WORKER_KAFKA__PREFIX": prefix}
    with serving(lambda _: (200, "image/png", photo(7, 2))) as base:
        settings = with_stubs(kafka, prefix, tmp_path, base)
        await topics.create(settings.kafka)
        async with whole(settings), app("upstream", env) as upstream, aiohttp.ClientSession() as session:
            async with session.post(f"{upstream}/photos", json={"url": ""}) as refused:
                assert refused.status == 422
                assert "url" in (await refused.json())["detail"]
            async with session.post(f"{upstream}/photos", json={"url": f"{base}/sofa"}) as taken:
                assert taken.status == 202
                said = await taken.json()
            for _ in range(2):  # whoever asks again, later, hears of it too
                async with asyncio.timeout(60), session.get(upstream + said["events"]) as events:
                    assert events.headers["content-type"].startswith("text/event-stream")
                    told = [line async for line in events.content]
                assert told[0] == b"event: completed\n"
                outcome = orjson.loads(told[1].removeprefix(b"data: "))
                assert (outcome["image_id"], outcome["status"], len(outcome["objects"])) == (
                    said["image_id"],
                    "complete",
                    2,
                )
