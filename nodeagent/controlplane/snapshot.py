# SPDX-License-Identifier: Apache-2.0
"""What is published, as immutable snapshots: generation n + 1 is built aside and replaces n by one reference. Pure.

A generation is one applied change of the mesh directory. Only values that differ are encoded again.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from nodeagent.controlplane.encode import Resource, encode_policy, encode_service, encode_workload
from nodeagent.controlplane.encode_extension import encode_extension
from nodeagent.controlplane.hints import WorkloadHints
from nodeagent.controlplane.translate import Touched, Translation
from nodeagent.proto import authorization_pb2, extension_pb2, workload_pb2

ADDRESS = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"
EXTENSION = "type.googleapis.com/nodeagent.extension.v1.Extension"
"""Of our own: what Istio's types have no words for."""
MESSAGES: Mapping[
    str, type[workload_pb2.Address] | type[authorization_pb2.Authorization] | type[extension_pb2.Extension]
] = {
    EXTENSION: extension_pb2.Extension,
    ADDRESS: workload_pb2.Address,
    AUTHORIZATION: authorization_pb2.Authorization,
}
"""By type url: what a resource's value is."""
SENDING_ORDER = (EXTENSION, AUTHORIZATION, ADDRESS)
"""Of one change, what comes is sent in this order, and what goes is sent after all that comes, in the reverse one: what
the last type refers to is there before it, and goes after it; as do extensions, which are about Services and workloads.
A type that is not named here comes last."""
_HISTORY = 64
"""Generations whose changes are remembered. A client that is further behind is compared with everything."""
_NO_HINTS = WorkloadHints()
_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    generation: int = 0
    translation: Translation = dataclasses.field(default_factory=Translation)
    resources: Mapping[str, Mapping[str, Resource]] = dataclasses.field(
        default_factory=lambda: {EXTENSION: {}, ADDRESS: {}, AUTHORIZATION: {}}
    )
    """By type url, then name."""
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


def advance(
    previous: Snapshot, translation: Translation, touched: Touched | None = None
) -> tuple[Snapshot, Difference]:
    """The next snapshot and what differs; `previous` itself when nothing does.

    `touched`: nothing else can differ from the translation of `previous`.
    """
    old = previous.translation
    names = touched or _all_names(old, translation)
    workloads = _differing(
        names.workloads, (old.workloads, translation.workloads), (old.workload_hints, translation.workload_hints)
    )
    services = _differing(names.services, (old.services, translation.services), (old.hints, translation.hints))
    policies = _differing(names.policies, (old.policies, translation.policies))
    extensions = _differing(names.extensions, (old.extensions, translation.extensions))
    nodes = _differing(names.nodes, (old.identities, translation.identities))
    difference = Difference(len(workloads), len(services), len(policies), len(extensions), len(nodes))
    if not difference and previous.generation:
        # The mesh's names may have changed while it has no pods: nothing to push, but the CA compares with them.
        is_same = old.mesh == translation.mesh and old.allocated == translation.allocated
        return previous if is_same else dataclasses.replace(previous, translation=translation), difference
    addresses = dict(previous.of_type(ADDRESS))
    for key in sorted(services):
        _put(addresses, key, translation.services, lambda key, value: encode_service(value, translation.hints[key]))
    for uid in sorted(workloads):
        _put(
            addresses,
            uid,
            translation.workloads,
            lambda uid, value: encode_workload(value, translation.workload_hints.get(uid, _NO_HINTS)),
        )
    authorizations = dict(previous.of_type(AUTHORIZATION))
    for key in sorted(policies):
        _put(authorizations, key, translation.policies, lambda _, value: encode_policy(value))
    extended = dict(previous.of_type(EXTENSION))
    for name in sorted(extensions):
        _put(extended, name, translation.extensions, lambda _, value: encode_extension(value))
    resources = {EXTENSION: extended, ADDRESS: addresses, AUTHORIZATION: authorizations}
    changes = {
        EXTENSION: frozenset(extensions),
        ADDRESS: frozenset(services | workloads),
        AUTHORIZATION: frozenset(policies),
    }
    history = (*previous.history, changes)[-_HISTORY:]
    return Snapshot(previous.generation + 1, translation, resources, history), difference


def _all_names(old: Translation, translation: Translation) -> Touched:
    return Touched(
        frozenset(old.workloads.keys() | translation.workloads.keys()),
        frozenset(old.services.keys() | translation.services.keys()),
        frozenset(old.policies.keys() | translation.policies.keys()),
        frozenset(old.extensions.keys() | translation.extensions.keys()),
        frozenset(old.identities.keys() | translation.identities.keys()),
    )


def _differing(names: Iterable[str], *pairs: tuple[Mapping[str, object], Mapping[str, object]]) -> set[str]:
    return {name for name in names if any(old.get(name) != following.get(name) for old, following in pairs)}


def _put(
    resources: dict[str, Resource],
    name: str,
    values: Mapping[str, _Value],
    encode: Callable[[str, _Value], Resource],
) -> None:
    if name in values:
        resources[name] = encode(name, values[name])
    else:
        resources.pop(name, None)
