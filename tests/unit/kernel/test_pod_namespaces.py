# SPDX-License-Identifier: Apache-2.0
"""Which namespace is whose, from what namespaces claim and routes say. What is seen of real ones: tests/kernel."""

from collections.abc import Mapping

import pytest

from nodeagent.kernel.pod_namespaces import ELSEWHERE, Claim, Evidence, Namespace, Unknown, assign, namespace_at
from nodeagent.model.address import Ip

A, B = Namespace("/run/netns/a", 1), Namespace("/run/netns/b", 2)
ONE, TWO, SIX = Ip("10.0.0.1"), Ip("10.0.0.2"), Ip("fd00::1")
NO_NETNS, CONTESTED = Unknown("NO_NETNS"), Unknown("ADDRESS_CONTESTED")


def claims(*rows: tuple[Namespace, Ip]) -> tuple[Claim, ...]:
    found: dict[Namespace, set[Ip]] = {}
    for namespace, ip in rows:
        found.setdefault(namespace, set()).add(ip)
    return tuple(Claim(namespace, frozenset(ips)) for namespace, ips in found.items())


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(Evidence((), {}), NO_NETNS, id="nobody has it"),
        pytest.param(Evidence(claims((A, ONE)), {}), A, id="one has it"),
        pytest.param(Evidence(claims((A, TWO)), {}), NO_NETNS, id="one has another"),
        pytest.param(Evidence(claims((A, ONE), (B, ONE)), {}), CONTESTED, id="two have it, behind a bridge"),
        pytest.param(Evidence(claims((A, ONE), (B, ONE)), {ONE: A}), A, id="two have it, the route leads to one"),
        pytest.param(Evidence(claims((B, ONE)), {ONE: A}), NO_NETNS, id="who has it is not where the route leads"),
        pytest.param(Evidence(claims((B, ONE)), {ONE: ELSEWHERE}), NO_NETNS, id="the route leads out of the directory"),
    ],
)
def test_one_pod(seen: Evidence, expected: Namespace | Unknown) -> None:
    assert assign({"pod": (ONE,)}, {}, seen) == {"pod": expected}


def test_a_pod_of_two_families_needs_both() -> None:
    half, whole = claims((A, ONE)), claims((A, ONE), (A, SIX))
    assert assign({"pod": (ONE, SIX)}, {}, Evidence(half, {})) == {"pod": NO_NETNS}
    assert assign({"pod": (ONE, SIX)}, {}, Evidence(whole, {})) == {"pod": A}
    assert assign({"pod": (ONE, SIX)}, {}, Evidence(whole, {ONE: A})) == {"pod": A}
    assert assign({"pod": (ONE, SIX)}, {}, Evidence(whole, {ONE: A, SIX: B})) == {"pod": CONTESTED}


@pytest.mark.parametrize("others", [{"old": (ONE,)}, {"old": (TWO, ONE)}])
def test_an_address_that_another_pod_reports_is_nobodys(others: Mapping[str, tuple[Ip, ...]]) -> None:
    """One of the two has lost it, and only the API knows which; whoever was found before keeps what it has."""
    seen = Evidence(claims((A, ONE)), {ONE: A})
    assert assign({"new": (ONE,)}, others, seen) == {"new": CONTESTED}
    assert assign({"new": (ONE,), **others}, {}, seen)["new"] == CONTESTED


def test_a_namespace_belongs_to_one_pod() -> None:
    seen = Evidence(claims((A, ONE), (A, TWO)), {})
    assert assign({"first": (ONE,), "second": (TWO,)}, {}, seen) == {"first": CONTESTED, "second": CONTESTED}


def test_what_is_no_namespace() -> None:
    assert namespace_at("/nowhere") is None
    assert namespace_at("/dev/null") is None
    found = namespace_at("/proc/self/ns/net")
    assert found is not None
    assert found.inode
