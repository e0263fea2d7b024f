# SPDX-License-Identifier: Apache-2.0
"""Exclusions as an operator types them."""

import pytest

from nodeagent.model.address import Cidr, Port
from nodeagent.model.exclusion import Exclusion, parse_exclusions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" , ", []),
        ("10.0.0.0/8", [("10.0.0.0/8", 0)]),
        ("192.0.2.1", [("192.0.2.1/32", 0)]),
        ("192.0.2.0/24:443", [("192.0.2.0/24", 443)]),
        ("fd00::/8", [("fd00::/8", 0)]),
        ("[fd00::/8]:53", [("fd00::/8", 53)]),
        ("::1", [("::1/128", 0)]),
        ("*:2049", [("0.0.0.0/0", 2049), ("::/0", 2049)]),
        ("10.0.0.0/8, *:65535", [("10.0.0.0/8", 0), ("0.0.0.0/0", 65535), ("::/0", 65535)]),
    ],
)
def test_entries(text: str, expected: list[tuple[str, int]]) -> None:
    assert parse_exclusions(text) == {Exclusion(Cidr.parse(block), Port(port)) for block, port in expected}


@pytest.mark.parametrize("text", ["*", "ten", "10.0.0.0/33", "10.0.0.1:0", "10.0.0.1:65536", "fd00::1]:80", "[::1]"])
def test_what_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="'") as caught:
        parse_exclusions(f"10.0.0.0/8,{text}")
    assert repr(text) in str(caught.value)
