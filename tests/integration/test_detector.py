"""The detector group with its own network: the same photo gives the same objects, whatever comes with it."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stream_worker import topics
from stream_worker.contract import decode
from stream_worker.demo.photos import Room, render_rooms
from stream_worker.detector import Detector
from stream_worker.errors import Reason
from stream_worker.events import DetectionEvent, ObjectEvent, ReconstructionEvent, object_id
from stream_worker.publish import Publisher
from stream_worker.settings import Detector as DetectorSettings
from stream_worker.settings import Images, Kafka, Local, Settings
from tests.integration.test_stage import read
from tests.photo_server import serving
from tests.staging import running

ROOMS = (Room("one.jpg", 1, 640, 480), Room("two.jpg", 2, 480, 640), Room("three.jpg", 3, 500, 500))
ROUNDS = 4


@pytest.mark.timeout(180)
@pytest.mark.parametrize("batch", [1, 5])
async def test_the_same_photo_gives_the_same_objects_in_the_same_order_with_the_same_ids(
    kafka: str, prefix: str, tmp_path: Path, batch: int
) -> None:
    files = {f"/{name}": path.read_bytes() for name, path in render_rooms(tmp_path / "rooms", ROOMS).items()}
    with serving(lambda path: (200, "image/jpeg", files[path])) as base:
        settings = Settings(
            kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=2),
            local=Local(data_dir=tmp_path / "data"),
            images=Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
            detector=DetectorSettings(threads=1, batch=batch, image_size=320),
        )
        await topics.create(settings.kafka)
        published = 0
        for number in range(ROUNDS):
            async with Publisher(settings) as publisher:
                for name in list(files)[number % 2 :]:
                    await publisher.publish(base + name, image_id=f"{name[1:]}-{number}")
                    published += 1
            if number == 1:
                continue  # two rounds at once, and the model loaded anew for the next
            async with running(Detector(settings), settings):
                await read(settings, topics.DETECTIONS, published, within_s=60)
        manifests = [decode(DetectionEvent, r.value) for r in await read(settings, topics.DETECTIONS, published)]
        count = sum(len(one.objects) for one in manifests)
        works = [decode(ObjectEvent, record.value) for record in await read(settings, topics.OBJECTS, count)]
    assert count > 2 * published
    masks = {work.object_id: work.mask for work in works}
    assert len(masks) == count
    seen = defaultdict(list)
    for one in manifests:
        assert [found.object_id for found in one.objects] == [
            object_id(one.image_id, one.run, index) for index in range(len(one.objects))
        ]
        said = [(found.label, found.confidence, found.box, masks[found.object_id]) for found in one.objects]
        seen[one.image_id.partition("-")[0]].append(said)
    assert {name: len(each) for name, each in seen.items()} == {"one.jpg": 2, "two.jpg": 4, "three.jpg": 4}
    for each in seen.values():
        assert all(said == each[0] for said in each)


async def test_a_mask_that_fits_into_no_event_fails_its_object_alone(kafka: str, prefix: str, tmp_path: Path) -> None:
    pixels = np.zeros((160, 160, 3), np.uint8)
    pixels[0, 0, 0] = 3  # objects
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    with serving(lambda _: (200, "image/png", file.getvalue())) as base:
        settings = Settings(
            kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=1, max_event_bytes=10_000),
            local=Local(data_dir=tmp_path),
            images=Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
            detector=DetectorSettings(model="tests.stubs:Ragged", threads=1),
        )
        await topics.create(settings.kafka)
        async with Publisher(settings) as publisher, running(Detector(settings), settings):
            await publisher.publish(base, image_id="ragged")
            (manifest,) = [decode(DetectionEvent, r.value) for r in await read(settings, topics.DETECTIONS, 1)]
            works = [decode(ObjectEvent, record.value) for record in await read(settings, topics.OBJECTS, 2)]
            (outcome,) = [decode(ReconstructionEvent, r.value) for r in await read(settings, topics.RECONSTRUCTIONS, 1)]
    assert [one.label for one in manifest.objects] == ["square-0", "square-1", "square-2"]
    assert [one.label for one in works] == ["square-1", "square-2"]
    assert (outcome.label, outcome.status) == ("square-0", "failed")
    assert outcome.reason is not None
    assert outcome.reason.code == Reason.EVENT_TOO_LARGE
