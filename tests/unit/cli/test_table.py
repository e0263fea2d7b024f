# SPDX-License-Identifier: Apache-2.0
"""Columns line up, a pipe gets everything, a terminal gets what fits, and no cell can break a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.cli.table import render

_HEADERS = ["NAMESPACE", "POD", "STATE"]
_ROWS = [["shop", "web-7f9c4d", "ok"], ["a-long-namespace", "db", ""]]


def test_for_a_pipe() -> None:
    assert render(_HEADERS, _ROWS) == (
        "NAMESPACE         POD         STATE\nshop              web-7f9c4d  ok\na-long-namespace  db          -\n"
    )


def test_without_headers() -> None:
    assert render(_HEADERS, _ROWS, with_headers=False).splitlines()[0] == "shop              web-7f9c4d  ok"


def test_nothing_but_headers() -> None:
    assert render(_HEADERS, []) == "NAMESPACE  POD  STATE\n"
    assert render(_HEADERS, [], with_headers=False) == ""


def test_a_terminal_cuts_the_widest_column() -> None:
    assert render(_HEADERS, _ROWS, width=30) == (
        "NAMESPACE    POD         STATE\nshop         web-7f9c4d  ok\na-long-nam…  db          -\n"
    )


def test_a_narrow_terminal_leaves_something_to_read() -> None:
    lines = render(["A", "B"], [["x" * 50, "y" * 50]], width=5).splitlines()
    assert lines[1] == "xxxxxxx…  yyyyyyy…"


def test_colour_marks_states_and_does_not_shift_columns() -> None:
    shown = render(_HEADERS, [["ok", "web", "failed"]], with_colour=True).splitlines()[1]
    assert shown == "\x1b[32mok\x1b[0m         web  \x1b[31mfailed\x1b[0m"


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=5), st.none() | st.integers(10, 200))
def test_one_line_for_each_row(rows: list[list[str]], width: int | None) -> None:
    shown = render(["A", "B"], rows, width=width)
    assert shown.count("\n") == len(rows) + 1
    assert all(line.isprintable() for line in shown.split("\n"))


@pytest.mark.parametrize("cell", ["a\nb", "\x1b[31mred", "tab\there"])
def test_a_cell_cannot_talk_to_the_terminal(cell: str) -> None:
    assert "\\" in render(["A"], [[cell]]).splitlines()[1]
