"""The AsyncAPI document by AsyncAPI's own means: their schema of the specification, and their page in a browser."""

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from ops.docs.packages import PAGE, SPECIFICATION, Package, PackageError
from ops.docs.render import DOCUMENT, bundled, page
from tests import chromium

Change = Callable[[dict[str, Any]], Any]


def file_of(package: Package, path: str) -> bytes:
    """A file of a package. Where npm can't fetch it the test is skipped, but fails where CI is set."""
    try:
        return package.file(path)
    except PackageError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def specification() -> jsonschema_rs.Draft7Validator:
    return jsonschema_rs.Draft7Validator(json.loads(file_of(SPECIFICATION, "schemas/3.0.0.json")))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))


def complaints(specification: jsonschema_rs.Draft7Validator, document: dict[str, Any]) -> list[str]:
    return [f"{error.instance_path}: {error.message[:200]}" for error in specification.iter_errors(document)]


def test_the_document_is_right_by_the_specification(
    specification: jsonschema_rs.Draft7Validator, document: dict[str, Any]
) -> None:
    assert complaints(specification, document) == []
    assert complaints(specification, bundled(DOCUMENT)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(asyncapi="2.6.0"),
        lambda d: d["info"].pop("title"),
        lambda d: d.update(topics={}),
        lambda d: d["channels"]["images"].update(addres="images"),
        lambda d: d["channels"]["images"]["bindings"]["kafka"].update(partitions=0),
        lambda d: d["channels"]["images"]["bindings"]["kafka"]["topicConfiguration"].update(
            {"cleanup.policy": "delete"}
        ),
        lambda d: d["operations"]["detector-receives-images"].update(action="read"),
        lambda d: d["operations"]["detector-receives-images"].pop("channel"),
        lambda d: d["components"]["messages"]["image"].update(payload=[]),
        lambda d: d["components"]["messages"]["image"]["examples"][0].update(body={}),
        lambda d: d["components"]["messages"]["image"]["headers"].update(type="map"),
        lambda d: d["components"]["messageTraits"]["cloud-event"].update(payload={}),
    ],
)
def test_a_broken_document_is_refused(
    specification: jsonschema_rs.Draft7Validator, document: dict[str, Any], change: Change
) -> None:
    broken = copy.deepcopy(document)
    change(broken)
    assert complaints(specification, broken) != []


def test_another_package_than_the_pinned_one_is_refused() -> None:
    file_of(SPECIFICATION, "package.json")
    other = Package(SPECIFICATION.name, SPECIFICATION.version, PAGE.integrity)
    with pytest.raises(PackageError, match="is not the"):
        other.file("package.json")


async def test_the_page_shows_every_operation_and_asks_nobody(tmp_path: Path) -> None:
    file_of(PAGE, "package.json")
    (tmp_path / "asyncapi.html").write_text(page(bundled(DOCUMENT)), encoding="utf-8")
    async with chromium.page(tmp_path / "profile") as tab:
        await shown(tab, tmp_path / "asyncapi.html", "#operations")
        seen = await tab.evaluate("document.body.innerText")
        for name in bundled(DOCUMENT)["operations"]:
            assert name in seen
        for word in ("Object", "image_id", "ce_type", "living-room.jpg"):
            assert word in await tab.evaluate("document.body.textContent"), word
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the window"
        assert tab.problems == []
        assert tab.requests == [(tmp_path / "asyncapi.html").as_uri()]


async def test_the_page_says_what_is_wrong_with_a_document(tmp_path: Path) -> None:
    """Their parser checks what the schema can't: that an operation's messages are its channel's."""
    file_of(PAGE, "package.json")
    broken = bundled(DOCUMENT)
    broken["operations"]["detector-receives-images"]["messages"] = [{"$ref": "#/channels/objects/messages/object"}]
    (tmp_path / "asyncapi.html").write_text(page(broken), encoding="utf-8")
    async with chromium.page(tmp_path / "profile") as tab:
        await shown(tab, tmp_path / "asyncapi.html", "#asyncapi > *")
        assert "does not belong to the specified channel" in await tab.evaluate("document.body.textContent")


async def shown(tab: chromium.Page, file: Path, selector: str) -> None:
    """Open the page, and wait until it has drawn something."""
    await tab.open(file.as_uri())
    async with asyncio.timeout(60):
        while not await tab.evaluate(f"document.querySelector({selector!r}) !== null"):  # noqa: ASYNC110  # a page tells nobody
            await asyncio.sleep(0.1)
