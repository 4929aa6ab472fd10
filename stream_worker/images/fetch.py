"""Fetching photos from outsiders' URLs: what is asked, of whom, how much, and for how long is bounded."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from stream_worker.errors import Reason, RecordFault, TransientFault, UserError
from stream_worker.images.address import AddressPolicy
from stream_worker.images.hosts import Hosts
from stream_worker.images.urls import HttpTarget, S3Target, follow, parse_url, safe_url

__all__ = ["FetchLimits", "Fetched", "Fetcher", "ReadS3", "safe_url"]

# (bucket, key, most bytes to read) -> the object's bytes. It raises RecordFault for an object that is not
# there, OutageError while the store is away.
ReadS3 = Callable[[str, str, int], Awaitable[bytes]]
# (host, port) -> IP addresses; blocking, called in threads. Raises socket.gaierror.
Lookup = Callable[[str, int], Sequence[str]]

_T = TypeVar("_T")
_MIB = 1024 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WORTH_RETRYING = frozenset({408, 425, 429})  # and all of 5xx
_MOST_INTERIM_ANSWERS = 8
# "try again", "out of memory", "a system call failed": nothing is said about the name itself.
_LOOKUP_WORTH_RETRYING = frozenset({socket.EAI_AGAIN, socket.EAI_MEMORY, socket.EAI_SYSTEM})
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much one photo, and one host, may cost."""

    total_s: float = 20.0  # one photo, all its redirects included; waiting for room is not counted
    connect_s: float = 5.0  # one address: TCP and TLS
    stall_s: float = 10.0  # between two arrivals of data
    queue_s: float = 60.0  # waiting for room
    max_bytes: int = 25 * _MIB
    max_redirects: int = 3
    max_header_line_bytes: int = 8190
    max_headers: int = 64
    # Memory at worst: `connections` x `max_bytes` x 2.
    connections: int = 32  # at a time, all hosts together
    connections_per_host: int = 8  # at a time; fewer for one that has not answered yet (hosts.py)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A photo's bytes as they came. `media_type` is the host's claim (`image/png`), not to be trusted."""

    data: bytes
    media_type: str | None
    url_for_log: str


