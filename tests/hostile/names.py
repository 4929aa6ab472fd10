"""A name server for hostile names, over UDP (RFC 1035): what a name leads to is told anew at every question."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

PUBLIC = "93.184.216.34"
PRIVATE, METADATA, METADATA_V6 = "10.99.0.1", "169.254.169.254", "fd00:ec2::254"

ZONE: Mapping[str, Sequence[Sequence[str]]] = {
    "private.test": [[PRIVATE]],
    "metadata.test": [[METADATA]],
    "metadata6.test": [[METADATA_V6]],
    "loopback.test": [["127.0.0.1"]],
    "mixed.test": [[PUBLIC, PRIVATE]],
    "mixed6.test": [[PUBLIC, "::1"]],
    "rebinding.test": [[PUBLIC], ["127.0.0.1"]],
}
"""Addresses of each name: those of the first question, of the second... and the last ones from then on."""

A, AAAA, NO_SUCH_NAME = 1, 28, 3


class NameServer(asyncio.DatagramProtocol):
    """Answers A and AAAA, with a TTL of 0."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, int], Iterator[Sequence[str]]] = {}
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, end = _name(data, 12)
        (kind,) = struct.unpack_from(">H", data, end)
        answers = [_packed(one) for one in self._addresses(name, kind) if (":" in one) == (kind == AAAA)]
        code = 0 if name in ZONE else NO_SUCH_NAME
        head = data[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(answers), 0, 0)
        records = b"".join(struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(one)) + one for one in answers)
        self._transport.sendto(head + data[12 : end + 4] + records, addr)

    def _addresses(self, name: str, kind: int) -> Sequence[str]:
        if name not in ZONE:
            return []
        turns = ZONE[name]
        asked = self._turns.setdefault((name, kind), itertools.chain(turns, itertools.repeat(turns[-1])))
        return next(asked)


def _name(data: bytes, at: int) -> tuple[str, int]:
    labels = []
    while size := data[at]:
        labels.append(data[at + 1 : at + 1 + size].decode("ascii", "replace").lower())
        at += 1 + size
    return ".".join(labels), at + 1


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
