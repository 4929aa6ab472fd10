"""Photo URLs: one strict reading that everything uses, and the form of a URL that may be logged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, urljoin

from stream_worker.errors import Reason, RecordFault

MAX_URL_CHARACTERS = 4096  # the longest that signing services and CDNs accept is about half of this
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SHAPE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?:#.*)?", re.I | re.S)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?", re.I)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ENCODED_CONTROL = re.compile(r"%(?:[01][0-9a-f]|7f)", re.I)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# What stays as it is in a path or query: all of RFC 3986, so that signatures over the raw text hold.
_RAW = "!#$%&'()*+,/:;=?@[]-._~"


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """An http or https URL in parts: `host` in lower case without brackets, `path` with its query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """`host:port`, the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def text(self) -> str:
        """The URL to request. It may hold a signature: never log it."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def for_log(self) -> str:
        """Without query."""
        return _bounded(f"{self.scheme}://{self.authority}{self.path.partition('?')[0]}")


@dataclass(frozen=True, slots=True)
class S3Target:
    """An `s3://bucket/key` URL; `key` is taken literally."""

    bucket: str
    key: str

    @property
    def for_log(self) -> str:
        """The URL, bounded."""
        return _bounded(f"s3://{self.bucket}/{self.key}")


def parse_url(url: str) -> HttpTarget | S3Target:
    """Read a photo's URL, strictly: what two readers could read differently is refused, never mended.

    No control characters (raw or percent-encoded), white space, backslashes, userinfo, zones, non-ASCII
    hosts (their xn-- form is fine), trailing dots, or IPv4 in other than four decimal parts.
    Raises RecordFault(URL_REFUSED); its message holds nothing of the URL but a scheme.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise _refused(f"the URL is longer than {MAX_URL_CHARACTERS} characters")
    _check_characters(url)
    shape = _SHAPE.fullmatch(url)
    if shape is None:
        raise _refused("the URL is not of the form scheme://host/path")
    scheme, authority, rest = shape["scheme"].lower(), shape["authority"], shape["rest"]
    if scheme == "s3":
        return _parse_s3(authority, rest)
    if scheme not in _DEFAULT_PORTS:
        raise _refused(f"the scheme {scheme[:16]!r} is not one that photos are fetched with")
    if "@" in authority:
        raise _refused("the URL carries credentials before its host")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise _refused("the URL's host is missing or malformed (international names: use their xn-- form)")
    port = int(parts["port"]) if parts["port"] else _DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65535:
        raise _refused("the URL's port is not between 1 and 65535")
    path = quote(rest if rest.startswith("/") else "/" + rest, safe=_RAW)
    return HttpTarget(scheme, _parse_host(parts["host"].lower()), port, path)


def follow(current: HttpTarget, location: str) -> HttpTarget:
    """Where a redirect leads. Raises RecordFault(URL_REFUSED) for what `parse_url` refuses, for schemes
    other than http and https, and from https to http."""
    if len(location) > MAX_URL_CHARACTERS:
        raise _refused(f"a redirect is longer than {MAX_URL_CHARACTERS} characters")
    _check_characters(location)
    try:
        target = parse_url(urljoin(current.text, location))
    except ValueError:
        raise _refused("a redirect leads to a malformed URL") from None
    if isinstance(target, S3Target):
        raise _refused("a redirect leads from http to s3")
    if current.scheme == "https" and target.scheme == "http":
        raise _refused("a redirect leads from https down to http")
    return target


def safe_url(url: str) -> str:
    """A URL for logs, errors, events and metrics: no userinfo, query, fragment or control characters,
    at most 200 characters. A URL that is not well formed keeps its scheme only, as it could hide
    credentials anywhere."""
    try:
        return parse_url(url).for_log
    except RecordFault:
        scheme = re.match(r"[a-z][a-z0-9+-]{0,15}(?=:)", url, re.I)
        return f"{scheme[0].lower()}:..." if scheme else "..."


def _parse_host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise _refused("the URL's host is not an IPv6 address") from None
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("the URL's host is not a host name")
    # As in the WHATWG URL standard: a host that ends in a number is an IPv4 address, in whatever notation.
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise _refused("the URL's host is an IPv4 address in an unusual notation") from None
    return host


def _parse_s3(bucket: str, rest: str) -> S3Target:
    key = rest[1:]
    if not _BUCKET.fullmatch(bucket) or not key or "?" in key:
        raise _refused("want s3://bucket/key, without a query")
    if any(part in ("", ".", "..") for part in key.split("/")) or len(key.encode()) > 1024:
        raise _refused("the S3 key has empty or dotted parts, or is longer than 1024 bytes")
    return S3Target(bucket, key)


def _check_characters(text: str) -> None:
    # `isprintable` is false for control, format and separator characters and for lone surrogates.
    if not text.isprintable() or " " in text or "\\" in text:
        raise _refused("the URL has white space, backslashes or control characters")
    if _ENCODED_CONTROL.search(text):
        raise _refused("the URL has percent-encoded control characters")


def _refused(message: str) -> RecordFault:
    return RecordFault(Reason.URL_REFUSED, message)


def _bounded(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."
