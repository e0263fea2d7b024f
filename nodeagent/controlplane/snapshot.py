# SPDX-License-Identifier: Apache-2.0
"""What is published, as immutable snapshots: generation n + 1 is built aside and replaces n by one reference. Pure.

A generation is one applied change of the mesh directory. Only values that differ are encoded again.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from nodeagent.controlplane.encode import Resource, encode_policy, encode_service, encode_workload
from nodeagent.controlplane.translate import Translation

ADDRESS = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"
SENDING_ORDER = (AUTHORIZATION, ADDRESS)
"""Of one change, what comes is sent in this order, and what goes is sent after all that comes, in the reverse one: what
the last type refers to is there before it, and goes after it. A type that is not named here comes last. A resource type
of our own takes its place here, and in what `advance` encodes."""
_HISTORY = 64
"""Generations whose changes are remembered. A client that is further behind is compared with everything."""
_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    generation: int = 0
    translation: Translation = dataclasses.field(default_factory=Translation)
    resources: Mapping[str, Mapping[str, Resource]] = dataclasses.field(
        default_factory=lambda: {ADDRESS: {}, AUTHORIZATION: {}}
    )
    """By type url, then name. Services stand before workloads."""
    history: tuple[Mapping[str, frozenset[str]], ...] = ()
    """Names that were added, changed or removed, by type url; the last element is this generation's."""

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        """Empty for a type that nobody here has, as istiod answers too."""
        return self.resources.get(type_url, {})

    def changed_since(self, generation: int, type_url: str) -> frozenset[str] | None:
        """Names that may differ from what that generation had; None when that is not known."""
        steps = self.generation - generation
        if not 0 <= steps <= len(self.history):
            return None
        recent = self.history[len(self.history) - steps :]
        return frozenset[str]().union(*(step.get(type_url, frozenset()) for step in recent))

    def in_order(self, resources: Iterable[Resource]) -> list[Resource]:
        """Services before workloads, as `resources` has them; by name, so that equal changes are equal messages."""
        return sorted(resources, key=lambda resource: (resource.name in self.translation.workloads, resource.name))


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
        workloads=_count(old.workloads, translation.workloads),
        services=len(
            _differing(old.services, translation.services) | _differing(old.hints, translation.hints),
        ),
        policies=_count(old.policies, translation.policies),
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
    resources = {ADDRESS: addresses, AUTHORIZATION: authorizations}
    changes = {url: _changed(previous.of_type(url), found) for url, found in resources.items()}
    history = (*previous.history, changes)[-_HISTORY:]
    return Snapshot(previous.generation + 1, translation, resources, history), difference


def _encode(
    names: Iterable[str],
    before: Mapping[str, Resource],
    is_same: Callable[[str], bool],
    encode: Callable[[str], Resource],
) -> dict[str, Resource]:
    return {name: before[name] if name in before and is_same(name) else encode(name) for name in names}


def _changed(old: Mapping[str, Resource], following: Mapping[str, Resource]) -> frozenset[str]:
    """What did not change is the same object: see `_encode`."""
    upserts = {name for name, resource in following.items() if old.get(name) is not resource}
    return frozenset(upserts | (old.keys() - following.keys()))


def _count(old: Mapping[str, _Value], following: Mapping[str, _Value]) -> int:
    return len(_differing(old, following))


def _differing(old: Mapping[str, _Value], following: Mapping[str, _Value]) -> set[str]:
    changed = {key for key, value in following.items() if key not in old or old[key] != value}
    return changed | (old.keys() - following.keys())