class Fetcher:
    """Fetches photos over http, https and s3. An async context manager; any number of fetches at a time.

    The address policy is applied where sockets are made: aiohttp hands `socket_factory` the very address
    that it connects to next, for IP literals, resolved names and redirects alike (aiohttp 3.14,
    `TCPConnector._wrap_create_connection`). There is no proxy, and no connection is kept for a second
    request, so nothing is sent over a socket that was judged for another.
    """

    def __init__(
        self,
        limits: FetchLimits,
        policy: AddressPolicy,
        *,
        read_s3: ReadS3 | None = None,
        s3_allow: Iterable[str] = (),
        tls: ssl.SSLContext | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        """`s3_allow` lists `bucket` and `bucket/prefix`; a prefix ends at a slash, said or not.

        `tls` replaces the system's trust store, `lookup` the system's resolver.
        Raises UserError for an entry of `s3_allow` that can't be read.
        """
        self._limits = limits
        self._policy = policy
        self._read_s3 = read_s3
        self._s3_allow = tuple(_s3_prefix(entry) for entry in s3_allow)
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True
        self._lookup = lookup or _system_lookup
        self._hosts = Hosts(limits.connections, limits.connections_per_host, limits.queue_s)
        self._threads: ThreadPoolExecutor | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        limits = self._limits
        # Threads of our own: lookups of dead names must not fill the loop's pool, which others use.
        self._threads = ThreadPoolExecutor(limits.connections, thread_name_prefix="lookup")
        connector = aiohttp.TCPConnector(
            limit=limits.connections,
            force_close=True,
            use_dns_cache=False,
            resolver=_JudgingResolver(self._lookup, self._threads, self._policy),
            socket_factory=self._judged_socket,
            # One address after the other: a race would swallow the guard's refusal.
            happy_eyeballs_delay=None,
            ssl=self._tls,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # no proxies, no netrc
            auto_decompress=False,
            response_class=_Answer,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.stall_s),
            headers={
                "User-Agent": "stream-worker",
                "Accept": "image/jpeg, image/png, image/webp, */*;q=0.1",
                "Accept-Encoding": "identity",
            },
            max_line_size=limits.max_header_line_bytes,
            max_field_size=limits.max_header_line_bytes,
            max_headers=limits.max_headers,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, url: str) -> Fetched:
        """The photo at `url`, whole, at most `max_bytes` long.

        Raises RecordFault with URL_REFUSED (URL, address, redirect), FETCH_FAILED (the host said no, spoke
        bad HTTP, or its name does not exist) or TOO_LARGE; TransientFault with FETCH_FAILED or FETCH_TIMEOUT
        (5xx, 429, broken connections, slow hosts, lookups that failed for now). No message holds any part
        of the URL but its scheme, port or address.
        """
        target = parse_url(url)
        if isinstance(target, S3Target):
            return await self._fetch_s3(target)
        loop = asyncio.get_running_loop()
        left_s = self._limits.total_s
        for _ in range(self._limits.max_redirects + 1):
            self._policy.check_port(target.port)
            # Room is taken for each hop anew: none is held while waiting for another.
            async with self._hosts.asked(f"{target.host}:{target.port}") as briefly_s:
                begun = loop.time()
                answer = await _within(min(left_s, briefly_s or left_s), self._get(target))
                left_s -= loop.time() - begun
            if isinstance(answer, Fetched):
                return answer
            target = answer
        raise RecordFault(Reason.FETCH_FAILED, f"more than {self._limits.max_redirects} redirects")

    async def _fetch_s3(self, target: S3Target) -> Fetched:
        wanted = f"{target.bucket}/{target.key}"
        if self._read_s3 is None or not any(wanted.startswith(prefix) for prefix in self._s3_allow):
            raise RecordFault(Reason.URL_REFUSED, "the bucket or prefix is not one that photos are read from")
        limit = self._limits.max_bytes
        async with self._hosts.asked(f"s3://{target.bucket}"):
            read = self._read_s3(target.bucket, target.key, limit)
            data = await _within(self._limits.total_s, read)
        if len(data) > limit:
            raise _too_large(limit)
        return Fetched(data, None, target.for_log)

    async def _get(self, target: HttpTarget) -> Fetched | HttpTarget:
        """One request: the photo, or where the host sends us instead."""
        assert self._session is not None, "use `async with Fetcher(...)`"
        # encoded: the text goes out as it was judged, not as yarl would write it.
        url = URL(target.text, encoded=True)
        assert (url.raw_host, url.port) == (target.host, target.port), "two readings of one URL"
        async with self._session.get(url, allow_redirects=False) as answer:
            if answer.status in _REDIRECTS:
                location = answer.headers.get("Location")
                if not location:
                    raise RecordFault(Reason.FETCH_FAILED, "the host redirects to nowhere")
                return follow(target, location)
            self._check_head(answer)
            return Fetched(await self._body(answer), _media_type(answer), target.for_log)

    def _check_head(self, answer: aiohttp.ClientResponse) -> None:
        """Refuse by status and headers, before the body is read."""
        if answer.status in _WORTH_RETRYING or answer.status >= 500:
            raise TransientFault(Reason.FETCH_FAILED, f"the host answered {answer.status}")
        if answer.status != 200:
            raise RecordFault(Reason.FETCH_FAILED, f"the host answered {answer.status}")
        if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise RecordFault(Reason.FETCH_FAILED, "the host compresses although asked not to")
        if answer.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
            raise RecordFault(Reason.FETCH_FAILED, "the host uses a transfer encoding other than chunked")
        length = answer.headers.get("Content-Length", "").strip()
        if length.isascii() and length.isdigit() and int(length[:20]) > self._limits.max_bytes:
            raise _too_large(self._limits.max_bytes)

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        data = bytearray()  # not a list of pieces: a host that sends single bytes would make it huge
        async for piece in answer.content.iter_any():
            data += piece
            if len(data) > self._limits.max_bytes:
                raise _too_large(self._limits.max_bytes)
        return bytes(data)

    def _judged_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The only place where this session gets sockets from; `info` is as of getaddrinfo."""
        family, kind, protocol, _, peer = info
        self._policy.check(peer[0], peer[1])
        return socket.socket(family=family, type=kind, proto=protocol)


class _JudgingResolver(AbstractResolver):
    """Looks names up, and refuses those with any address that the policy refuses.

    The guard at the socket would do; but then the order of a mixed answer would decide the outcome.
    """

    def __init__(self, lookup: Lookup, threads: ThreadPoolExecutor, policy: AddressPolicy) -> None:
        self._lookup = lookup
        self._threads = threads
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.run_in_executor(self._threads, self._lookup, host, port)
        except socket.gaierror as error:
            fault = TransientFault if error.errno in _LOOKUP_WORTH_RETRYING else RecordFault
            raise fault(Reason.FETCH_FAILED, f"the host's name does not resolve: {error.strerror}") from None
        if not addresses:
            raise RecordFault(Reason.FETCH_FAILED, "the host's name has no address")
        for address in addresses:
            self._policy.check(address, port)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing to close: the threads belong to the Fetcher."""


