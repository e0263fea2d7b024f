# SPDX-License-Identifier: Apache-2.0
"""What is published, as immutable snapshots: generation n + 1 is built aside and replaces n by one reference. Pure.

A generation is one applied change of the mesh directory. Only values that differ are encoded again.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from nodeagent.controlplane.encode import Resource, encode_policy, encode_service, encode_workload
from nodeagent.controlplane.hints import WorkloadHints
from nodeagent.controlplane.translate import Translation
from nodeagent.proto import authorization_pb2, workload_pb2

ADDRESS = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"
MESSAGES: Mapping[str, type[workload_pb2.Address] | type[authorization_pb2.Authorization]] = {
    ADDRESS: workload_pb2.Address,
    AUTHORIZATION: authorization_pb2.Authorization,
}
"""By type url: what a resource's value is."""
_NO_HINTS = WorkloadHints()
_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    generation: int = 0
    translation: Translation = dataclasses.field(default_factory=Translation)
    resources: Mapping[str, Mapping[str, Resource]] = dataclasses.field(
        default_factory=lambda: {ADDRESS: {}, AUTHORIZATION: {}}
    )
    """By type url, then name. Services stand before workloads."""

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        """Empty for a type that nobody here has, as istiod answers too."""
        return self.resources.get(type_url, {})


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """How many of each were added, changed or removed."""

    workloads: int = 0
    services: int = 0
    policies: int = 0
    identities: int = 0
    """Nodes whose set of identities changed: nothing to push, but the CA answers differently."""

    def __bool__(self) -> bool:
        return bool(self.workloads or self.services or self.policies or self.identities)

    def __str__(self) -> str:
        counts = (
            (self.policies, "policy", "policies"),
            (self.services, "service", "services"),
            (self.workloads, "workload", "workloads"),
        )
        told = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
        return ", ".join(told) or "identities"


def advance(previous: Snapshot, translation: Translation) -> tuple[Snapshot, Difference]:
    """The next snapshot and what differs; `previous` itself when nothing does."""
    old = previous.translation
    difference = Difference(
        workloads=len(
            _differing(old.workloads, translation.workloads)
            | _differing(old.workload_hints, translation.workload_hints),
        ),
        services=len(
            _differing(old.services, translation.services) | _differing(old.hints, translation.hints),
        ),
        policies=len(
            _differing(old.policies, translation.policies)
            | (_differing(old.written_blocks, translation.written_blocks) & translation.policies.keys()),
        ),
        identities=len(_differing(old.identities, translation.identities)),
    )
    if not difference and previous.generation:
        # The mesh's names may have changed while it has no pods: nothing to push, but the CA compares with them.
        is_same = old.mesh == translation.mesh and old.allocated == translation.allocated
        return previous if is_same else dataclasses.replace(previous, translation=translation), difference
    before = previous.of_type(ADDRESS)
    addresses = {
        **_encode(
            translation.services,
            before,
            lambda key: (
                key in old.services
                and old.services[key] == translation.services[key]
                and old.hints[key] == translation.hints[key]
            ),
            lambda key: encode_service(translation.services[key], translation.hints[key]),
        ),
        **_encode(
            translation.workloads,
            before,
            lambda uid: (
                old.workloads.get(uid) == translation.workloads[uid]
                and old.workload_hints.get(uid) == translation.workload_hints.get(uid)
            ),
            lambda uid: encode_workload(translation.workloads[uid], translation.workload_hints.get(uid, _NO_HINTS)),
        ),
    }
    authorizations = _encode(
        translation.policies,
        previous.of_type(AUTHORIZATION),
        lambda key: (
            old.policies.get(key) == translation.policies[key]
            and old.written_blocks.get(key) == translation.written_blocks.get(key)
        ),
        lambda key: encode_policy(translation.policies[key], translation.written_blocks.get(key, {})),
    )
    resources = {ADDRESS: addresses, AUTHORIZATION: authorizations}
    return Snapshot(previous.generation + 1, translation, resources), difference


def _encode(
    names: Iterable[str],
    before: Mapping[str, Resource],
    is_same: Callable[[str], bool],
    encode: Callable[[str], Resource],
) -> dict[str, Resource]:
    return {name: before[name] if name in before and is_same(name) else encode(name) for name in names}


def _differing(old: Mapping[str, _Value], following: Mapping[str, _Value]) -> set[str]:
    changed = {key for key, value in following.items() if key not in old or old[key] != value}
    return changed | (old.keys() - following.keys())
