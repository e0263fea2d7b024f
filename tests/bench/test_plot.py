# SPDX-License-Identifier: Apache-2.0
"""A bar is as long as its multiple, and the picture is well-formed whatever its labels are."""

from xml.etree import ElementTree as ET

from tests.bench.plot import Group, draw

_SVG = "{http://www.w3.org/2000/svg}"


def _bars(picture: str, colour: str) -> list[float]:
    found = ET.fromstring(picture).iter(f"{_SVG}rect")  # noqa: S314 - our own
    return [float(one.attrib["width"]) for one in found if one.attrib["fill"] == colour][
        1:
    ]  # the first is the legend's


def test_bars_are_as_long_as_their_multiples() -> None:
    picture = draw("title", ("ours", "bare"), "Envoy", [Group("up & <down>", (1.0, 2.0), (1.5, 1.5))])
    assert _bars(picture, "#2563a8") == [150]
    assert _bars(picture, "#8fb8de") == [300]
    assert "up &amp; &lt;down&gt;" in picture


def test_what_is_too_long_is_cut_and_its_number_is_not() -> None:
    picture = draw("title", ("ours",), "Envoy", [Group("up", (7.25,), (1.5,))])
    assert _bars(picture, "#2563a8") == [450]
    assert ">7.25<" in picture


def test_each_goal_is_a_line_across_its_bar() -> None:
    picture = draw("title", ("ours", "bare"), "Envoy", [Group("up", (1.0, 2.0), (1.5, 1.2))])
    lines = [line.attrib["x1"] for line in ET.fromstring(picture).iter(f"{_SVG}line")]  # noqa: S314 - our own
    assert lines == ["480", "555", "510"], "behind them that of the peer"
