"""The guides of ops/guides, command by command, as a newcomer runs them: a wheel in an environment of its own.

In a guide, blocks of `sh` are run in one shell, one after the other; a block of `python` is the file that its first
line names; each line of a block of `text` is to be found in what the block before has printed, `...` standing for
anything. What is not the newcomer's is put in: the broker, the photos' host, the prefix of the topics.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stream_worker import topics
from tests.photo_server import Answer, serving
from tests.staging import whole, with_stubs
from tests.stubs import photo

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "ops" / "guides"
BLOCK_S = 90.0
_PIECE = re.compile(r"^```(sh|python|text)\n(.*?)^```$|^<!-- test: (\w+) -->$", re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with nothing in it but the built wheel and what it needs."""
    folder = tmp_path_factory.mktemp("newcomer")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    uv, env = str(Path(sys.executable).with_name("uv")), str(folder / "env")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, env], check=True, timeout=60)
    # As the lock has them, so that a new version of somebody's does not fail us.
    told = [uv, "pip", "install", "-q", "--python", env, "--constraint", str(ROOT / "requirements.lock"), str(wheel)]
    subprocess.run(told, check=True, timeout=240)
    return folder / "env" / "bin"


@dataclass
class Shell:
    """One bash for all blocks of a guide: what one exports, the next one has."""

    process: asyncio.subprocess.Process

    async def run(self, block: str) -> str:
        """What it prints. Fails where a command of it does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        mark = f"done {uuid.uuid4().hex}"
        self.process.stdin.write(f"{{ {block}\n}} 2>&1 </dev/null\necho {mark}\n".encode())
        await self.process.stdin.drain()
        said = ""
        async with asyncio.timeout(BLOCK_S):
            while (line := (await self.process.stdout.readline()).decode()).strip() != mark:
                said += line
                assert line, f"a command has failed in\n{block}\nand said\n{said}"
                if line.rstrip().endswith(mark):  # the last line had no end
                    break
        return said


def require(line: str, said: str) -> None:
    """Fail unless some line of `said` has all pieces of `line` in their order."""
    pattern = ".*".join(re.escape(piece.strip()) for piece in line.split("..."))
    squeezed = re.sub(r"[ │┃|]+", " ", said)
    assert re.search(re.sub(r"(\\ )+", r"\\ ", pattern), squeezed), f"nothing like {line!r} in\n{said}"


@pytest.mark.parametrize("guide", sorted(path.name for path in GUIDES.glob("*.md")))
async def test_a_guide(guide: str, installed: Path, kafka: str, prefix: str, tmp_path: Path) -> None:
    mended = asyncio.Event()

    def answer(path: str) -> Answer:
        if "lost" in path and not mended.is_set():
            return 404, "text/plain", b""
        return 200, "image/png", photo(sum(path.encode()), 1)

    text = (GUIDES / guide).read_text(encoding="utf-8")
    if "kcat " in text and shutil.which("kcat") is None:
        pytest.skip("no kcat here (Debian: apt-get install kcat)")
    work = tmp_path / "work"
    work.mkdir()
    with serving(answer) as base:
        settings = with_stubs(kafka, prefix, tmp_path, base)
        await topics.create(settings.kafka)
        own = {
            "PATH": f"{installed}:{os.environ['PATH']}",
            "STREAM_WORKER_KAFKA__PREFIX": prefix,
            "STREAM_WORKER_KAFKA__PARTITIONS": "2",
            "STREAM_WORKER_LOCAL__DATA_DIR": str(tmp_path),
            "COLUMNS": "200",
            "TERM": "dumb",
            "HOME": str(tmp_path),
        }

        def here(block: str) -> str:
            there = block.replace("https://example.com", base).replace("127.0.0.1:9092", kafka)
            return re.sub(r"-t (images|completed-images)\b", rf"-t {prefix}\1", there)

        async with whole(settings):
            process = await asyncio.create_subprocess_exec(
                *("bash", "-e"),
                cwd=work,
                env=own,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            try:
                said = ""
                for kind, block, hook in pieces(text):
                    if hook == "mend":
                        mended.set()
                    elif kind == "python":
                        name = block.partition("\n")[0].removeprefix("# ")
                        (work / name).write_text(here(block), encoding="utf-8")
                    elif kind == "sh":
                        said = await Shell(process).run(here(block))
                    else:
                        for line in block.splitlines():
                            require(line, said)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def pieces(text: str) -> Iterator[tuple[str, str, str]]:
    """Kind and text of each block of a guide, or the name of what the test does at a place, in their order."""
    for found in _PIECE.finditer(text):
        yield found[1] or "", found[2] or "", found[3] or ""


def test_links_of_the_guides_lead_somewhere() -> None:
    for guide in GUIDES.glob("*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", guide.read_text(encoding="utf-8")):
            assert (guide.parent / target).exists(), f"{guide.name} links to {target}, which is not there"
