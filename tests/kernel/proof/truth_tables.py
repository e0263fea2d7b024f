# SPDX-License-Identifier: Apache-2.0
"""The truth tables on top of the filters in bpf/, read from their comments: what there is to be proved.

A line of a table is a number, the packet, the reasons and what becomes of it, two spaces or more apart; a line without
a number goes on with the row above.
"""

import re
from typing import NamedTuple

from nodeagent.kernel.reasons import reasons
from nodeagent.kernel.sources import FILTERS, read_source

_TABLE = re.compile(r"^ \*  #  packet, first row that fits +reason\n(.*?)^ \*\n", re.DOTALL | re.MULTILINE)
_COLUMN = re.compile(r" {2,}")
_REASONS = re.compile(r"[A-Z][A-Z_*]*[A-Z*](, [A-Z][A-Z_]*[A-Z])*")
_UNREAD = {
    "cut short": "CUT_SHORT",
    "options": "IP_OPTIONS",
    "fragment": "FRAGMENT",
    "extension headers": "EXTENSION_HEADERS",
    "two VLAN tags": "TAGGED_TWICE",
    "IPv4-mapped address": "MAPPED_ADDRESS",
}
"""What a line of several causes means by "one each"."""


class Row(NamedTuple):
    program: str
    number: int
    reason: str
    """Empty for a row that does something and goes on."""

    @property
    def families(self) -> tuple[str, ...]:
        """IPv6 has no options in its header, IPv4 no extension headers and no address but its own."""
        one = {"IP_OPTIONS": "IPv4", "EXTENSION_HEADERS": "IPv6", "MAPPED_ADDRESS": "IPv6"}.get(self.reason)
        return (one,) if one else ("IPv4", "IPv6")


def read_rows(program: str, source: str) -> list[Row]:
    table = _TABLE.search(source)
    assert table is not None, f"{program}: no truth table"
    number, rows = 0, []
    for line in table[1].splitlines():
        columns = [column for column in _COLUMN.split(line.removeprefix(" *").strip()) if column]
        if columns[0].isdigit():
            assert int(columns[0]) == number + 1, f"{program}: {line}: a row is missing before it"
            number += 1
            rows += [Row(program, number, reason) for reason in _named(columns[1:]) or ("",)]
        else:
            rows += [Row(program, number, reason) for reason in _named(columns)]
    return rows


def all_rows() -> list[Row]:
    return [row for program in FILTERS for row in read_rows(program, read_source(f"{program}.c"))]


def _named(columns: list[str]) -> list[str]:
    if "one each" in columns:
        return [_UNREAD[cause] for cause in columns[0].split(", ")]
    words = next((column for column in columns[1:] if _REASONS.fullmatch(column)), "")
    if words.endswith("_*"):
        return [reason.name for reason in reasons() if reason.name.startswith(words[:-1])]
    return words.split(", ") if words else []
