"""The address policy: what is public, what only looks so, and what the allow-list opens."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.errors import Reason, RecordFault, UserError
from stream_worker.images.address import AddressPolicy, AllowRule

PUBLIC_ONLY = AddressPolicy()

REFUSED = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.251",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:a9fe:a9fe::f7f7:f7f7",  # Teredo: server 169.254.169.254, client 8.8.8.8
    "2001:0:808:808::8000:fffe",  # Teredo: server 8.8.8.8, client 127.255.0.1
    "2001:2::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2606:4700::5efe:10.0.0.1",  # ISATAP
    "2606:4700::200:5efe:127.0.0.1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
    "not an address",
    "127.1",
    "2130706433",
    "0177.0.0.1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2001:4860:4860::8888",
    "2002:808:808::1",
    "2606:4700:4700::1111",
]


@pytest.mark.parametrize("ip", REFUSED)
@pytest.mark.parametrize("port", [80, 443])
def test_an_address_that_is_not_public_is_refused(ip: str, port: int) -> None:
    with pytest.raises(RecordFault) as caught:
        PUBLIC_ONLY.check(ip, port)
    assert caught.value.reason is Reason.URL_REFUSED


@pytest.mark.parametrize("ip", PUBLIC)
def test_a_public_address_passes_on_web_ports_only(ip: str) -> None:
    PUBLIC_ONLY.check(ip, 80)
    PUBLIC_ONLY.check(ip, 443)
    with pytest.raises(RecordFault, match="port 9092"):
        PUBLIC_ONLY.check(ip, 9092)


def test_an_allowed_address_and_port_open_exactly_that() -> None:
    policy = AddressPolicy.parse(["127.0.0.1/32:8123"])
    policy.check("127.0.0.1", 8123)
    policy.check("::ffff:127.0.0.1", 8123)  # the same host by its other name
    policy.check_port(8123)
    for ip, port in [
        ("127.0.0.1", 8124),
        ("127.0.0.1", 80),
        ("127.0.0.2", 8123),
        ("::1", 8123),
        ("8.8.8.8", 8123),
        ("2002:7f00:1::", 8123),
        ("64:ff9b::127.0.0.1", 8123),
    ]:
        with pytest.raises(RecordFault):
            policy.check(ip, port)
    with pytest.raises(RecordFault):
        policy.check_port(8124)


def test_an_allowed_network_without_port_opens_the_usual_ports() -> None:
    policy = AddressPolicy.parse(["10.0.0.0/8", "[fd00::/8]:9000"], ports=[80, 8080])
    policy.check("10.2.3.4", 8080)
    policy.check("fd00::1", 9000)
    for ip, port in [("10.2.3.4", 9000), ("10.2.3.4", 443), ("fd00::1", 80), ("11.0.0.1", 443)]:
        with pytest.raises(RecordFault):
            policy.check(ip, port)


def test_the_deny_list_beats_public_and_allowed_addresses_also_behind_tunnels() -> None:
    policy = AddressPolicy.parse(["10.0.0.0/8"], deny=["8.8.8.0/24", "10.0.0.1/32"])
    policy.check("10.0.0.2", 80)
    policy.check("8.8.4.4", 80)
    for ip in ["8.8.8.8", "10.0.0.1", "::ffff:10.0.0.1", "64:ff9b::8.8.8.8", "2002:808:808::1"]:
        with pytest.raises(RecordFault, match="deny-list"):
            policy.check(ip, 80)


@pytest.mark.parametrize(
    "entry", ["", "localhost", "127.0.0.1:80:90", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8:0", "10.0.0.0/8:70000"]
)
def test_a_wrong_allow_entry_is_one_clear_line(entry: str) -> None:
    with pytest.raises(UserError, match="allowed address") as caught:
        AllowRule.parse(entry)
    assert "\n" not in str(caught.value)


def test_wrong_ports_and_deny_entries_are_one_clear_line() -> None:
    with pytest.raises(UserError, match="denied address"):
        AddressPolicy.parse(deny=["evil"])
    with pytest.raises(UserError, match="port 0"):
        AddressPolicy.parse(ports=[0])


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_the_policy_is_never_laxer_than_pythons_tables_for_ipv4(bits: int) -> None:
    address = IPv4Address(bits)
    try:
        PUBLIC_ONLY.check(address, 80)
    except RecordFault:
        return
    assert address.is_global
    assert not address.is_multicast


@given(st.sampled_from([0x7F000001, 0x0A000001, 0xA9FEA9FE]), st.integers(min_value=0, max_value=2**64 - 1))
def test_no_tunnel_leads_to_a_private_address(inner: int, rest: int) -> None:
    for address in [
        IPv6Address(inner),
        IPv6Address(0xFFFF << 32 | inner),
        IPv6Address(0x0064_FF9B << 96 | inner),
        IPv6Address(0x2002 << 112 | inner << 80 | rest),
        IPv6Address(0x2001_0000 << 96 | inner << 64 | rest),
        IPv6Address(0x2606_4700 << 96 | 0x5EFE << 32 | inner),
    ]:
        with pytest.raises(RecordFault):
            PUBLIC_ONLY.check(address, 80)