class _Answer(aiohttp.ClientResponse):
    """A response that gives up on hosts that never get past 1xx answers.

    aiohttp reads those without end, and a stream of them would keep the event loop busy for the whole
    time limit.
    """

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        read = connection.protocol.read
        answers = 0

        async def counted() -> Any:
            nonlocal answers
            answers += 1
            if answers > _MOST_INTERIM_ANSWERS:
                raise RecordFault(Reason.FETCH_FAILED, "the host sends interim answers without end")
            return await read()

        connection.protocol.read = counted
        return await super().start(connection)


async def _within(seconds: float, work: Awaitable[_T]) -> _T:
    """Await `work`, its errors turned into faults.

    Always `from None`: aiohttp's errors hold the whole URL, and tracebacks are logged with their causes.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise TransientFault(Reason.FETCH_TIMEOUT, "the host was too slow") from None
    except aiohttp.ClientConnectorCertificateError:
        raise RecordFault(Reason.FETCH_FAILED, "the host's certificate is not valid") from None
    except aiohttp.InvalidURL:
        raise RecordFault(Reason.URL_REFUSED, "the URL is malformed") from None
    except (aiohttp.ClientResponseError, ValueError):
        raise RecordFault(Reason.FETCH_FAILED, "the host's answer is not valid HTTP") from None
    except (aiohttp.ClientError, OSError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise TransientFault(Reason.FETCH_FAILED, f"the connection failed: {what[:100]}") from None


def _system_lookup(host: str, port: int) -> list[str]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # An IPv6 zone is dropped: aiohttp would not pass it on, and no public address has one.
    return [str(info[4][0]).partition("%")[0] for info in infos]


def _s3_prefix(entry: str) -> str:
    try:
        target = parse_url(f"s3://{entry.strip().removeprefix('s3://').rstrip('/')}/any")
        assert isinstance(target, S3Target)
    except RecordFault as fault:
        raise UserError(f"allowed bucket {entry!r}: want bucket or bucket/prefix ({fault})") from None
    return f"{target.bucket}/{target.key.removesuffix('any')}"


def _media_type(answer: aiohttp.ClientResponse) -> str | None:
    claim = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return claim if _MEDIA_TYPE.fullmatch(claim) else None


def _too_large(limit: int) -> RecordFault:
    return RecordFault(Reason.TOO_LARGE, f"the photo is larger than {limit} bytes")
