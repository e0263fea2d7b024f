# SPDX-License-Identifier: Apache-2.0
"""A change within one namespace is translated with that namespace alone. Pure.

What agents are told of a namespace depends on its own objects, on those of the whole cluster (nodes, namespaces, the
mesh's configuration), on the root namespace's, and on gateways, ServiceEntries, PeerAuthentications and routing rules
wherever they stand (a rule asks for labels of workloads of any namespace). So `translate` is given just these, and only
the namespace's own part of its answer is taken: the cost of a change is that of its namespace, whatever the size of the
mesh. When something that others depend on changes, everything is translated. The answer is the same either way, which a
test compares over random changes.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar, assert_never

from nodeagent.controlplane.catalog import Catalog
from nodeagent.controlplane.objects import Enrolment, Key, MeshObject, ServiceEntry
from nodeagent.controlplane.service_entries import Allocated
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION
from nodeagent.controlplane.translate import Touched, Translation, enrolled_by, select, translate
from nodeagent.model.identity import Identity
from nodeagent.model.policy import PolicyScope
from nodeagent.model.security import DryRun, PolicyOrigin, Revocations, TrustDomains
from nodeagent.model.traffic import ClientScopes, Extension, MeshTraffic, ServiceTraffic, WorkloadLabels, WorkloadLimits

_SHARED_KINDS = frozenset(
    {"Gateway", "GatewayClass", "PeerAuthentication", "ServiceEntry", "VirtualService", "DestinationRule"}
)
_Value = TypeVar("_Value")
_Objects = Mapping[Key, MeshObject]


@dataclasses.dataclass(frozen=True, slots=True)
class Meshed:
    translation: Translation
    touched: Touched | None
    """None: anything may differ."""
    objects: Mapping[str, _Objects]
    """By namespace, but for what is shared."""
    shared: _Objects
    parts: Mapping[str, Translation]
    """What the translation has of each namespace."""


def retranslate(
    previous: Meshed | None, catalog: Catalog, enrolment: Enrolment | None, kept: Allocated = MappingProxyType({})
) -> Meshed:
    """What the catalog means. `previous` is what the one before it meant, under the same `enrolment`.

    `kept`: addresses that hosts of ServiceEntries had before there was a `previous`. Those of hosts that are gone are
    free again.
    """
    if previous is not None and catalog.changed is not None:
        root = previous.translation.mesh.root_namespace
        if not any(_is_shared(key, root) for key in catalog.changed) and not _reaches_services(previous):
            return _partly(previous, catalog, catalog.changed, enrolment)
    given = previous.translation.allocated if previous is not None else _of_hosts(catalog, kept)
    return _wholly(given, catalog, enrolment)


def concerned_nodes(meshed: Meshed, changed: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Where a change is enforced: nodes of the workloads among these names (by type url) or under these policies.

    What the root namespace says concerns everybody, and nobody first.
    """
    workloads = meshed.translation.workloads
    nodes = {workloads[name].node for name in changed.get(ADDRESS, ()) if name in workloads}
    for key in changed.get(AUTHORIZATION, ()):
        policy, part = meshed.translation.policies.get(key), meshed.parts.get(key.partition("/")[0], Translation())
        is_named = policy is None or policy.scope is PolicyScope.WORKLOAD_SELECTOR
        nodes.update(workload.node for workload in part.workloads.values() if not is_named or key in workload.policies)
    return frozenset(nodes)


def _is_shared(key: Key, root_namespace: str) -> bool:
    return key.namespace in {"", root_namespace} or key.kind in _SHARED_KINDS


def _reaches_services(meshed: Meshed) -> bool:
    """A ServiceEntry has the name of some namespace's Service: which of them is canonical, both decide."""
    domain = f".svc.{meshed.translation.mesh.cluster_domain}"
    entries = select(meshed.shared.values(), ServiceEntry)
    return any(host.endswith(domain) for entry in entries for host in entry.hosts)


def _of_hosts(catalog: Catalog, kept: Allocated) -> Allocated:
    entries = select((accepted.value for accepted in catalog.objects.values()), ServiceEntry) if kept else ()
    hosts = {(entry.meta.namespace, entry.meta.name, host) for entry in entries for host in entry.hosts}
    return {key: addresses for key, addresses in kept.items() if key in hosts}


def _wholly(kept: Allocated, catalog: Catalog, enrolment: Enrolment | None) -> Meshed:
    objects = {key: accepted.value for key, accepted in catalog.objects.items()}
    translation = translate(enrolled_by(enrolment, _ordered(objects.values())), kept)
    root = translation.mesh.root_namespace
    by_namespace: defaultdict[str, dict[Key, MeshObject]] = defaultdict(dict)
    for key, value in objects.items():
        if not _is_shared(key, root):
            by_namespace[key.namespace][key] = value
    shared = {key: value for key, value in objects.items() if _is_shared(key, root)}
    return Meshed(translation, None, by_namespace, shared, _parts(translation))


