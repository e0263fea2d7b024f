# SPDX-License-Identifier: Apache-2.0
"""PeerAuthentication -> DENY policies. Pure.

STRICT says "must have an identity", nothing about which one. It becomes one static policy, which every workload under
STRICT lists; it is published as soon as any PeerAuthentication exists. Port levels become a policy of their own, which
the selected workloads list *instead* of the static one, since of two DENY policies either is enough to deny.

Modes come from the workload's object, else the namespace's, else the mesh's (no selector, in the root namespace);
UNSET inherits, DISABLE is PERMISSIVE here, the default is PERMISSIVE. Of several objects on one level the oldest
counts.

| mode of the workload's object     | ports that differ | the workload lists                                      |
| STRICT                            | open              | not (has identity) and not (one of the open ports)      |
| STRICT                            | none              | the static policy                                       |
| PERMISSIVE, DISABLE, or inherited | STRICT            | not (has identity) and this port, a rule for each port  |
| UNSET, STRICT inherited           | PERMISSIVE        | as the first row                                        |
| UNSET, STRICT inherited           | DISABLE only      | the static policy: istiod overlooks DISABLE here        |

Where istiod contradicts itself (it lists a policy that it does not publish: a STRICT port under PERMISSIVE in a STRICT
mesh, or an UNSET object between a PERMISSIVE port and a STRICT mesh) this follows the table.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from nodeagent.controlplane.objects import MtlsMode, PeerAuthentication
from nodeagent.model.address import Port
from nodeagent.model.policy import Action, Clause, Match, MatchKind, Policy, PolicyScope, Rule, StringMatch

STATIC_STRICT = "istio_converted_static_strict"
GENERATED = "converted_peer_authentication_"
"""Before the name of the object that a policy was made of."""
_HAS_NO_IDENTITY = (StringMatch(MatchKind.PRESENCE),)
_STRICT_CLAUSE = Clause((Match(not_principals=_HAS_NO_IDENTITY),))
_OPEN_MODES = frozenset({MtlsMode.PERMISSIVE, MtlsMode.DISABLE})


@dataclasses.dataclass(frozen=True, slots=True)
class PeerAuthentications:
    """All of them, by level. Lists have the oldest first."""

    root_namespace: str
    by_namespace: Mapping[str, list[PeerAuthentication]]
    """Without selector."""
    by_selector: Mapping[str, list[PeerAuthentication]]
    """With selector, by namespace; those in the root namespace count for nobody."""

    @classmethod
    def sort(cls, objects: Iterable[PeerAuthentication], root_namespace: str) -> "PeerAuthentications":
        by_namespace: dict[str, list[PeerAuthentication]] = {}
        by_selector: dict[str, list[PeerAuthentication]] = {}
        for peer in sorted(objects, key=lambda peer: peer.meta.age):
            level = by_selector if peer.selector else by_namespace
            level.setdefault(peer.meta.namespace, []).append(peer)
        return cls(root_namespace, by_namespace, by_selector)

    def is_strict(self, namespace: str) -> bool:
        """What a workload of this namespace inherits."""
        for level in (namespace, self.root_namespace):
            oldest = next(iter(self.by_namespace.get(level, ())), None)
            if oldest is not None and oldest.mode is not MtlsMode.UNSET:
                return oldest.mode is MtlsMode.STRICT
        return False

    def policies(self) -> list[Policy]:
        """Everything that is published."""
        if not self.by_namespace and not self.by_selector:
            return []
        published = [_static_strict(self.root_namespace)]
        for namespace, peers in self.by_selector.items():
            if namespace == self.root_namespace:
                continue
            found = (translate_port_modes(peer, is_inherited_strict=self.is_strict(namespace)) for peer in peers)
            published.extend(policy for policy in found if policy is not None)
        return published

    def listed_by(self, namespace: str, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Key of the one policy that a workload with these labels lists, if any."""
        is_strict = self.is_strict(namespace)
        static = f"{self.root_namespace}/{STATIC_STRICT}"
        peer = self._selecting(namespace, labels)
        if peer is None:
            return (static,) if is_strict else ()
        if _has_port_levels(peer, is_inherited_strict=is_strict):
            return (f"{namespace}/{_policy_name(peer)}",)
        if peer.mode is MtlsMode.UNSET:
            return (static,) if is_strict else ()
        return (static,) if peer.mode is MtlsMode.STRICT else ()

    def _selecting(self, namespace: str, labels: Mapping[str, str]) -> PeerAuthentication | None:
        if namespace == self.root_namespace:
            return None
        return next(
            (peer for peer in self.by_selector.get(namespace, ()) if peer.selector.items() <= labels.items()), None
        )


def translate_port_modes(peer: PeerAuthentication, *, is_inherited_strict: bool) -> Policy | None:
    """The policy of an object with port levels; None where the static policy, or none, says the same."""
    strict_ports, open_ports = _ports(peer)
    if peer.mode is MtlsMode.STRICT or (peer.mode is MtlsMode.UNSET and is_inherited_strict):
        if not open_ports:
            return None
        clauses = [Clause((Match(not_destination_ports=(port,)),)) for port in open_ports]
        if peer.mode is MtlsMode.STRICT:
            clauses.insert(0, _STRICT_CLAUSE)
        if is_inherited_strict:
            clauses.append(_STRICT_CLAUSE)
        rules: tuple[Rule, ...] = (Rule(tuple(clauses)),)
    else:
        matches = [Match(not_principals=_HAS_NO_IDENTITY, destination_ports=(port,)) for port in strict_ports]
        rules = tuple(Rule((Clause((match,)),)) for match in matches)
    if not rules:
        return None
    return Policy(
        name=_policy_name(peer),
        namespace=peer.meta.namespace,
        scope=PolicyScope.WORKLOAD_SELECTOR,
        action=Action.DENY,
        rules=rules,
    )


def _has_port_levels(peer: PeerAuthentication, *, is_inherited_strict: bool) -> bool:
    strict_ports, open_ports = _ports(peer)
    if peer.mode is MtlsMode.STRICT:
        return bool(open_ports)
    if peer.mode is MtlsMode.UNSET and is_inherited_strict:
        return any(peer.port_modes[port] is MtlsMode.PERMISSIVE for port in open_ports)
    return bool(strict_ports)


def _ports(peer: PeerAuthentication) -> tuple[list[Port], list[Port]]:
    strict_ports = [port for port, mode in peer.port_modes.items() if mode is MtlsMode.STRICT]
    open_ports = [port for port, mode in peer.port_modes.items() if mode in _OPEN_MODES]
    return strict_ports, open_ports


def _policy_name(peer: PeerAuthentication) -> str:
    return f"{GENERATED}{peer.meta.name}"


def _static_strict(root_namespace: str) -> Policy:
    return Policy(
        name=STATIC_STRICT,
        namespace=root_namespace,
        scope=PolicyScope.WORKLOAD_SELECTOR,
        action=Action.DENY,
        rules=(Rule((_STRICT_CLAUSE,)),),
    )
