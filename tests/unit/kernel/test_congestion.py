# SPDX-License-Identifier: Apache-2.0
"""Whose choice of congestion control counts, near and far."""

from pathlib import Path

import pytest

from nodeagent.kernel import congestion
from nodeagent.kernel.congestion import Congestion, choose


@pytest.mark.parametrize(
    ("own", "allowed", "chosen"),
    [
        ("cubic", ["reno", "cubic"], Congestion("cubic", "")),
        ("reno", ["reno"], Congestion("reno", "")),
        ("dctcp", ["reno", "cubic", "dctcp"], Congestion("dctcp", "")),
        ("bbr", ["reno", "bbr", "cubic"], Congestion("cubic", "bbr")),
        ("bbr3", ["reno", "bbr3"], Congestion("reno", "bbr3")),
    ],
)
def test_only_pacing_is_left_to_tunnels_with_a_long_way(own: str, allowed: list[str], chosen: Congestion) -> None:
    assert choose(own, allowed) == chosen


def test_it_is_the_nodes_choice_that_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in (("_OWN", "bbr\n"), ("_ALLOWED", "reno bbr\n")):
        path = tmp_path / name
        path.write_text(text)
        monkeypatch.setattr(congestion, name, path)
    assert congestion.read() == Congestion("reno", "bbr")
