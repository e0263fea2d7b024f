# SPDX-License-Identifier: Apache-2.0
"""What a CONNECT may be for, in every spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.hbone.authority import Authority, parse_authority
from nodeagent.model.address import Ip, Port, join_host_port, parse_ip


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("10.0.0.2:8080", Authority(Port(8080), Ip("10.0.0.2"))),
        ("[fd00::1]:8080", Authority(Port(8080), Ip("fd00::1"))),
        ("[FD00:0::1]:1", Authority(Port(1), Ip("fd00::1"))),
        ("[::ffff:10.0.0.2]:80", Authority(Port(80), Ip("10.0.0.2"))),
        ("name.ns.svc.cluster.local:80", Authority(Port(80), hostname="name.ns.svc.cluster.local")),
        ("Name:65535", Authority(Port(65535), hostname="name")),
        ("a_b-c.d:80", Authority(Port(80), hostname="a_b-c.d")),
    ],
)
def test_parse(text: str, authority: Authority) -> None:
    assert parse_authority(text) == authority


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "10.0.0.2",
        "10.0.0.2:",
        "10.0.0.2:0",
        "10.0.0.2:65536",
        "10.0.0.2:-1",
        "10.0.0.2:8 0",
        "10.0.0.2:٨٠",
        "10.0.0.256:80",
        "010.0.0.1:80",
        "1.2.3:80",
        "fd00::1:80",
        "[fd00::1]",
        "[fd00::1%eth0]:80",
        "[10.0.0.1]:80",
        "[name]:80",
        "[]:80",
        "user@host:80",
        "host/path:80",
        "-host:80",
        "a..b:80",
        ".a:80",
        "h\nost:80",
        "host\n:80",
        "a" * 64 + ".b:80",
        "a." * 127 + "b" * 10 + ":80",
    ],
)
def test_refuse(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_authority(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_address_survives(address: object, port: int) -> None:
    try:
        ip = parse_ip(str(address))
    except ValueError:
        return  # a zone index
    assert parse_authority(join_host_port(ip, port)) == Authority(Port(port), ip)


@given(st.text(max_size=80))
def test_anything_else_is_a_value_error(text: str) -> None:
    try:
        authority = parse_authority(text)
    except ValueError:
        return
    assert (authority.ip is None) == bool(authority.hostname)
