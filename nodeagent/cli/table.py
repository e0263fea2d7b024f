# SPDX-License-Identifier: Apache-2.0
"""Tables for people and for pipes. Pure: what the output is able to show is an argument.

For a terminal of known width the widest cells are cut until a line fits; anywhere else nothing is ever shortened.
"""

from collections.abc import Sequence

import click

from nodeagent.logs.escape import one_line

_GAP = "  "
_NARROWEST = 8
"""No column is cut below this, even if lines then wrap: less tells nothing."""

COLOURS = {
    "ok": "green",
    "yes": "green",
    "ready": "green",
    "Available": "green",
    "SYNCED": "green",
    "degraded": "yellow",
    "pending": "yellow",
    "starting": "yellow",
    "Initializing": "yellow",
    "STALE": "yellow",
    "NOT SENT": "yellow",
    "failed": "red",
    "gone": "red",
    "Unavailable": "red",
    "NACKED": "red",
}


def render(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    with_headers: bool = True,
    width: int | None = None,
    with_colour: bool = False,
    floor: Sequence[int] = (),
) -> str:
    """Lines with their newlines. `width` is that of the terminal; None for a pipe or file.

    `floor` is what each column has at least: the `widths` of lines that stand above already.
    """
    cells = [_shown(row) for row in rows]
    lines = [list(headers), *cells] if with_headers else cells
    fitted = list(widths(lines, floor))
    if width is not None:
        fitted = _fitted(fitted, width)
    return "".join(_line(line, fitted, with_colour=with_colour) for line in lines)


def widths(rows: Sequence[Sequence[str]], floor: Sequence[int] = ()) -> tuple[int, ...]:
    """Of each column, in characters, and at least the floor's."""
    columns = zip(*(map(len, _shown(row)) for row in rows), strict=True)
    found = tuple(max(column) for column in columns)
    return tuple(map(max, found, floor)) if found and floor else found or tuple(floor)


def _shown(row: Sequence[str]) -> list[str]:
    return [one_line(cell) or "-" for cell in row]


def _fitted(widths: list[int], width: int) -> list[int]:
    fitted = list(widths)
    excess = sum(fitted) + len(_GAP) * (len(fitted) - 1) - width
    while excess > 0 and max(fitted) > _NARROWEST:
        widest = fitted.index(max(fitted))
        fitted[widest] -= 1
        excess -= 1
    return fitted


def _line(cells: Sequence[str], widths: Sequence[int], *, with_colour: bool) -> str:
    shown = []
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        text = cell if len(cell) <= width else cell[: width - 1] + "…"
        padding = "" if number == len(cells) - 1 else " " * (width - len(text))
        colour = COLOURS.get(cell) if with_colour else None
        shown.append((click.style(text, fg=colour) if colour else text) + padding)
    return _GAP.join(shown).rstrip() + "\n"
