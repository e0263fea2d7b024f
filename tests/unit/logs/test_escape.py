# SPDX-License-Identifier: Apache-2.0
"""Whatever a peer calls itself, a line stays one line and a field one field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.logs.escape import MAX_CHARACTERS, bare, bounded, one_line, quoted


@pytest.mark.parametrize(
    ("text", "written"),
    [
        pytest.param("web-7f", '"web-7f"', id="a name"),
        pytest.param("", '""', id="nothing"),
        pytest.param('a"b', '"a\\"b"', id="quote"),
        pytest.param("a\\b", '"a\\\\b"', id="backslash"),
        pytest.param("a\nb\r\tc", '"a\\nb\\r\\tc"', id="line ends and tab"),
        pytest.param("\x1b[31m", '"\\u{1b}[31m"', id="terminal escape"),
        pytest.param("\x9b31m", '"\\u{9b}31m"', id="C1 control"),
        pytest.param("a\u202eb\u2028c", '"a\\u{202e}b\\u{2028}c"', id="bidi and line separator"),
        pytest.param("größe", '"größe"', id="letters of any language"),
    ],
)
def test_quoted(text: str, written: str) -> None:
    assert quoted(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("[fd00::1]:15008", "[fd00::1]:15008"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("10.0.0.1:80 direction=forged", '"10.0.0.1:80 direction=forged"'),
        ("", '""'),
    ],
)
def test_bare(text: str, written: str) -> None:
    assert bare(text) == written


@given(st.text())
def test_a_quoted_value_is_one_printable_field(text: str) -> None:
    value = quoted(text)
    assert value.isprintable()
    inner = value[1:-1].replace("\\\\", "").replace('\\"', "")
    assert value[0] == value[-1] == '"'
    assert '"' not in inner


@given(st.text(max_size=MAX_CHARACTERS), st.text(max_size=MAX_CHARACTERS))
def test_two_values_are_written_alike_only_if_they_are_equal(one: str, other: str) -> None:
    assert (quoted(one) == quoted(other)) == (one == other)


@given(st.text())
def test_a_message_stays_on_its_line(text: str) -> None:
    assert one_line(text).isprintable()


def test_a_long_value_is_cut_and_says_so() -> None:
    assert len(bounded("x" * 10_000)) == MAX_CHARACTERS
    assert bounded("x" * 10_000).endswith("…")
    assert bounded("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS
