# SPDX-License-Identifier: Apache-2.0
"""Bars as an SVG, in the few lines that this takes: each thing that is compared, as a multiple of a peer's 1. Pure."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

_LEFT, _UNIT, _MOST = 330, 150, 3.0
"""Width of the labels; of a multiple of 1; what is more is cut off, and its number tells."""
_BAR, _GROUP, _TOP = 11, 36, 56
_COLOURS = ("#2563a8", "#8fb8de")


class Group(NamedTuple):
    label: str
    bars: Sequence[float]
    """In the order of the legend; 1 is the peer's, more is better."""
    goals: Sequence[float]
    """For each bar."""


def draw(title: str, legend: Sequence[str], peer: str, groups: Sequence[Group]) -> str:
    """At most two bars in each group. A line across a bar is its goal."""
    height = _TOP + _GROUP * len(groups) + 10
    width = _LEFT + int(_UNIT * _MOST) + 50
    look = 'font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {look}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
        *_legend(legend, peer),
        _line(1, _TOP - 4, height - 10, "#555"),
    ]
    for number, group in enumerate(groups):
        parts += _group(group, _TOP + _GROUP * number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(legend: Sequence[str], peer: str) -> list[str]:
    parts = []
    for number, (word, colour) in enumerate(zip(legend, _COLOURS, strict=False)):
        x = _LEFT + 90 * number
        parts.append(f'<rect x="{x}" y="32" width="{_BAR}" height="{_BAR}" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="42">{escape(word)}</text>')
    words = f"1 = {peer}; more is better; | goal"
    return [*parts, f'<text x="{_LEFT + 90 * len(legend)}" y="42">{escape(words)}</text>']


def _group(group: Group, top: int) -> list[str]:
    parts = [f'<text x="10" y="{top + 16}">{escape(group.label)}</text>']
    for number, (value, goal) in enumerate(zip(group.bars, group.goals, strict=True)):
        y = top + number * (_BAR + 2)
        length = _UNIT * min(value, _MOST)
        parts.append(f'<rect x="{_LEFT}" y="{y}" width="{length:.0f}" height="{_BAR}" fill="{_COLOURS[number]}"/>')
        parts.append(f'<text x="{_LEFT + length + 6:.0f}" y="{y + 10}" font-size="10">{value:.2f}</text>')
        parts.append(_line(goal, y - 1, y + _BAR + 1, "#c0392b"))
    return parts


def _line(at: float, top: int, bottom: int, colour: str) -> str:
    x = _LEFT + _UNIT * at
    return f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{top}" y2="{bottom}" stroke="{colour}" stroke-width="2"/>'
