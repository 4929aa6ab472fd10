"""Which addresses photos may be fetched from: a pure policy over IP addresses and ports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from stream_worker.errors import Reason, RecordFault, UserError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

WEB_PORTS = frozenset({80, 443})

# Python's `is_global` is no verdict: it is true for multicast, 6to4, NAT64 and for metadata services on
# public addresses, and its tables change with the patch release. Source: the IANA special-purpose
# registries for IPv4 and IPv6, and the clouds' documents for the last group.
_DENIED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network (Linux takes 0.0.0.0 for loopback)
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; 100.100.100.200 is a cloud's metadata service
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; 169.254.169.254 is most clouds' metadata service
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is a cloud's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "168.63.129.16/32",  # a cloud's metadata service on a public address
    )
)
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
_DENIED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, ORCHID, benchmarking (Teredo is unwrapped before)
        "2001:db8::/32",  # documentation
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_MAPPED = IPv6Network("::ffff:0:0/96")
_LOW_32_BITS = (
    IPv6Network("::/96"),  # IPv4-compatible; turns ::1 and :: into the refused 0.0.0.1 and 0.0.0.0
    IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated (SIIT, RFC 2765)
    IPv6Network("64:ff9b::/96"),  # NAT64 (RFC 6052)
)
_TEREDO = IPv6Network("2001::/32")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_ISATAP_IDS = frozenset({0x0000_5EFE, 0x0200_5EFE})  # RFC 5214, section 6.1


@dataclass(frozen=True, slots=True)
class AllowRule:
    """Addresses permitted although they are not public: on the policy's ports, or on exactly `port`."""

    network: Network
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> AllowRule:
        """Read `10.0.0.0/8`, `127.0.0.1/32:8123`, `fd00::/8` or `[::1/128]:8123`.

        Raises UserError when it is none of these (host bits set count as a mistake).
        """
        match = re.fullmatch(r"\[([0-9a-fA-F:./]+)\](?::(\d{1,5}))?|([0-9./]+):(\d{1,5})", text.strip())
        cidr, port = (match[1] or match[3], match[2] or match[4]) if match else (text.strip(), None)
        try:
            rule = cls(ip_network(cidr), int(port) if port else None)
        except ValueError as error:
            raise UserError(
                f"allowed address {text!r}: want CIDR or CIDR:port, such as 127.0.0.1/32:8123 or "
                f"[fd00::/8]:8123 ({error})"
            ) from None
        if rule.port is not None and not 1 <= rule.port <= 65535:
            raise UserError(f"allowed address {text!r}: the port must be 1 to 65535")
        return rule

    def permits(self, address: Address, port: int, usual_ports: frozenset[int]) -> bool:
        """Whether this rule lets a socket connect to `address` and `port`."""
        if address not in self.network:
            return False
        return port == self.port if self.port is not None else port in usual_ports


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Public unicast addresses on `ports`, besides those of `allow`; never those of `deny`."""

    allow: tuple[AllowRule, ...] = ()
    ports: frozenset[int] = WEB_PORTS
    deny: tuple[Network, ...] = ()

    @classmethod
    def parse(
        cls, allow: Iterable[str] = (), ports: Iterable[int] = WEB_PORTS, deny: Iterable[str] = ()
    ) -> AddressPolicy:
        """The policy that settings describe. `allow` as in `AllowRule.parse`, `deny` are CIDRs.

        Raises UserError for an entry that can't be read.
        """
        try:
            denied = tuple(ip_network(entry.strip()) for entry in deny)
        except ValueError as error:
            raise UserError(f"denied address: want CIDR, such as 203.0.113.0/24 ({error})") from None
        usual = frozenset(ports)
        for port in usual:
            if not 1 <= port <= 65535:
                raise UserError(f"port {port} is not between 1 and 65535")
        return cls(tuple(AllowRule.parse(entry) for entry in allow), usual, denied)

    def check_port(self, port: int) -> None:
        """Refuse, before any name is looked up, a port that no address may be reached on.

        Raises RecordFault(URL_REFUSED).
        """
        if port not in self.ports and all(port != rule.port for rule in self.allow):
            raise RecordFault(Reason.URL_REFUSED, f"port {port} is not one that photos are fetched from")

    def check(self, ip: str | Address, port: int) -> None:
        """Judge the address and port that a socket is about to connect to.

        `ip` may carry an IPv6 zone. Raises RecordFault(URL_REFUSED) unless the address is allowed, or is public
        after everything that it may tunnel to has been unwrapped.
        """
        try:
            address = ip_address(ip.partition("%")[0]) if isinstance(ip, str) else ip
        except ValueError:
            raise RecordFault(Reason.URL_REFUSED, "not an IP address") from None
        zoned = "%" in str(ip)
        # A mapped address is the very same IPv4 host; the other embeddings are tunnels and translators.
        if isinstance(address, IPv6Address) and address in _MAPPED:
            address = _low(address)
        if any(address in network for network in self.deny):
            raise _refused(address, "it is on the deny-list")
        if any(rule.permits(address, port, self.ports) for rule in self.allow):
            return
        if zoned or not _is_public(address):
            raise _refused(address, "it is not a public address")
        if any(inner in network for inner in _embedded(address) for network in self.deny):
            raise _refused(address, "it leads to an address on the deny-list")
        if port not in self.ports:
            raise _refused(address, f"port {port} is not one that photos are fetched from")


def _refused(address: Address, why: str) -> RecordFault:
    return RecordFault(Reason.URL_REFUSED, f"photos are not fetched from {address}: {why}")


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _DENIED_V4)
    inner = tuple(_embedded(address))
    if not all(_is_public(each) for each in inner):
        return False
    if inner and any(address in network for network in (*_LOW_32_BITS, _TEREDO, _SIX_TO_FOUR)):
        return True
    return address in _GLOBAL_UNICAST_V6 and not any(address in network for network in _DENIED_V6)


def _embedded(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that packets to `address` may end up at."""
    if isinstance(address, IPv4Address):
        return
    bits = int(address)
    if any(address in network for network in _LOW_32_BITS):
        yield _low(address)
    elif address in _SIX_TO_FOUR:  # RFC 3056: 2002:V4ADDR::/48
        yield IPv4Address(bits >> 80 & 0xFFFF_FFFF)
    elif address in _TEREDO:  # RFC 4380: server, and the client's address with its bits turned over
        yield IPv4Address(bits >> 64 & 0xFFFF_FFFF)
        yield IPv4Address(~bits & 0xFFFF_FFFF)
    if bits >> 32 & 0xFFFF_FFFF in _ISATAP_IDS:
        yield _low(address)


def _low(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFF_FFFF)
