# SPDX-License-Identifier: Apache-2.0
"""Addresses: one canonical text per address, families that never mix, and inverses that are inverses."""

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nodeagent.model.address import (
    Cidr,
    Ip,
    is_ipv6,
    join_host_port,
    pack_ip,
    packed_ip,
    parse_ip,
    socket_ip,
    split_host_port,
    unpack_ip,
)

MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
addresses = st.ip_addresses()
networks = st.builds(
    lambda ip, bits: (
        ipaddress.ip_network((int(ip), min(bits, ip.max_prefixlen)), strict=False)
        if ip.version == 4
        else ipaddress.ip_network((ip.packed, bits), strict=False)
    ),
    addresses,
    st.integers(0, 128),
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:a00:1", "10.0.0.1"),
        ("FD00:0:0::1", "fd00::1"),
        ("::", "::"),
        ("::10.0.0.1", "::a00:1"),
    ],
)
def test_an_address_has_one_text(text: str, canonical: str) -> None:
    assert parse_ip(text) == canonical


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.1/8", "010.0.0.1", "fe80::1%eth0", "localhost", "10.0.0.1 "])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_ip(text)


@given(addresses)
def test_packing_and_unpacking_are_inverse(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    ip = parse_ip(str(address))
    assert len(packed_ip(ip)) == 16
    assert pack_ip(ip) == packed_ip(ip)
    assert unpack_ip(packed_ip(ip)) == ip
    assert unpack_ip(address.packed) == ip
    assert parse_ip(ip) == ip


@given(st.ip_addresses(v=4))
def test_the_mapped_form_is_the_ipv4_address_in_every_reader(address: ipaddress.IPv4Address) -> None:
    ip = Ip(str(address))
    mapped = b"\0" * 10 + b"\xff\xff" + address.packed
    assert {
        parse_ip(f"::ffff:{address}"),
        socket_ip(f"::ffff:{address}"),
        socket_ip(str(address)),
        unpack_ip(mapped),
    } == {ip}
    assert packed_ip(ip) == mapped
    assert not is_ipv6(ip)


@given(st.ip_addresses(v=6))
def test_a_socket_gives_canonical_text(address: ipaddress.IPv6Address) -> None:
    if address.ipv4_mapped is None:
        assert socket_ip(str(address)) == parse_ip(str(address))
        assert is_ipv6(socket_ip(str(address)))


def test_the_addresses_of_a_large_mesh_are_not_remembered() -> None:
    """They come once, and would push those out that come with each connection."""
    before = parse_ip.cache_info().currsize, packed_ip.cache_info().currsize
    for number in range(100):
        assert len(pack_ip(unpack_ip(ipaddress.IPv4Address(number).packed))) == 16
    assert (parse_ip.cache_info().currsize, packed_ip.cache_info().currsize) == before


@pytest.mark.parametrize("length", [0, 3, 5, 15, 17])
def test_an_address_of_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_ip(b"\x01" * length)


@given(addresses, st.integers(1, 65535))
def test_host_and_port_are_joined_and_split(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    assert split_host_port(join_host_port(str(address), port)) == (str(address), port)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("a.b.svc:80", "a.b.svc", 80), ("[::1]:1", "::1", 1), ("10.0.0.1:65535", "10.0.0.1", 65535)],
)
def test_a_host_and_port(text: str, host: str, port: int) -> None:
    assert split_host_port(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":80",
        "a",
        "a:",
        "a:0",
        "a:65536",
        "a:-1",
        "a:+1",
        "a:8o",
        "a: 80",
        "a:\N{ARABIC-INDIC DIGIT ONE}",
        "::1:80",
        "[::1]",
        "[::1]80",
        "[a]:80",
        "[10.0.0.1]:80",
        "[]:80",
        "a:" + "9" * 5000,
    ],
)
def test_what_is_no_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        split_host_port(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.20.1.5/16", "10.20.0.0/16"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("fd00::1/16", "fd00::/16"),
        ("::1", "::1/128"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
    ],
)
def test_a_block_is_masked_and_shown(text: str, shown: str) -> None:
    assert str(Cidr.parse(text)) == shown
    assert Cidr.parse(shown) == Cidr.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.0/33",
        "fd00::/129",
        "10.0.0/8",
        "10.0.0.0/-1",
        "10.0.0.0/",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/0.0.0.255",
        "fe80::%eth0/64",
        "10.0.0.0/8/8",
        "a/8",
    ],
)
def test_what_is_no_block_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Cidr.parse(text)


@pytest.mark.parametrize(("packed", "length"), [(b"\x0a\0\0\0", 33), (b"\x0a\0\0", 8), (b"", 0), (b"\0" * 16, 129)])
def test_an_impossible_packed_block_is_refused(packed: bytes, length: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        Cidr.unpack(packed, length)


@given(networks, addresses)
def test_a_block_contains_what_the_standard_library_says(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    """But for mapped addresses and their blocks, which are IPv4 here and IPv6 there."""
    assume(not (isinstance(network, ipaddress.IPv6Network) and network.subnet_of(MAPPED)))
    block = Cidr.unpack(network.network_address.packed, network.prefixlen)
    inside = network[0]
    for candidate in (address, inside):
        if isinstance(candidate, ipaddress.IPv6Address) and candidate.ipv4_mapped:
            continue
        assert block.contains(parse_ip(str(candidate))) == (candidate in network), candidate
    assert Cidr.parse(str(network)) == block


@given(st.ip_addresses(v=4), st.ip_addresses(v=6))
def test_families_do_not_mix(four: ipaddress.IPv4Address, six: ipaddress.IPv6Address) -> None:
    assert not Cidr.parse("::/0").contains(Ip(str(four)))
    if six.ipv4_mapped is None:
        assert not Cidr.parse("0.0.0.0/0").contains(Ip(str(six)))
