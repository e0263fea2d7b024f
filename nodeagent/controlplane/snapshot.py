# SPDX-License-Identifier: Apache-2.0
"""What is published, as immutable snapshots: generation n + 1 is built aside and replaces n by one reference. Pure.

A generation is one applied change of the mesh directory. Only values that differ are encoded again.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from nodeagent.controlplane.encode import Resource, encode_policy, encode_service, encode_workload
from nodeagent.controlplane.encode_extension import encode_extension
from nodeagent.controlplane.translate import Translation

ADDRESS = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"
EXTENSION = "type.googleapis.com/nodeagent.extension.v1.Extension"
_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    generation: int = 0
    translation: Translation = dataclasses.field(default_factory=Translation)
    resources: Mapping[str, Mapping[str, Resource]] = dataclasses.field(
        default_factory=lambda: {EXTENSION: {}, ADDRESS: {}, AUTHORIZATION: {}}
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
    extensions: int = 0
    identities: int = 0
    """Nodes whose set of identities changed: nothing to push, but the CA answers differently."""

    def __bool__(self) -> bool:
        return bool(self.workloads or self.services or self.policies or self.extensions or self.identities)

    def __str__(self) -> str:
        counts = (
            (self.policies, "policy", "policies"),
            (self.services, "service", "services"),
            (self.workloads, "workload", "workloads"),
            (self.extensions, "extension", "extensions"),
        )
        told = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
        return ", ".join(told) or "identities"


def advance(previous: Snapshot, translation: Translation) -> tuple[Snapshot, Difference]:
    """The next snapshot and what differs; `previous` itself when nothing does."""
    old = previous.translation
    difference = Difference(
        workloads=_count(old.workloads, translation.workloads),
        services=len(
            _differing(old.services, translation.services) | _differing(old.hints, translation.hints),
        ),
        policies=_count(old.policies, translation.policies),
        extensions=_count(old.extensions, translation.extensions),
        identities=_count(old.identities, translation.identities),
    )
    if not difference and previous.generation:
        # The mesh's names may have changed while it has no pods: nothing to push, but the CA compares with them.
        is_same = old.mesh == translation.mesh
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
            lambda uid: old.workloads.get(uid) == translation.workloads[uid],
            lambda uid: encode_workload(translation.workloads[uid]),
        ),
    }
    authorizations = _encode(
        translation.policies,
        previous.of_type(AUTHORIZATION),
        lambda key: old.policies.get(key) == translation.policies[key],
        lambda key: encode_policy(translation.policies[key]),
    )
    extensions = _encode(
        translation.extensions,
        previous.of_type(EXTENSION),
        lambda name: old.extensions.get(name) == translation.extensions[name],
        lambda name: encode_extension(translation.extensions[name]),
    )
    resources = {EXTENSION: extensions, ADDRESS: addresses, AUTHORIZATION: authorizations}
    return Snapshot(previous.generation + 1, translation, resources), difference


def _encode(
    names: Iterable[str],
    before: Mapping[str, Resource],
    is_same: Callable[[str], bool],
    encode: Callable[[str], Resource],
) -> dict[str, Resource]:
    return {name: before[name] if name in before and is_same(name) else encode(name) for name in names}


def _count(old: Mapping[str, _Value], following: Mapping[str, _Value]) -> int:
    return len(_differing(old, following))


def _differing(old: Mapping[str, _Value], following: Mapping[str, _Value]) -> set[str]:
    changed = {key for key, value in following.items() if key not in old or old[key] != value}
    return changed | (old.keys() - following.keys())
