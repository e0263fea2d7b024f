# SPDX-License-Identifier: Apache-2.0
"""PeerAuthentication: levels, inheritance and ports, row by row of the module's table."""

import itertools

import pytest

from nodeagent.controlplane.objects import Key, Meta, MtlsMode, Origin, PeerAuthentication
from nodeagent.controlplane.peer_authentication import STATIC_STRICT, PeerAuthentications, translate_port_modes
from nodeagent.model.address import Port
from nodeagent.model.policy import Policy

UNSET, DISABLE, PERMISSIVE, STRICT = MtlsMode.UNSET, MtlsMode.DISABLE, MtlsMode.PERMISSIVE, MtlsMode.STRICT
STATIC = f"istio-system/{STATIC_STRICT}"
OWN = "shop/converted_peer_authentication_p"
LABELS = {"app": "web"}


def peer(
    mode: MtlsMode, *, name: str = "p", namespace: str = "shop", ports: dict[int, MtlsMode] | None = None, **meta: str
) -> PeerAuthentication:
    """With ports it selects the web pods; `of="web"` does so without ports."""
    selects = ports is not None or "of" in meta
    return PeerAuthentication(
        meta=Meta(
            key=Key("PeerAuthentication", namespace, name),
            origin=Origin(meta.get("file", "a.yaml"), 1),
            created=meta.get("created", ""),
        ),
        selector=LABELS if selects else {},
        mode=mode,
        port_modes={Port(port): port_mode for port, port_mode in (ports or {}).items()},
    )


def listed(*objects: PeerAuthentication) -> list[str]:
    return list(PeerAuthentications.sort(objects, "istio-system").listed_by("shop", LABELS))


def mesh(mode: MtlsMode) -> PeerAuthentication:
    return peer(mode, name="mesh", namespace="istio-system")


def namespace(mode: MtlsMode) -> PeerAuthentication:
    return peer(mode, name="ns")


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([mesh(STRICT)], [STATIC], id="mesh"),
        pytest.param([mesh(UNSET)], [], id="mesh unset: permissive"),
        pytest.param([namespace(STRICT)], [STATIC], id="namespace"),
        pytest.param([mesh(STRICT), namespace(PERMISSIVE)], [], id="namespace over mesh"),
        pytest.param([mesh(STRICT), namespace(DISABLE)], [], id="DISABLE is PERMISSIVE"),
        pytest.param([mesh(STRICT), namespace(UNSET)], [STATIC], id="UNSET inherits"),
        pytest.param([mesh(STRICT), peer(PERMISSIVE, of="web")], [], id="workload over mesh"),
        pytest.param([mesh(STRICT), peer(UNSET, of="web")], [STATIC], id="workload unset"),
        pytest.param([peer(STRICT, of="web")], [STATIC], id="workload"),
        pytest.param([peer(STRICT, namespace="other")], [], id="another namespace"),
        pytest.param([peer(STRICT, namespace="istio-system", of="web")], [], id="selector in the root namespace"),
        pytest.param([peer(STRICT, ports={80: PERMISSIVE})], [OWN], id="STRICT with an open port"),
        pytest.param([peer(STRICT, ports={80: DISABLE})], [OWN], id="STRICT with a disabled port"),
        pytest.param([peer(STRICT, ports={80: STRICT})], [STATIC], id="STRICT on all ports"),
        pytest.param([peer(PERMISSIVE, ports={80: STRICT})], [OWN], id="one strict port"),
        pytest.param([peer(PERMISSIVE, ports={80: DISABLE})], [], id="nothing strict"),
        pytest.param([mesh(STRICT), peer(PERMISSIVE, ports={80: STRICT})], [OWN], id="one strict port, strict mesh"),
        pytest.param([mesh(STRICT), peer(UNSET, ports={80: PERMISSIVE})], [OWN], id="inherited STRICT, open port"),
        pytest.param([mesh(STRICT), peer(UNSET, ports={80: STRICT})], [STATIC], id="inherited STRICT, strict port"),
        pytest.param([mesh(STRICT), peer(UNSET, ports={80: DISABLE})], [STATIC], id="istiod overlooks DISABLE"),
        pytest.param([peer(UNSET, ports={80: STRICT})], [OWN], id="inherited PERMISSIVE, strict port"),
        pytest.param([mesh(STRICT), namespace(UNSET), peer(UNSET, ports={80: PERMISSIVE})], [OWN], id="through UNSET"),
    ],
)
def test_what_a_workload_lists(objects: list[PeerAuthentication], expected: list[str]) -> None:
    assert listed(*objects) == expected


_MODES = (UNSET, DISABLE, PERMISSIVE, STRICT)


@pytest.mark.parametrize("mesh_mode", _MODES)
@pytest.mark.parametrize("namespace_mode", _MODES)
def test_no_workload_lists_a_policy_that_is_not_published(mesh_mode: MtlsMode, namespace_mode: MtlsMode) -> None:
    """What a workload lists and nobody publishes would hold its connections for ever."""
    for mode, first, second in itertools.product(_MODES, repeat=3):
        objects = [mesh(mesh_mode), namespace(namespace_mode), peer(mode, ports={80: first, 90: second})]
        peers = PeerAuthentications.sort(objects, "istio-system")
        assert set(peers.listed_by("shop", LABELS)) <= {policy.key for policy in peers.policies()}


@pytest.mark.parametrize(
    ("mode", "inherited", "port_mode", "denies_on_port", "denies_elsewhere"),
    [
        (STRICT, False, PERMISSIVE, False, True),
        (STRICT, True, DISABLE, False, True),
        (UNSET, True, PERMISSIVE, False, True),
        (PERMISSIVE, False, STRICT, True, False),
        (DISABLE, True, STRICT, True, False),
        (UNSET, False, STRICT, True, False),
    ],
)
def test_a_port_policy_denies_plaintext_where_it_should(
    *,
    mode: MtlsMode,
    inherited: bool,
    port_mode: MtlsMode,
    denies_on_port: bool,
    denies_elsewhere: bool,
) -> None:
    policy = translate_port_modes(peer(mode, ports={80: port_mode}), is_inherited_strict=inherited)
    assert policy is not None
    assert (_denies_plaintext(policy, 80), _denies_plaintext(policy, 81)) == (denies_on_port, denies_elsewhere)


def _denies_plaintext(policy: Policy, port: int) -> bool:
    """The evaluator is another room; these policies know ports and presence only."""
    return any(
        all(
            any(
                (not match.destination_ports or port in match.destination_ports)
                and port not in match.not_destination_ports
                for match in clause.matches
            )
            for clause in rule.clauses
        )
        for rule in policy.rules
    )


def test_of_several_on_one_level_the_oldest_counts() -> None:
    young = peer(STRICT, name="a", created="2026-02-01T00:00:00Z")
    old = peer(PERMISSIVE, name="b", created="2026-01-01T00:00:00Z")
    undated = peer(STRICT, name="c")
    assert listed(young, undated, old) == []
    assert listed(young, undated) == [STATIC]
    assert listed(peer(STRICT, name="z", file="a.yaml"), peer(PERMISSIVE, name="a", file="b.yaml")) == [STATIC]
