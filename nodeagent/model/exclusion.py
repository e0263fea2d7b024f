# SPDX-License-Identifier: Apache-2.0
"""Destinations that are left alone: a connection to one is neither steered nor judged, and goes out as it is."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from nodeagent.model.address import Cidr, Port


class Exclusion(NamedTuple):
    """Connections that are left alone: to this block, on this port (0: every port)."""

    block: Cidr
    port: Port = Port(0)


_EVERYWHERE = ("0.0.0.0/0", "::/0")
_WITH_PORT = re.compile(r"(?:\[([^\]]*)\]|([^\[\]:]*)):(\d{1,5})")


def parse_exclusions(text: str) -> frozenset[Exclusion]:
    """From entries with commas between them: a block, `block:port` (`[block]:port` for IPv6), `*:port`.

    Raises ValueError naming the entry that is none.
    """
    return frozenset(exclusion for entry in text.split(",") if entry.strip() for exclusion in _parse(entry.strip()))


def _parse(entry: str) -> Iterator[Exclusion]:
    match = _WITH_PORT.fullmatch(entry)
    block, port = (match[1] or match[2], int(match[3])) if match else (entry, 0)
    if match and not 1 <= port <= 65535:
        raise ValueError(f"{entry!r}: {port} is no port")
    if not match and block == "*":
        raise ValueError(f"{entry!r} would leave everything alone")
    try:
        for one in _EVERYWHERE if block == "*" else (block,):
            yield Exclusion(Cidr.parse(one), Port(port))
    except ValueError as error:
        raise ValueError(f"{entry!r} is not a block, block:port or *:port") from error
