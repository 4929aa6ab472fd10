"""Headless Chromium for tests, driven through its DevTools protocol: Debian's package is all it takes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # CI runs as root, where Chromium's own sandbox refuses to start
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    # WebGL without a GPU.
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--remote-debugging-port=0",
)
START_S = 60.0
ANSWER_S = 120.0


def executable() -> str:
    """Path of Chromium. Without one the test is skipped, but fails where CI is set: there it must run."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        message = "no Chromium on this machine (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


class Page:
    """One tab. `problems` gathers uncaught exceptions and error messages, `requests` every URL that it asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self._loaded = asyncio.Event()
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.requests: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def attach(self, width: int, height: int, *, mobile: bool = False) -> Self:
        target = await self.send("Target.createTarget", url="about:blank")
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        await self.resize(width, height, mobile=mobile)
        return self

    async def resize(self, width: int, height: int, *, mobile: bool = False, scale: float = 1) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    async def prefer(self, scheme: str) -> None:
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def open(self, url: str) -> None:
        self._loaded.clear()
        await self.send("Page.navigate", url=url)
        async with asyncio.timeout(ANSWER_S):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        answer = await self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    async def drag(self, x: float, y: float, dx: float, dy: float, steps: int = 8) -> None:
        """Press the mouse at (x, y) in CSS pixels of the window, move it, and let go."""

        async def mouse(kind: str, at: float, **more: Any) -> None:
            await self.send("Input.dispatchMouseEvent", type=kind, x=x + at * dx, y=y + at * dy, **more)

        await mouse("mouseMoved", 0)
        await mouse("mousePressed", 0, button="left", buttons=1, clickCount=1)
        for step in range(1, steps + 1):
            await mouse("mouseMoved", step / steps, button="left", buttons=1)
        await mouse("mouseReleased", 1, button="left", clickCount=1)

    async def screenshot(self, path: Path) -> Path:
        answer = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._answers[self._number] = answer = asyncio.get_running_loop().create_future()
        await self._socket.send_json(message)
        async with asyncio.timeout(ANSWER_S):
            return await answer

    async def _read(self) -> None:
        async for frame in self._socket:
            message = frame.json()
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if "error" in message:
                    answer.set_exception(AssertionError(str(message["error"])))
                else:
                    answer.set_result(message["result"])
            else:
                self._notice(message["method"], message["params"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(AssertionError("Chromium is gone"))

    def _notice(self, method: str, event: dict[str, Any]) -> None:
        match method:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Runtime.exceptionThrown":
                details = event["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded":
                entry = event["entry"]
                (self.problems if entry["level"] == "error" else self.warnings).append(entry["text"])
            case "Runtime.consoleAPICalled":
                text = " ".join(str(part.get("value", part.get("description"))) for part in event["args"])
                (self.problems if event["type"] in ("error", "assert") else self.warnings).append(text)
            case "Network.requestWillBeSent":
                self.requests.append(event["request"]["url"])


@asynccontextmanager
async def page(profile: Path, width: int = 1280, height: int = 900, *, mobile: bool = False) -> AsyncIterator[Page]:
    """A page in a browser of its own, with a new profile; the browser and all its processes end with the context."""
    process = await asyncio.create_subprocess_exec(
        executable(),
        *FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    drain: asyncio.Task[bytes] | None = None
    try:
        assert process.stderr is not None
        async with asyncio.timeout(START_S):
            while True:
                line = (await process.stderr.readline()).decode(errors="replace")
                if not line:
                    raise AssertionError(f"Chromium ended with {await process.wait()}")
                if line.startswith("DevTools listening on "):
                    break
        drain = asyncio.create_task(process.stderr.read())
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(line.removeprefix("DevTools listening on ").strip(), max_msg_size=0) as socket,
        ):
            yield await Page(socket).attach(width, height, mobile=mobile)
    finally:
        # The whole process group: Chromium leaves renderers behind when only its first process is killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if drain is not None:
            drain.cancel()
