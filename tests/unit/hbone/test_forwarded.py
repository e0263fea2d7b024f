# SPDX-License-Identifier: Apache-2.0
"""RFC 7239 as far as it is believed: strict, bounded, there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.hbone.forwarded import MAX_CHARACTERS, Forwarded, build_forwarded, parse_forwarded
from nodeagent.model.address import Ip, Port


@pytest.mark.parametrize(
    ("ip", "port", "host", "text"),
    [
        ("10.0.0.1", 34567, "", 'for="10.0.0.1:34567"'),
        ("fd00::1", 34567, "", 'for="[fd00::1]:34567"'),
        ("10.0.0.1", 1, "svc.ns.svc.cluster.local", 'for="10.0.0.1:1";host=svc.ns.svc.cluster.local'),
        ("10.0.0.1", 1, "svc:80", 'for="10.0.0.1:1";host="svc:80"'),
        ("10.0.0.1", 1, 'a"b\\', 'for="10.0.0.1:1";host="a\\"b\\\\"'),
    ],
)
def test_build_and_parse_back(ip: str, port: int, host: str, text: str) -> None:
    assert build_forwarded(Ip(ip), port, host) == text
    assert parse_forwarded(text) == Forwarded(Ip(ip), Port(port), host or None)


@pytest.mark.parametrize(
    ("text", "forwarded"),
    [
        ("for=10.0.0.1", Forwarded(Ip("10.0.0.1"))),
        ('FOR="[FD00::0:1]"', Forwarded(Ip("fd00::1"))),
        ("for=unknown", Forwarded(None)),
        ('for="_hidden:80"', Forwarded(None, Port(80))),
        ('for="10.0.0.1:_port"', Forwarded(Ip("10.0.0.1"))),
        ("host=svc", Forwarded(None, None, "svc")),
        ('by=10.9.9.9;proto=http;for="10.0.0.1:5"', Forwarded(Ip("10.0.0.1"), Port(5))),
        ('for="10.0.0.1:5" , for=10.0.0.2;host=b', Forwarded(Ip("10.0.0.1"), Port(5))),
    ],
)
def test_parse(text: str, forwarded: Forwarded) -> None:
    assert parse_forwarded(text) == forwarded


@pytest.mark.parametrize(
    "text",
    [
        "",
        "for",
        "for=",
        'for="',
        'for="10.0.0.1',
        "for=10.0.0.1:80",
        'for="10.0.0.1:0"',
        'for="10.0.0.1:65536"',
        'for="10.0.0.1:"',
        'for="fd00::1"',
        'for="[10.0.0.1]"',
        'for="[fd00::1"',
        'for="[fd00::1%eth0]"',
        'for="10.0.0.999"',
        'for="somebody"',
        "for=10.0.0.1;for=10.0.0.2",
        "for=10.0.0.1;",
        "for=10.0.0.1,",
        "for=10.0.0.1; host=a",
        "for=10.0.0.1 host=a",
        " for=10.0.0.1",
        'for="10.0.0.1\x00"',
        "for=10.0.0.1,for=nobody",
        "for=10.0.0.1;host=" + "a" * MAX_CHARACTERS,
    ],
)
def test_refuse(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_forwarded(text)


@given(st.text(alphabet='for=";,host[]:.1_\\ \t\x00é', max_size=60))
def test_anything_else_is_a_value_error(text: str) -> None:
    try:
        forwarded = parse_forwarded(text)
    except ValueError:
        return
    assert forwarded.port is None or 1 <= forwarded.port <= 65535
