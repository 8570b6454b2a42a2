"""The address filter: what it refuses, in all forms of an address, and what the administrator can allow."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.jobs.curl.addresses import AddressFilter, AddressRefusedError

REFUSED = {
    "127.0.0.1": "a loopback address",
    "127.255.255.254": "a loopback address",
    "::1": "a loopback address",
    "0.0.0.0": "an unspecified address",
    "0.1.2.3": "an unspecified address",
    "::": "an unspecified address",
    "169.254.169.254": "a cloud metadata address",
    "169.254.170.2": "a cloud metadata address",
    "fd00:ec2::254": "a cloud metadata address",
    "fd00:ec2::23": "a cloud metadata address",
    "fd20:ce::254": "a cloud metadata address",
    "100.100.100.200": "a cloud metadata address",
    "168.63.129.16": "a cloud metadata address",
    "192.0.0.192": "a cloud metadata address",
    "169.254.1.1": "a link-local address",
    "fe80::1": "a link-local address",
    "fe80::1%eth0": "a link-local address",
    "febf::1": "a link-local address",
    "224.0.0.1": "a multicast address",
    "239.255.255.255": "a multicast address",
    "ff02::1": "a multicast address",
    "255.255.255.255": "a broadcast address",
}

FREE = [
    "10.0.0.1",
    "192.168.1.1",
    "8.8.8.8",
    "100.64.0.1",
    "2001:db8::1",
    "fd00::1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize(("address", "what"), REFUSED.items())
def test_refused_addresses_say_what_they_are(address: str, what: str) -> None:
    with pytest.raises(AddressRefusedError) as caught:
        AddressFilter().check(address)
    assert caught.value.what == what
    assert f"{address} is {what}" in str(caught.value)
    assert "ask the administrator" in str(caught.value)


@pytest.mark.parametrize("address", FREE)
def test_other_addresses_pass_private_ones_too(address: str) -> None:
    AddressFilter().check(address)


def embeddings(address: IPv4Address) -> dict[str, IPv6Address]:
    """The IPv6 addresses that a kernel, a translator or a tunnel turns into this IPv4 address."""
    bits = int(address)
    high, low = bits >> 16, bits & 0xFFFF
    inverted = bits ^ 0xFFFFFFFF
    return {
        "mapped": IPv6Address(f"::ffff:{address}"),
        "compatible": IPv6Address(bits),
        "translated": IPv6Address(f"::ffff:0:{address}"),
        "NAT64": IPv6Address(f"64:ff9b::{address}"),
        "local NAT64 /96": IPv6Address(f"64:ff9b:1::{address}"),
        "local NAT64 /48": IPv6Address(f"64:ff9b:1:{high:x}:{low >> 8:x}:{(low & 0xFF) << 8:x}::"),
        "local NAT64 /64": IPv6Address(f"64:ff9b:1:0:{bits >> 24:x}:{bits >> 8 & 0xFFFF:x}:{(bits & 0xFF) << 8:x}:0"),
        "6to4": IPv6Address(f"2002:{high:x}:{low:x}::1"),
        "Teredo client": IPv6Address(f"2001:0:808:808:0:0:{inverted >> 16:x}:{inverted & 0xFFFF:x}"),
        "Teredo server": IPv6Address(f"2001:0:{high:x}:{low:x}::f7f7:f7f7"),
        "ISATAP": IPv6Address(f"2001:db8::5efe:{address}"),
        "ISATAP, global": IPv6Address(f"2001:db8::200:5efe:{address}"),
    }


@given(st.sampled_from([a for a in REFUSED if "." in a]), st.sampled_from(list(embeddings(IPv4Address(0)))))
def test_a_refused_address_is_refused_inside_every_ipv6_form(address: str, form: str) -> None:
    inside = embeddings(IPv4Address(address))[form]
    with pytest.raises(AddressRefusedError):
        AddressFilter().check(str(inside))


@given(st.ip_addresses(v=4, network="10.0.0.0/8"))
def test_a_free_address_passes_inside_every_ipv6_form_that_holds_nothing_else(address: IPv4Address) -> None:
    forms = embeddings(address)
    for form in ("mapped", "translated", "NAT64", "6to4", "ISATAP"):
        AddressFilter().check(str(forms[form]))


@given(st.ip_addresses())
def test_special_addresses_are_refused_and_others_never_fail(address: IPv4Address | IPv6Address) -> None:
    refused = address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local
    if refused:
        with pytest.raises(AddressRefusedError):
            AddressFilter().check(str(address))
    else:
        with suppress(AddressRefusedError):
            AddressFilter().check(str(address))


@pytest.mark.parametrize("address", ["localhost", "", "0x7f.1", "2130706433", "127.1", "1.2.3.4.5"])
def test_what_is_not_a_plain_address_is_refused(address: str) -> None:
    with pytest.raises(AddressRefusedError, match="not an IP address"):
        AddressFilter().check(address)


def test_an_allowed_network_or_address_passes_in_every_form() -> None:
    addresses = AddressFilter(["127.0.0.0/8", "fd00:ec2::254"])
    for address in ("127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fd00:ec2::254"):
        addresses.check(address)
    for address in ("::1", "fd00:ec2::23"):
        with pytest.raises(AddressRefusedError):
            addresses.check(address)
    AddressFilter(["64:ff9b::/96"]).check("64:ff9b::7f00:1")


def test_the_api_server_is_refused_in_every_form_unless_allowed() -> None:
    server = ["10.96.0.1", "fd12::/64"]
    for address in ("10.96.0.1", "::ffff:10.96.0.1", "fd12::5"):
        with pytest.raises(AddressRefusedError, match="the API server's address"):
            AddressFilter(api_server=server).check(address)
        AddressFilter(["10.96.0.0/12", "fd12::5"], server).check(address)
    AddressFilter(api_server=server).check("10.96.0.2")


def test_hosts_are_trusted_by_name() -> None:
    addresses = AddressFilter(["Metadata.Internal", "localhost.", "my-host"])
    assert addresses.trusts("metadata.internal.")
    assert addresses.trusts("LOCALHOST")
    assert addresses.trusts("my-host")
    assert not addresses.trusts("internal")
    assert not addresses.trusts("a.localhost")


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "300.1.1.1", "http://host", "a b", "", "*.internal", "10.0.0"])
def test_an_invalid_allowed_entry_says_what_to_write(entry: str) -> None:
    with pytest.raises(ValueError, match="write a network such as"):
        AddressFilter([entry])


def test_an_api_server_that_is_a_name_says_what_to_write() -> None:
    with pytest.raises(ValueError, match="write an IP address"):
        AddressFilter(api_server=["kubernetes.default"])


PLACES = [("10.96.0.1", 443), ("192.0.2.2", 6443), ("::ffff:192.0.2.3", 6443), ("192.0.2.9", None), ("127.0.0.1", 6443)]


@pytest.mark.parametrize(
    "allow", [(), ("0.0.0.0/0", "::/0"), ("10.0.0.0/8", "192.0.0.0/8", "127.0.0.0/8", "64:ff9b::/96"), ("127.0.0.1",)]
)
@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("10.96.0.1", 443), ("192.0.2.2", 6443), ("192.0.2.3", 6443), ("::ffff:192.0.2.2", 6443),
        ("::ffff:c000:202", 6443), ("64:ff9b::c000:202", 6443), ("2002:c000:202::", 6443), ("127.0.0.1", 6443),
        ("0.0.0.0", 6443), ("::", 6443), ("::ffff:0.0.0.0", 6443),
    ],
)  # fmt: skip
def test_no_network_opens_the_ports_of_the_api_server(allow: tuple[str, ...], address: str, port: int) -> None:
    addresses = AddressFilter(allow)
    addresses.close_api_server(PLACES)
    with pytest.raises(AddressRefusedError):
        addresses.check(address, port)


def test_what_else_is_at_the_addresses_of_the_api_server_can_be_allowed() -> None:
    addresses = AddressFilter()
    addresses.close_api_server(PLACES)
    for address, port in (("10.96.0.1", 80), ("192.0.2.2", 10250), ("192.0.2.9", 80)):
        with pytest.raises(AddressRefusedError, match="is the API server's address"):
            addresses.check(address, port)
    addresses.check("192.0.2.4", 6443)
    addresses = AddressFilter(["192.0.2.0/24", "127.0.0.1", "10.96.0.1"])
    addresses.close_api_server(PLACES)
    for address, port in (("192.0.2.2", 10250), ("192.0.2.9", 80), ("127.0.0.1", 80), ("10.96.0.1", 443)):
        addresses.check(address, port)


def test_the_addresses_of_the_api_server_change() -> None:
    addresses = AddressFilter()
    addresses.close_api_server([("192.0.2.2", 6443)])
    addresses.close_api_server([("192.0.2.3", 6443)])
    addresses.check("192.0.2.2", 6443)
    with pytest.raises(AddressRefusedError):
        addresses.check("192.0.2.3", 6443)
