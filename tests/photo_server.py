"""An HTTP server on loopback for photos that tests make up.

`python -m tests.photo_server FOLDER`: of the JPEGs of a folder, in a process of its own, until its input ends.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


@contextmanager
def serving(answer: Callable[[str], Answer]) -> Iterator[str]:
    """The base URL (http://127.0.0.1:port) of a server that answers paths as told, for as long as the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving_in_processes(folder: Path, count: int) -> Iterator[list[str]]:
    """The base URLs of as many servers of the JPEGs in `folder`, for loads that one Python process can't serve."""
    command = [sys.executable, "-m", "tests.photo_server", str(folder)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        yield [process.stdout.readline().strip() for process in processes if process.stdout]
    finally:
        for process in processes:
            process.communicate()


def main() -> None:
    files = {f"/{path.name}": path.read_bytes() for path in Path(sys.argv[1]).glob("*.jpg")}
    with serving(lambda path: (200, "image/jpeg", files[path.partition("?")[0]])) as base:
        print(base, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
