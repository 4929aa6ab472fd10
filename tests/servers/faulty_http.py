"""A proxy in front of an HTTP server on loopback, whose faults are switched while it runs.

It answers for itself where a fault says so, and passes everything else on as it came: the Host header too, which a
signature covers. Bodies pass through it whole, so it is for small ones.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_LENGTHS = frozenset({"content-length", "transfer-encoding", "connection"})
_XML = [("Content-Type", "application/xml")]
_LINGER_NONE = struct.pack("ii", 1, 0)
TRICKLE_S = 0.5


class Fault(StrEnum):
    """What can be wrong. The first four answer every request; the next three spoil answers that carry a blob."""

    BUSY = "503 SlowDown"
    GARBLED = "429 with a broken page that says it is XML"
    RESET = "the connection is reset"
    HANG = "no answer, until the fault is over"
    CUT = "half of the body, under the Content-Length of the whole"
    FLIP = "one byte of the body is another, at a place that is drawn each time"
    TRICKLE = "a byte of the body now and then, until the fault is over"
    DONE_BUT_FAILED = "a PUT is done, and answered with 500"


_INSTEAD = frozenset({Fault.BUSY, Fault.GARBLED, Fault.RESET, Fault.HANG})
_SPOILT = frozenset({Fault.CUT, Fault.FLIP, Fault.TRICKLE})


@dataclass
class _Now:
    """The present fault: for whom, how often, and whether it is over."""

    fault: Fault
    where: str
    left: int
    over: threading.Event = field(default_factory=threading.Event)


class FaultyProxy:
    """As long as the context lasts, clients of `upstream` (host:port) can use `endpoint` instead."""

    def __init__(self, upstream: str, seed: int) -> None:
        self._upstream = upstream
        self._numbers = random.Random(seed)
        self._changed = threading.Condition()
        self._now: _Now | None = None
        self.landed: Counter[Fault] = Counter()
        """How often each fault has hit a request."""
        self._server = _Server(self)

    @property
    def endpoint(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def faulty(self, fault: Fault, where: str = "", times: int = 1_000_000) -> Iterator[None]:
        """For as long as the context lasts: the fault, for requests whose path has `where` in it, so many times."""
        with self._changed:
            self._now = _Now(fault, where, times)
        try:
            yield
        finally:
            self.heal()

    def heal(self) -> None:
        """No fault any more; what hangs is let go, unanswered."""
        with self._changed:
            now, self._now = self._now, None
        if now is not None:
            now.over.set()

    def until_landed(self, fault: Fault, times: int, within_s: float) -> None:
        """Block until the fault has hit `times` requests in all; AssertionError where it has not in time."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.landed[fault] >= times, within_s), f"{self.landed}, not {times}"

    # ------------------------------------------------------------------ what a request's thread calls

    def hit(self, path: str, among: frozenset[Fault]) -> _Now | None:
        """What hits this request now, if it is one of these faults."""
        with self._changed:
            now = self._now
            if now is None or now.fault not in among or now.where not in path or now.left == 0:
                return None
            now.left -= 1
            self.landed[now.fault] += 1
            self._changed.notify_all()
            return now

    def flipped(self, body: bytes) -> bytes:
        """The body, with one byte made another."""
        with self._changed:
            at, mask = self._numbers.randrange(len(body)), self._numbers.randrange(1, 256)
        return body[:at] + bytes([body[at] ^ mask]) + body[at + 1 :]

    def ask(self, request: _Request, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer to a request: status, headers, body."""
        connection = HTTPConnection(self._upstream, timeout=30)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Request)

    def handle_error(self, *_: Any) -> None: ...  # a client that has gone is no news here


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _relay(self) -> None:
        proxy = self.server.proxy
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if instead := proxy.hit(self.path, _INSTEAD):
            self._refuse(instead)
            return
        try:
            status, headers, body = proxy.ask(self, sent)
        except (OSError, HTTPException):
            self._reset()  # the server is away, and that is what the client shall see
            return
        if self.command == "PUT" and proxy.hit(self.path, frozenset({Fault.DONE_BUT_FAILED})):
            self._answer(500, _XML, b"<Error><Code>InternalError</Code></Error>")
            return
        spoilt = proxy.hit(self.path, _SPOILT) if self.command == "GET" and status == 200 and body else None
        if spoilt is not None and spoilt.fault is Fault.FLIP:
            body = proxy.flipped(body)
        self._answer(status, headers, body, spoilt)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _relay  # noqa: N815  # the names that http.server looks for

    def _refuse(self, now: _Now) -> None:
        match now.fault:
            case Fault.BUSY:
                page = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
                self._answer(503, _XML, page)
            case Fault.GARBLED:
                self._answer(429, _XML, b"<Error><Code>SlowDo")
            case Fault.HANG:
                now.over.wait()
                self._reset()
            case _:
                self._reset()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, spoilt: _Now | None = None) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() not in _LENGTHS:
                self.send_header(name, value)
            elif name.lower() == "content-length" and self.command == "HEAD":
                length = value
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if spoilt is None or spoilt.fault is Fault.FLIP:
            self.wfile.write(body)
        elif spoilt.fault is Fault.TRICKLE:
            self._trickle(body, spoilt)
        else:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True

    def _trickle(self, body: bytes, now: _Now) -> None:
        for at in range(len(body)):
            self.wfile.write(body[at : at + 1])
            if now.over.wait(TRICKLE_S):
                self._reset()
                return

    def _reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None: ...
