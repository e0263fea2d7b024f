# SPDX-License-Identifier: Apache-2.0
"""The table of outcomes: numbers, words, and that each one can be reached and is told on top of its program."""

import re

import pytest

from nodeagent.kernel.reasons import KernelReason, read_reasons, reasons
from nodeagent.kernel.sources import FILTERS, read_source

# Counters outlive an upgrade: a row is appended, never moved, renamed or taken out.
NUMBERS = [
    "UNDECIDED",
    "NOT_IP",
    "NOT_TCP",
    "CUT_SHORT",
    "IP_OPTIONS",
    "FRAGMENT",
    "EXTENSION_HEADERS",
    "PROXY_PASSAGE",
    "SPOOFED_SOURCE",
    "PROXY_ANSWERED",
    "LOCAL_FLOW",
    "PROXY_FLOW",
    "NODE_FLOW",
    "FLOW_RENEWED",
    "REVOKED",
    "OUTSIDE_FLOW",
    "ADOPTED",
    "UNKNOWN_FLOW",
    "NODE_ADDRESS",
    "EXCLUDED",
    "LOCAL_ALLOWED",
    "LOCAL_STEERED",
    "STEERED",
    "UNKNOWN_DESTINATION",
    "NOT_REGISTERED",
    "ICMP_ERROR",
    "LOCAL_DELIVERED",
    "NODE_PROBE",
    "INBOUND",
    "INBOUND_FLOW",
    "NODE_ANSWER",
    "SYN_COOKIE",
    "INBOUND_OTHER",
    "PROXY_NOT_TCP",
    "INTO_POD",
    "INTO_NODE",
    "FOREIGN_SOURCE",
    "NOT_FOR_PROXY",
    "PROXY_ICMP",
    "PROXY_SYN",
    "PROXY_PACKET",
    "NOBODYS_RESET",
    "ASSIGNED_OUTBOUND",
    "ASSIGNED_HBONE",
    "ASSIGNED_PLAINTEXT",
    "PROXY_AWAY",
    "ASSIGN_REFUSED",
]


def test_rows_keep_their_numbers() -> None:
    assert [(row.number, row.name) for row in reasons()][: len(NUMBERS)] == list(enumerate(NUMBERS))


def test_every_row_has_a_verdict_and_words_of_one_line() -> None:
    for row in reasons():
        assert row.verdict in {"UNSPEC", "OK", "SHOT", "REDIRECT"}
        assert row.words
        assert not row.words.endswith(".")


def test_every_row_of_the_table_is_read() -> None:
    assert len(reasons()) == read_source("reasons.h").count("\tROW(") + 1


@pytest.mark.parametrize("row", reasons()[1:], ids=lambda row: row.name)
def test_a_reason_is_given_by_some_program_and_told_in_its_truth_table(row: KernelReason) -> None:
    name = row.name
    tables = "".join(read_source(f"{program}.c").partition("*/\n#include")[0] for program in FILTERS)
    told = name in tables or (name.startswith("ASSIGNED_") and "ASSIGNED_*" in tables) or name in _PARSE
    assert told
    code = "".join(read_source(file) for file in (*(f"{program}.c" for program in FILTERS), "parse.h"))
    assert re.search(rf"\bREASON_{name}\b", code)


_PARSE = {"CUT_SHORT", "IP_OPTIONS", "FRAGMENT", "EXTENSION_HEADERS", "TAGGED_TWICE", "MAPPED_ADDRESS"}
"""`one each` in the tables."""


def test_reading() -> None:
    rows = read_reasons('#define REASONS(ROW) \\\n\tROW(FIRST, SHOT, "why not") \\\n\tROW(SECOND, OK, "why")\n')
    assert [(row.number, row.name, row.words, row.is_drop) for row in rows[1:]] == [
        (1, "FIRST", "why not", True),
        (2, "SECOND", "why", False),
    ]