def _partly(previous: Meshed, catalog: Catalog, changed: frozenset[Key], enrolment: Enrolment | None) -> Meshed:
    objects, parts, translation = dict(previous.objects), dict(previous.parts), previous.translation
    touched = Touched(*([frozenset[str]()] * len(Touched._fields)))
    for namespace in sorted({key.namespace for key in changed}):
        own = dict(objects.get(namespace, {}))
        for key in changed:
            if key.namespace != namespace:
                continue
            if key in catalog.objects:
                own[key] = catalog.objects[key].value
            else:
                own.pop(key, None)
        objects[namespace] = own
        given = _ordered([*previous.shared.values(), *own.values()])
        answer = translate(enrolled_by(enrolment, given), translation.allocated)
        former = parts.get(namespace, Translation())
        parts[namespace] = latter = _parts(answer).get(namespace, Translation())
        touched = _together(touched, _touched(former, latter))
        translation = _replaced(translation, former, latter, parts.values())
    return Meshed(translation, touched, objects, previous.shared, parts)


def _ordered(objects: Iterable[MeshObject]) -> tuple[MeshObject, ...]:
    """As they stand in the files, so that the answer does not depend on what was there before."""
    return tuple(sorted(objects, key=lambda value: (value.meta.origin.file, value.meta.origin.line)))


def _parts(whole: Translation) -> Mapping[str, Translation]:
    """By namespace."""
    made: defaultdict[str, dict[str, dict[str, object]]] = defaultdict(lambda: defaultdict(dict))
    for uid, workload in whole.workloads.items():
        made[workload.namespace]["workloads"][uid] = workload
        if uid in whole.workload_hints:
            made[workload.namespace]["workload_hints"][uid] = whole.workload_hints[uid]
    for key, service in whole.services.items():
        made[service.namespace]["services"][key] = service
        made[service.namespace]["hints"][key] = whole.hints[key]
    for key, policy in whole.policies.items():
        made[policy.namespace]["policies"][key] = policy
    for name, extension in whole.extensions.items():
        made[_namespace(extension, whole)]["extensions"][name] = extension
    for node, identities in whole.identities.items():
        of_namespace: defaultdict[str, set[Identity]] = defaultdict(set)
        for identity in identities:
            of_namespace[identity.namespace].add(identity)
        for namespace, own in of_namespace.items():
            made[namespace]["identities"][node] = frozenset(own)
    return {namespace: Translation(**fields) for namespace, fields in made.items()}  # type: ignore[arg-type]


def _namespace(extension: Extension, whole: Translation) -> str:
    """Whose part it is; none's, if it is about the mesh."""
    match extension:
        case ServiceTraffic():
            return extension.service.partition("/")[0]
        case WorkloadLabels() | WorkloadLimits():
            return whole.workloads[extension.uid].namespace
        case DryRun():
            return extension.policy.namespace
        case ClientScopes():
            return extension.namespace
        case PolicyOrigin():
            return extension.policy.partition("/")[0]
        case MeshTraffic() | TrustDomains() | Revocations():
            return ""
        case unreachable:
            assert_never(unreachable)


def _touched(former: Translation, latter: Translation) -> Touched:
    return Touched(
        frozenset(former.workloads.keys() | latter.workloads.keys()),
        frozenset(former.services.keys() | latter.services.keys()),
        frozenset(former.policies.keys() | latter.policies.keys()),
        frozenset(former.extensions.keys() | latter.extensions.keys()),
        frozenset(former.identities.keys() | latter.identities.keys()),
    )


def _together(one: Touched, other: Touched) -> Touched:
    return Touched(*(mine | theirs for mine, theirs in zip(one, other, strict=True)))


def _replaced(
    whole: Translation, former: Translation, latter: Translation, parts: Iterable[Translation]
) -> Translation:
    """The whole with another part in the place of the former. `parts`: all, with the latter."""
    nodes = former.identities.keys() | latter.identities.keys()
    differing = [node for node in nodes if former.identities.get(node) != latter.identities.get(node)]
    identities = dict(whole.identities)
    for node in differing:
        found = frozenset[Identity]().union(*(part.identities.get(node, ()) for part in parts))
        identities.pop(node, None)
        if found:
            identities[node] = found
    return dataclasses.replace(
        whole,
        workloads=_with(whole.workloads, former.workloads, latter.workloads),
        workload_hints=_with(whole.workload_hints, former.workload_hints, latter.workload_hints),
        services=_with(whole.services, former.services, latter.services),
        hints=_with(whole.hints, former.hints, latter.hints),
        policies=_with(whole.policies, former.policies, latter.policies),
        extensions=_with(whole.extensions, former.extensions, latter.extensions),
        identities=identities,
    )


def _with(
    whole: Mapping[str, _Value], former: Mapping[str, _Value], latter: Mapping[str, _Value]
) -> Mapping[str, _Value]:
    if former == latter:
        return whole
    made = dict(whole)
    for key in former.keys() - latter.keys():
        del made[key]
    made.update(latter)
    return made
