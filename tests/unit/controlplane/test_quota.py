# SPDX-License-Identifier: Apache-2.0
"""A node's share of the authority: a burst, then a rate; and no memory for who is idle."""

import pytest

from nodeagent.controlplane import quota as module
from nodeagent.controlplane.quota import BURST, PER_SECOND, Quota


def asked(quota: Quota, times: int, now: float, node: str = "node-a") -> int:
    """How many of these were allowed."""
    return sum(quota.allows(node, now) for _ in range(times))


def test_a_burst_and_then_a_rate() -> None:
    quota = Quota()
    assert asked(quota, int(BURST) + 5, 100.0) == BURST
    assert asked(quota, 1000, 103.0) == 3 * PER_SECOND
    assert asked(quota, 1000, 103.0) == 0


def test_what_is_refused_costs_nothing_and_the_burst_comes_back_in_full_and_no_more() -> None:
    quota = Quota()
    asked(quota, 100_000, 0.0)
    assert asked(quota, 1000, 1e6) == BURST


def test_a_node_has_its_own_share() -> None:
    quota = Quota()
    asked(quota, 1000, 0.0)
    assert asked(quota, 10, 0.0, "node-b") == 10


def test_idle_nodes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_NODES", 3)
    quota = Quota()
    asked(quota, 600, 0.0)
    for number in range(3):
        quota.allows(f"node-{number}", 1.0)
    assert set(quota._left) == {"node-a", "node-0", "node-1", "node-2"}, "all of them have used something just now"
    quota.allows("node-x", 2.0)
    assert set(quota._left) == {"node-a", "node-x"}
    assert asked(quota, 1000, 2.0) == 2 * PER_SECOND, "who is busy is remembered"
