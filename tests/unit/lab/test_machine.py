# SPDX-License-Identifier: Apache-2.0
"""How states are compared. What they contain is proven in tests/e2e/test_lab.py."""

import time

import pytest

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


SHARED = Fact("directory", "", "/run/netns")
THEIRS = Fact("cgroup", "", "/sys/fs/cgroup/na-2/wire")


@pytest.mark.parametrize("fact", [SHARED, THEIRS])
@pytest.mark.parametrize("path", ["/run/netns", "/sys/fs/cgroup/na-2"])
def test_of_what_another_labs_was_at_one_moment_nothing_is_told(fact: Fact, path: str) -> None:
    """A lab that begins or ends between the two takes its things along, and the directories that all share."""
    without, beside = frozenset({RULE}), frozenset({RULE, Fact("of another lab", "", path)})
    is_theirs = fact.text.startswith(path)
    for before, after, how in (
        (without | {fact}, beside, "vanished"),
        (beside, without | {fact}, "appeared"),
        (without, beside | {fact}, "appeared"),
    ):
        assert difference(before, after) == ([] if is_theirs else [f"{how}: {fact}"])
    name = Fact("network namespace", "", "/run/netns/somebodys")
    assert difference(beside, beside | {name}) == [f"appeared: {name}"]


@pytest.mark.parametrize(
    ("fact", "is_told"),
    [
        pytest.param(OF_NA0, False, id="sysctl as by default"),
        pytest.param(Fact("sysctl", "na0", "net.ipv4.conf.na0.rp_filter = 0"), True, id="sysctl of ours"),
        pytest.param(Fact("sysctl", "na0", "net.ipv6.conf.na0.mtu = 1500"), False, id="MTU"),
        pytest.param(Fact("sysctl", "na0", "net.ipv6.neigh.na0.locktime = 0"), False, id="neighbours"),
        pytest.param(
            Fact("route", "na0", "AF_INET6 dst ff00:: /8 type 5 scope 0 proto 2 device na0"), False, id="multicast"
        ),
        pytest.param(
            Fact("route", "na0", "AF_INET dst 10.9.0.0 /16 type 1 scope 253 proto 4 device na0"), True, id="route"
        ),
        pytest.param(
            Fact("route", "na0", "AF_INET dst 10.9.0.1 /32 type 2 scope 254 proto 2 device na0"), True, id="address"
        ),
        pytest.param(Fact("filter", "na0", "na0 ingress"), True, id="anything else of the device"),
        pytest.param(RULE, True, id="rule"),
        pytest.param(Fact("sysctl", "eth0", "net.ipv4.conf.eth0.rp_filter = 1"), True, id="another device"),
    ],
)
def test_what_a_new_device_brings_along_can_be_left_out(fact: Fact, *, is_told: bool) -> None:
    before = frozenset({Fact("sysctl", "default", "net.ipv4.conf.default.rp_filter = 1")})
    assert difference(before, before | {fact}, except_device="na0") == ([f"appeared: {fact}"] if is_told else [])
    assert difference(before, before | {fact}) == [f"appeared: {fact}"]


def test_reading_twice_gives_the_same() -> None:
    """As soon as the machine rests: the kernel takes its time to remove the devices of namespaces that have gone."""
    seen = [network_state(), network_state()]
    assert {fact.section for fact in seen[0]} >= {"ip rule", "route", "sysctl"}
    deadline = time.monotonic() + 60
    while different := difference(*seen[-2:]):
        assert time.monotonic() < deadline, different
        seen.append(network_state())
