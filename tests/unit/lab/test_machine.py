# SPDX-License-Identifier: Apache-2.0
"""How states are compared. What they contain is proven in tests/e2e/test_lab.py."""

from nodeagent.lab.machine import Fact, difference, network_state

RULE = Fact("ip rule", "", "AF_INET fwmark 1 table 7")
OLD = Fact("sysctl", "", "net.ipv4.ip_forward = 0")
CHANGED = Fact("sysctl", "", "net.ipv4.ip_forward = 1")
OF_NA0 = Fact("sysctl", "na0", "net.ipv4.conf.na0.rp_filter = 1")


def test_equal_states_have_no_difference() -> None:
    assert difference(frozenset({RULE, OLD}), frozenset({OLD, RULE})) == []


def test_a_difference_tells_what_came_and_what_went() -> None:
    assert difference(frozenset({OLD}), frozenset({CHANGED, RULE})) == [
        "appeared: ip rule: AF_INET fwmark 1 table 7",
        "vanished: sysctl: net.ipv4.ip_forward = 0",
        "appeared: sysctl: net.ipv4.ip_forward = 1",
    ]


def test_what_concerns_one_device_can_be_left_out() -> None:
    assert difference(frozenset(), frozenset({OF_NA0}), except_device="na0") == []
    assert difference(frozenset(), frozenset({OF_NA0, RULE}), except_device="na0") == [f"appeared: {RULE}"]


def test_reading_twice_gives_the_same() -> None:
    first = network_state()
    assert {fact.section for fact in first} >= {"ip rule", "route", "sysctl"}
    assert difference(first, network_state()) == []
