"""Fetching from real servers on loopback, most of them hostile."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stream_worker.errors import Reason, RecordFault, TransientFault, UserError
from stream_worker.images.address import AddressPolicy
from stream_worker.images.fetch import Fetched, Fetcher, FetchLimits
from stream_worker.images.hosts import UNPROVEN

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PHOTO = b"\xff\xd8\xff not really a photo" * 100
SECRET = "s3cr3t-canary"


@dataclass
class Server:
    """A TCP server on 127.0.0.1 (or `::1`) that counts its connections and keeps the request heads."""

    port: int
    heads: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(0)
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server.heads.append(await reader.readuntil(b"\r\n\r\n"))
            await handler(reader, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(one(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(data: bytes) -> Handler:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return handler


def answer(body: bytes = PHOTO, status: str = "200 OK", headers: Sequence[str] = ()) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def repeating(head: bytes, piece: bytes) -> Handler:
    """Sends `piece` for as long as the client lets it."""

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    return handler


def redirecting(location: str, status: str = "302 Found") -> Handler:
    return saying(answer(b"", status, [f"Location: {location}"]))


async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


LIMITS = FetchLimits(total_s=5, connect_s=2, stall_s=2, queue_s=10, max_bytes=1_000_000)
SHORT = FetchLimits(total_s=0.5, connect_s=0.4, stall_s=0.4, queue_s=10, max_bytes=1_000_000)


def fetcher(*ports: int, limits: FetchLimits = LIMITS, **more: object) -> Fetcher:
    policy = AddressPolicy.parse([f"127.0.0.1/32:{port}" for port in ports])
    return Fetcher(limits, policy, **more)  # type: ignore[arg-type]


async def fetched(handler: Handler, limits: FetchLimits = LIMITS, path: str = "/a.jpg") -> Fetched:
    async with serving(handler) as server, fetcher(server.port, limits=limits) as fetch:
        return await fetch.fetch(server.url + path)


async def fault_of(work: Awaitable[object]) -> RecordFault:
    with pytest.raises(RecordFault) as caught:
        await work
    assert SECRET not in caught.value.message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


async def test_a_photo_comes_back_whole_with_the_hosts_claim() -> None:
    handler = saying(answer(headers=["Content-Type: Image/JPEG; charset=x"]))
    async with serving(handler) as server, fetcher(server.port) as fetch:
        result = await fetch.fetch(f"{server.url}/a%2Fb%7e.jpg?sig=a%2Bb%3D&t={SECRET}#part")
        assert result == Fetched(PHOTO, "image/jpeg", f"{server.url}/a%2Fb%7e.jpg")
        again = await fetch.fetch(f"{server.url}/a.jpg")
        assert again.data == PHOTO
    head = server.heads[0].decode()
    assert head.startswith(f"GET /a%2Fb%7e.jpg?sig=a%2Bb%3D&t={SECRET} HTTP/1.1\r\n")
    assert "Accept-Encoding: identity\r\n" in head
    assert "Connection: close\r\n" in head
    assert len(server.heads) == 2  # a connection each


async def test_chunked_and_close_delimited_bodies_are_read_to_their_end() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert (await fetched(saying(chunked))).data == b"abcde"
    assert (await fetched(saying(b"HTTP/1.0 200 OK\r\n\r\n" + PHOTO))).data == PHOTO


HOSTILE: dict[str, tuple[Handler, Reason, bool]] = {
    "not_found": (saying(answer(b"no", "404 Not Found")), Reason.FETCH_FAILED, False),
    "gone": (saying(answer(b"no", "410 Gone")), Reason.FETCH_FAILED, False),
    "forbidden": (saying(answer(b"no", "403 Forbidden")), Reason.FETCH_FAILED, False),
    "partial": (saying(answer(status="206 Partial Content")), Reason.FETCH_FAILED, False),
    "no_content": (saying(b"HTTP/1.1 204 No Content\r\n\r\n"), Reason.FETCH_FAILED, False),
    "not_modified": (saying(b"HTTP/1.1 304 Not Modified\r\n\r\n"), Reason.FETCH_FAILED, False),
    "upgrade": (saying(b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), Reason.FETCH_FAILED, False),
    "server_error": (saying(answer(b"", "500 Oops")), Reason.FETCH_FAILED, True),
    "unavailable": (saying(answer(b"", "503 Later")), Reason.FETCH_FAILED, True),
    "too_many_requests": (saying(answer(b"", "429 Slow down")), Reason.FETCH_FAILED, True),
    "closes_at_once": (saying(b""), Reason.FETCH_FAILED, True),
    "cut_short": (saying(answer()[:-10]), Reason.FETCH_FAILED, True),
    "cut_chunk": (
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc"),
        Reason.FETCH_FAILED,
        True,
    ),
    "not_http": (saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), Reason.FETCH_FAILED, False),
    "two_lengths": (
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        Reason.FETCH_FAILED,
        False,
    ),
    "negative_length": (saying(b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc"), Reason.FETCH_FAILED, False),
    "length_without_end": (
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabc"),
        Reason.FETCH_FAILED,
        False,
    ),
    "announces_too_much": (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n"), Reason.TOO_LARGE, False),
    "endless_chunks": (
        repeating(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        Reason.TOO_LARGE,
        False,
    ),
    "endless_body": (repeating(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536), Reason.TOO_LARGE, False),
    "endless_headers": (repeating(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 100), Reason.FETCH_FAILED, False),
    "endless_header_line": (repeating(b"HTTP/1.1 200 OK\r\nX-A: ", b"x" * 65536), Reason.FETCH_FAILED, False),
    "endless_status_line": (repeating(b"HTTP/1.1 200 ", b"O" * 65536), Reason.FETCH_FAILED, False),
    "endless_interim_answers": (
        repeating(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100),
        Reason.FETCH_FAILED,
        False,
    ),
    "gzip": (
        saying(answer(gzip.compress(bytes(10_000_000)), headers=["Content-Encoding: gzip"])),
        Reason.FETCH_FAILED,
        False,
    ),
    "gzip_as_transfer": (
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
        Reason.FETCH_FAILED,
        False,
    ),
    "redirect_to_nowhere": (saying(answer(b"", "302 Found")), Reason.FETCH_FAILED, False),
    "redirect_loop": (redirecting("/a.jpg"), Reason.FETCH_FAILED, False),
    "redirect_to_file": (redirecting("file:///etc/passwd"), Reason.URL_REFUSED, False),
    "redirect_to_s3": (redirecting("s3://bucket/key"), Reason.URL_REFUSED, False),
    "redirect_with_userinfo": (redirecting(f"http://u:{SECRET}@example.com/"), Reason.URL_REFUSED, False),
    "redirect_to_metadata": (redirecting("http://169.254.169.254/latest/"), Reason.URL_REFUSED, False),
    "redirect_to_another_port": (redirecting("http://127.0.0.1:22/"), Reason.URL_REFUSED, False),
}


@pytest.mark.parametrize(("handler", "reason", "transient"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_answer_has_its_reason(handler: Handler, reason: Reason, transient: bool) -> None:
    fault = await fault_of(fetched(handler, path=f"/a.jpg?sig={SECRET}"))
    assert (fault.reason, isinstance(fault, TransientFault)) == (reason, transient), fault


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def drip_chunk_extension(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("handler", [silent, drip, drip_chunk_extension])
async def test_a_slow_host_ends_at_the_deadline(handler: Handler) -> None:
    fault = await fault_of(fetched(handler, limits=SHORT))
    assert isinstance(fault, TransientFault)
    assert fault.reason is Reason.FETCH_TIMEOUT


async def test_a_host_that_does_not_accept_is_a_transient_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with fetcher(port) as fetch:
        fault = await fault_of(fetch.fetch(f"http://127.0.0.1:{port}/"))
    assert isinstance(fault, TransientFault)
    assert fault.reason is Reason.FETCH_FAILED


async def test_redirects_are_followed_and_the_first_url_is_not_the_one_logged() -> None:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        step = len(server.heads)
        writer.write(answer() if step == 4 else answer(b"", "307 X", [f"Location: /{step}?k={SECRET}"]))

    async with serving(handler) as server, fetcher(server.port) as fetch:
        result = await fetch.fetch(server.url + "/")
        assert result.data == PHOTO
        assert result.url_for_log == f"{server.url}/3"
    assert [head.split()[1] for head in server.heads] == [b"/", *(f"/{n}?k={SECRET}".encode() for n in (1, 2, 3))]


async def test_cookies_and_credentials_are_not_carried_along() -> None:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = len(server.heads) == 1
        writer.write(answer(b"", "302 X", ["Location: /b", "Set-Cookie: a=b; Path=/"]) if first else answer())

    async with serving(handler) as server, fetcher(server.port) as fetch:
        await fetch.fetch(server.url + "/")
    assert b"cookie" not in server.heads[1].lower()
    assert b"referer" not in server.heads[1].lower()


async def test_proxies_and_netrc_of_the_environment_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login u password {SECRET}\n")
    async with serving(saying(answer())) as server, serving(silent) as proxy, fetcher(server.port) as fetch:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert (await fetch.fetch(server.url + "/")).data == PHOTO
    assert proxy.heads == []
    assert b"authorization" not in server.heads[0].lower()


@asynccontextmanager
async def canaries() -> AsyncIterator[tuple[int, list[object]]]:
    """Listeners on all IPv4 (so each 127.x) and IPv6 loopback addresses; the list holds whoever connected."""
    seen: list[object] = []

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("sockname"))
        writer.close()

    async with AsyncExitStack() as stack:
        first = await asyncio.start_server(note, "0.0.0.0", 0)
        await stack.enter_async_context(first)
        port = first.sockets[0].getsockname()[1]
        if socket.has_ipv6:
            with suppress(OSError):  # no IPv6 loopback on this machine
                await stack.enter_async_context(await asyncio.start_server(note, "::1", port))
        yield port, seen


LOOPBACK_FORMS = [
    "127.0.0.1",
    "127.0.0.2",
    "127.1",
    "2130706433",
    "0177.0.0.1",
    "017700000001",
    "0x7f000001",
    "0x7f.1",
    "0.0.0.0",
    "0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "[fe80::1%25lo]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "user@127.0.0.1",
    "8.8.8.8\\@127.0.0.1",
    "\uff11\uff12\uff17.0.0.1",
    "127\u30020\u30020\u30021",
]


@pytest.mark.parametrize("host", LOOPBACK_FORMS)
async def test_no_form_of_loopback_is_connected_to(host: str) -> None:
    async with canaries() as (port, seen):
        # The canary's port is a usual one here, so that nothing but the address can be the reason.
        policy = AddressPolicy.parse(ports=[port])
        async with Fetcher(LIMITS, policy) as fetch:
            fault = await fault_of(fetch.fetch(f"http://{host}:{port}/{SECRET}"))
        assert fault.reason is Reason.URL_REFUSED, fault
        assert not isinstance(fault, TransientFault)
        assert seen == []


@pytest.mark.parametrize("host", ["127.0.0.2", "[::1]", "[::ffff:127.0.0.2]", "localhost", "0.0.0.0"])
async def test_a_redirect_to_a_refused_address_is_not_connected_to(host: str) -> None:
    async with canaries() as (port, seen), serving(redirecting(f"http://{host}:{port}/")) as server:
        policy = AddressPolicy.parse([f"127.0.0.1/32:{server.port}"], ports=[80, port])
        async with Fetcher(LIMITS, policy) as fetch:
            fault = await fault_of(fetch.fetch(server.url + "/"))
        assert fault.reason is Reason.URL_REFUSED
        assert len(server.heads) == 1
        assert seen == []


async def test_rebinding_a_name_after_its_first_answer_is_refused() -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    asked: list[str] = []

    def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    async with canaries() as (port, seen):

        async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer(b"", "302 X", [f"Location: http://rebind.example:{port}/"]))

        async with serving(handler) as server:
            policy = AddressPolicy.parse([f"127.0.0.1/32:{server.port}"], ports=[port])
            async with Fetcher(LIMITS, policy, lookup=lookup) as fetch:
                fault = await fault_of(fetch.fetch(f"http://rebind.example:{server.port}/"))
        assert fault.reason is Reason.URL_REFUSED
        assert asked == ["rebind.example"] * 2
        assert seen == []


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::1", "8.8.8.8"], ["nonsense"]])
async def test_a_name_with_any_refused_address_is_refused(addresses: list[str]) -> None:
    async with canaries() as (port, seen):
        policy = AddressPolicy.parse(ports=[port])
        async with Fetcher(LIMITS, policy, lookup=lambda host, port: addresses) as fetch:
            fault = await fault_of(fetch.fetch(f"http://mixed.example:{port}/"))
        assert fault.reason is Reason.URL_REFUSED
        assert seen == []


async def test_a_mixed_answer_is_refused_even_when_its_first_address_would_serve() -> None:
    async with serving(saying(answer())) as server:
        async with fetcher(server.port, lookup=lambda host, port: ["127.0.0.1", "127.0.0.9"]) as fetch:
            fault = await fault_of(fetch.fetch(f"http://mixed.example:{server.port}/"))
        assert fault.reason is Reason.URL_REFUSED
        assert server.heads == []


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["::1", "127.0.0.1"], ["127.0.0.9", "127.0.0.1"]], ids=["one", "mixed", "two"]
)
async def test_the_guard_at_the_socket_holds_even_when_the_resolver_is_passed_by(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever path an address takes through aiohttp, it ends in the guarded factory: put the check of the
    # resolver out of action, and nothing is connected to all the same.
    from stream_worker.images import fetch as module

    async def unjudged(self: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, str | int]]:
        entry = {"hostname": host, "port": port, "family": 0, "proto": 0, "flags": 0}
        return [{**entry, "host": address} for address in addresses]

    monkeypatch.setattr(module._JudgingResolver, "resolve", unjudged)
    async with canaries() as (port, seen):
        async with Fetcher(LIMITS, AddressPolicy.parse(ports=[port])) as fetch:
            fault = await fault_of(fetch.fetch(f"http://name.example:{port}/"))
        assert fault.reason is Reason.URL_REFUSED
        assert seen == []


@pytest.mark.parametrize(
    ("code", "transient"), [(socket.EAI_NONAME, False), (socket.EAI_FAIL, False), (socket.EAI_AGAIN, True)]
)
async def test_a_name_that_does_not_resolve(code: int, transient: bool) -> None:
    def lookup(host: str, port: int) -> list[str]:
        raise socket.gaierror(code, "the resolver's words")

    async with fetcher(lookup=lookup) as fetch:
        fault = await fault_of(fetch.fetch("http://nowhere.example/"))
    assert fault.reason is Reason.FETCH_FAILED
    assert isinstance(fault, TransientFault) is transient


async def test_an_unused_port_is_refused_before_the_name_is_looked_up() -> None:
    def lookup(host: str, port: int) -> list[str]:
        raise AssertionError("looked up")

    async with fetcher(lookup=lookup) as fetch:
        fault = await fault_of(fetch.fetch("http://kafka.example:9092/"))
    assert fault.reason is Reason.URL_REFUSED


async def test_a_silent_host_holds_its_own_slots_only() -> None:
    limits = FetchLimits(total_s=30, stall_s=30, connections=3, connections_per_host=2)
    asked: asyncio.Queue[None] = asyncio.Queue()

    async def note_and_hang(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        asked.put_nowait(None)
        await asyncio.Event().wait()

    async with (
        serving(note_and_hang) as slow,
        serving(saying(answer())) as quick,
        fetcher(slow.port, quick.port, limits=limits) as fetch,
    ):
        stuck = [asyncio.ensure_future(fetch.fetch(f"{slow.url}/{n}")) for n in range(10)]
        for _ in range(limits.connections_per_host):
            await asked.get()
        for n in range(20):
            assert (await fetch.fetch(f"{quick.url}/{n}")).data == PHOTO
        assert len(slow.heads) == limits.connections_per_host
        assert not any(task.done() for task in stuck)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        assert all(host.inside == host.waiting == 0 for host in fetch._hosts._hosts.values())


async def test_a_host_that_says_nothing_is_left_alone_while_others_answer() -> None:
    limits = FetchLimits(total_s=0.5, stall_s=30)
    async with (
        serving(silent) as quiet,
        serving(saying(answer())) as quick,
        fetcher(quiet.port, quick.port, limits=limits) as fetch,
    ):
        first = [asyncio.ensure_future(fetch.fetch(f"{quiet.url}/{n}")) for n in range(6)]
        for n in range(20):
            assert (await fetch.fetch(f"{quick.url}/{n}")).data == PHOTO
        for task in first:
            fault = await fault_of(task)
            assert (fault.reason, isinstance(fault, TransientFault)) == (Reason.FETCH_TIMEOUT, True)
        assert len(quiet.heads) == UNPROVEN
        fault = await fault_of(fetch.fetch(f"{quiet.url}/later"))
        assert "the host is silent" in fault.message
        assert len(quiet.heads) == UNPROVEN


async def test_waiting_for_a_slot_ends_too() -> None:
    limits = FetchLimits(total_s=30, stall_s=30, queue_s=0.1, connections_per_host=1)
    arrived = asyncio.Event()

    async def note_and_hang(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with serving(note_and_hang) as server, fetcher(server.port, limits=limits) as fetch:
        stuck = asyncio.ensure_future(fetch.fetch(server.url + "/1"))
        await arrived.wait()
        fault = await fault_of(fetch.fetch(server.url + "/2"))
        assert isinstance(fault, TransientFault)
        assert fault.reason is Reason.FETCH_TIMEOUT
        assert len(server.heads) == 1
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one PEM file."""
    pem = tmp_path / "server.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", str(tmp_path / "cert.pem")]
    try:
        subprocess.run([*command.split(), *extra], check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no openssl command here")
    pem.write_bytes(pem.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    return pem


async def test_https_is_verified_and_never_leads_down_to_http(certificate: Path) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate)
    ours = ssl.create_default_context(cafile=certificate)
    async with serving(saying(answer())) as plain, serving(saying(answer()), tls=theirs) as good:
        async with fetcher(good.port, tls=ours) as fetch:
            assert (await fetch.fetch(f"https://127.0.0.1:{good.port}/")).data == PHOTO
        async with fetcher(good.port) as fetch:
            fault = await fault_of(fetch.fetch(f"https://127.0.0.1:{good.port}/"))
            assert (fault.reason, type(fault)) == (Reason.FETCH_FAILED, RecordFault)
        async with (
            serving(redirecting(plain.url + "/"), tls=theirs) as bad,
            fetcher(bad.port, plain.port, tls=ours) as fetch,
        ):
            fault = await fault_of(fetch.fetch(f"https://127.0.0.1:{bad.port}/"))
            assert fault.reason is Reason.URL_REFUSED
        assert plain.heads == []


async def test_s3_is_read_from_allowed_prefixes_only_and_within_the_limit() -> None:
    asked: list[tuple[str, str, int]] = []

    async def read(bucket: str, key: str, most: int) -> bytes:
        asked.append((bucket, key, most))
        return bytes(most + 1) if key == "huge" else PHOTO

    allow = ["photos", "shared/in", "s3://other/x/"]
    async with fetcher(read_s3=read, s3_allow=allow) as fetch:
        assert (await fetch.fetch("s3://photos/a/b.jpg")).data == PHOTO
        assert (await fetch.fetch("s3://shared/in/b.jpg")).url_for_log == "s3://shared/in/b.jpg"
        assert (await fetch.fetch("s3://other/x/b.jpg")).data == PHOTO
        assert asked[0] == ("photos", "a/b.jpg", 1_000_000)
        assert (await fault_of(fetch.fetch("s3://photos/huge"))).reason is Reason.TOO_LARGE
        asked.clear()
        for url in ["s3://shared/inbox/b.jpg", "s3://shared/b.jpg", "s3://photos2/b.jpg", "s3://shared/in/../b"]:
            assert (await fault_of(fetch.fetch(url))).reason is Reason.URL_REFUSED
        assert asked == []
    async with fetcher(s3_allow=["photos"]) as fetch:
        assert (await fault_of(fetch.fetch("s3://photos/a"))).reason is Reason.URL_REFUSED


@pytest.mark.parametrize("entry", ["", " ", "a/../b", "UPPER", "s3://", "id:key@bucket"])
def test_a_wrong_bucket_entry_is_one_clear_line(entry: str) -> None:
    with pytest.raises(UserError, match="allowed bucket"):
        Fetcher(LIMITS, AddressPolicy(), s3_allow=[entry])
