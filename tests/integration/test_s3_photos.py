"""Photos that lie in buckets: `s3://` URLs through the detector, from a real S3 server."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from minio import Minio

from stream_worker import topics
from stream_worker.contract import decode
from stream_worker.detector import Detector
from stream_worker.errors import OutageError, Reason
from stream_worker.events import DetectionEvent
from stream_worker.publish import Publisher
from stream_worker.settings import Settings
from stream_worker.settings import Store as StoreSettings
from stream_worker.store import open_photos
from tests.integration.test_stage import read
from tests.servers.s3 import S3Server
from tests.staging import running, with_stubs
from tests.stubs import photo


def at(s3: S3Server, **more: object) -> StoreSettings:
    """The server, for a store that is a folder."""
    told = {"endpoint": s3.endpoint, "access_key": s3.access_key, "secret_key": s3.secret_key, "secure": False}
    return StoreSettings.model_validate({**told, **more})


async def test_photos_come_from_the_buckets_that_are_allowed(
    kafka: str, prefix: str, tmp_path: Path, s3: S3Server, bucket: str
) -> None:
    client = Minio(s3.endpoint, s3.access_key, s3.secret_key, secure=False)
    for key in ("in/a-room.png", "in2/a.png"):
        data = photo(5, 2)
        client.put_object(bucket, key, io.BytesIO(data), len(data))
    settings = with_stubs(kafka, prefix, tmp_path, "http://127.0.0.1:1")
    images = settings.images.model_copy(update={"s3_buckets": [f"{bucket}/in", "no-such-bucket-here"]})
    settings = settings.model_copy(update={"images": images, "store": at(s3)})
    await topics.create(settings.kafka)
    keys = {
        "there": f"{bucket}/in/a-room.png",
        "elsewhere": f"{bucket}/in2/a.png",
        "gone": f"{bucket}/in/none.png",
        "no bucket": "no-such-bucket-here/a.png",
    }
    async with Publisher(settings) as publisher, running(Detector(settings), settings):
        for image_id, key in keys.items():
            await publisher.publish(f"s3://{key}", image_id=image_id)
        found = [decode(DetectionEvent, one.value) for one in await read(settings, topics.DETECTIONS, len(keys))]
    said = {one.image_id: one.reason.code if one.reason else len(one.objects) for one in found}
    assert said == {
        "there": 2,
        "elsewhere": Reason.URL_REFUSED,
        "gone": Reason.FETCH_FAILED,
        "no bucket": Reason.FETCH_FAILED,
    }


async def test_no_more_is_read_than_asked_for(s3: S3Server, bucket: str) -> None:
    client = Minio(s3.endpoint, s3.access_key, s3.secret_key, secure=False)
    client.put_object(bucket, "large", io.BytesIO(bytes(3_000_000)), 3_000_000)
    async with open_photos(Settings(store=at(s3))) as photos:
        assert len(await photos.read(bucket, "large", 1_000)) == 1_001
        assert len(await photos.read(bucket, "large", 3_000_000)) == 3_000_000


@pytest.mark.parametrize("wrong", [{"secret_key": "wrong"}, {"endpoint": "127.0.0.1:9"}])
async def test_a_server_that_is_away_or_refuses_us_is_an_outage(
    s3: S3Server, bucket: str, wrong: dict[str, str]
) -> None:
    async with open_photos(Settings(store=at(s3, **wrong))) as photos:
        with pytest.raises(OutageError):
            await photos.read(bucket, "any", 10)
