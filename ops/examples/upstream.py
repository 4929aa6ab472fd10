"""An app that takes photos, and tells its callers by server-sent events when they are done.

    uvicorn upstream:app                                         # pip install fastapi uvicorn stream-worker
    curl -X POST localhost:8000/photos -H 'content-type: application/json' -d '{"url": "https://example.com/room.jpg"}'
    curl -N localhost:8000/photos/ID/events

The broker is named as everywhere: STREAM_WORKER_KAFKA__BOOTSTRAP_SERVERS=kafka:9092, or stream-worker.toml.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from stream_worker.contract import encode
from stream_worker.errors import UserError
from stream_worker.publish import Publisher
from stream_worker.results import Waiting
from stream_worker.settings import load

ALIVE_S = 15.0
"""A comment this often keeps proxies from closing a connection on which nothing happens."""


class Photo(BaseModel):
    """What a caller sends."""

    url: str
    classes: list[str] | None = None


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """One publisher and one reader for all requests. The reader first: it must not miss what is published."""
    settings = load()
    async with Waiting(settings) as waiting, Publisher(settings) as publisher:
        app.state.waiting, app.state.publisher = waiting, publisher
        yield


app = FastAPI(title="Photos in, 3D objects out", lifespan=connected)


@app.post("/photos", status_code=202)
async def take(photo: Photo, request: Request) -> dict[str, str]:
    """Publish a photo; when this returns, the broker has it."""
    try:
        sent = await request.app.state.publisher.publish(photo.url, classes=photo.classes)
    except UserError as error:
        raise HTTPException(422, str(error)) from None
    return {"image_id": sent.image_id, "events": f"/photos/{sent.image_id}/events"}


@app.get("/photos/{image_id}/events")
async def events(image_id: str, request: Request) -> StreamingResponse:
    """One event `completed`, with the completed image as its data, as soon as there is one."""
    waiting: Waiting = request.app.state.waiting

    async def stream() -> AsyncIterator[bytes]:
        outcome = asyncio.ensure_future(waiting.wait_for(image_id))
        try:
            while not (await asyncio.wait({outcome}, timeout=ALIVE_S))[0]:
                yield b": still at work\n\n"
            yield b"event: completed\ndata: " + encode(outcome.result()) + b"\n\n"
        finally:
            outcome.cancel()

    return StreamingResponse(stream(), media_type="text/event-stream")
