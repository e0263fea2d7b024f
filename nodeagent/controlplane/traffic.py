# SPDX-License-Identifier: Apache-2.0
"""VirtualService, DestinationRule and MeshConfig -> extensions of our own for agents. Pure.

What of them is about security is made in `extra_security.py`.

Istio's meaning, with what layer 4 and this mesh make of it:

- Routes count for a host of the VirtualService's own namespace alone. Istio lets every namespace route every host, so
  whoever may write one anywhere can lead everybody's connections to himself (ISTIO-SECURITY-2026-002).
- Of several VirtualServices for one host the oldest counts; Istio does not merge those of the mesh either.
- DestinationRules are looked for in the namespace of the Service, else in the root namespace; those of the client's
  namespace would need an answer for each client, and are not used. Several of one namespace are merged, oldest first.
- Hosts are exact: a wildcard means Services by a pattern, which nothing at layer 4 asks for, unless it is just what a
  ServiceEntry of the same namespace is called.
- What Sidecars say is in `sidecars.py`.
- localityLbSetting of MeshConfig counts when it is written, where no rule has one and the Service has no preference of
  its own; without outlierDetection only what it distributes does.
- Of several ConnectionLimits for a workload the oldest with a selector counts, else the oldest without.
- Labels go to agents only as far as some subset or match asks for just this value.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import msgspec

from nodeagent.controlplane.extra_security import asked_labels, translate_security
from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.objects import (
    ConnectionLimit,
    DestinationRule,
    MeshConfig,
    MeshObject,
    Meta,
    OutboundMode,
    VirtualService,
    WrittenRoute,
)
from nodeagent.controlplane.sidecars import outbound_mode, translate_sidecars
from nodeagent.model.traffic import (
    Destination,
    Extension,
    LocalityBalancing,
    MeshTraffic,
    PortPolicy,
    ServiceTraffic,
    Subset,
    TcpRoute,
    TrafficPolicy,
    WorkloadLabels,
    WorkloadLimits,
)
from nodeagent.model.workload import BalancingMode, Service
from nodeagent.routing.locality import PLACE_LABELS

Labels = Mapping[str, Mapping[str, str]]
"""Of workloads, by uid."""


def translate_traffic(
    objects: Iterable[MeshObject],
    labels: Labels,
    namespaces: Mapping[str, str],
    services: Mapping[str, Service],
    mesh: MeshConfig,
) -> dict[str, Extension]:
    """By name.

    Args:
        objects: all that are in force.
        labels: of every workload, by uid.
        namespaces: of each of them.
        services: all, by `namespace/hostname`.
        mesh: its names.
    """
    known = tuple(objects)
    written = _Written.read(known, services, mesh)
    found: dict[str, Extension] = {}
    for key in sorted(written.routes.keys() | written.rules.keys() | _distributed(services, mesh)):
        rule, routes = written.rules.get(key, _Rule()), written.routes.get(key, _Routes())
        rule = rule.in_place(services.get(key), mesh.locality)
        traffic = ServiceTraffic(
            service=key, routes=routes.tcp, tls_routes=routes.tls, subsets=rule.subsets, policies=rule.policies
        )
        if traffic != ServiceTraffic(service=key):
            found[traffic.name] = traffic
    if outbound_mode(known, mesh) is OutboundMode.REGISTRY_ONLY:
        found[MeshTraffic.NAME] = MeshTraffic(is_registry_only=True)
    security = translate_security(known, mesh)
    found |= security
    scopes = translate_sidecars(known, mesh, outbound_mode(known, mesh))
    found |= {one.name: one for one in scopes}
    clients = {
        one.namespace: frozenset(pair for scope in one.scopes for pair in scope.labels.items()) for one in scopes
    }
    limits = _limits(known)
    asked, of_dry_runs, compared = written.labels(), asked_labels(security.values()), _compared(found.values())
    for uid, every in labels.items():
        told = dict(every.items() & (asked | of_dry_runs("", namespaces[uid])))
        if clients or compared:
            own = clients.get(namespaces[uid], frozenset())
            told |= {name: value for name, value in every.items() if (name, value) in own or name in compared}
        if told:
            workload = WorkloadLabels(uid=uid, labels=told)
            found[workload.name] = workload
        limit = _limit_of(limits.get(namespaces[uid], ()), every)
        if limit is not None:
            limited = WorkloadLimits(
                uid=uid, per_second=limit.per_second, burst=limit.burst, concurrent=limit.concurrent
            )
            found[limited.name] = limited
    return found


def _distributed(services: Mapping[str, Service], mesh: MeshConfig) -> set[str]:
    """Services that the mesh's own distribution is about, whether a rule is or not."""
    if mesh.locality is None or not mesh.locality.is_on or not mesh.locality.distributions:
        return set()
    return {key for key, service in services.items() if service.balancing.mode is BalancingMode.STANDARD}


def _compared(extensions: Iterable[Extension]) -> set[str]:
    """Labels whose every value matters, since clients' and endpoints' are compared."""
    found: set[str] = set()
    for traffic in extensions:
        if isinstance(traffic, ServiceTraffic):
            policies = [*traffic.policies, *(entry for subset in traffic.subsets for entry in subset.policies)]
            for entry in policies:
                if entry.policy.locality is not None:
                    found.update(name.partition("=")[0] for name in entry.policy.locality.priority_labels)
    return found - PLACE_LABELS


def _limits(objects: Iterable[MeshObject]) -> dict[str, list[ConnectionLimit]]:
    """By namespace; first those with a selector, and of each the oldest first."""
    found: dict[str, list[ConnectionLimit]] = defaultdict(list)
    limits = [value for value in objects if isinstance(value, ConnectionLimit)]
    for limit in sorted(limits, key=lambda limit: (not limit.selector, limit.meta.age)):
        found[limit.meta.namespace].append(limit)
    return found


def _limit_of(limits: Iterable[ConnectionLimit], labels: Mapping[str, str]) -> ConnectionLimit | None:
    return next((limit for limit in limits if limit.selector.items() <= labels.items()), None)


def analyze_traffic(objects: Iterable[MeshObject], services: Collection[str], mesh: MeshConfig) -> list[Finding]:
    """What of these objects does not count or leads nowhere, seen together with all others; in no order."""
    known = tuple(objects)
    written = _Written.read(known, services, mesh)
    return written.findings


class _Hosts:
    """Which Service a host means."""

    def __init__(self, services: Collection[str], mesh: MeshConfig) -> None:
        self._suffix = f".svc.{mesh.cluster_domain}"
        self._known = services
        self._by_hostname: dict[str, list[str]] = defaultdict(list)
        for key in sorted(services):
            self._by_hostname[key.partition("/")[2]].append(key)

    def key_of(self, host: str, namespace: str) -> str:
        """`namespace/hostname`, whether there is such a Service or not; empty for a pattern.

        A wildcard is the hostname of a ServiceEntry of the object's own namespace, else a pattern.
        A name without dots is of the object's namespace. One that is no name of the cluster is a hostname that somebody
        has registered: its namespace is the object's own, if that has, else the first that has.
        """
        if "*" in host:
            own = f"{namespace}/{host}"
            return own if own in self._known else ""
        hostname = host if "." in host else f"{host}.{namespace}{self._suffix}"
        if hostname.endswith(self._suffix):
            name, _, owner = hostname.removesuffix(self._suffix).rpartition(".")
            return f"{owner}/{hostname}" if name else ""
        own = f"{namespace}/{hostname}"
        return own if own in self._known else next(iter(self._by_hostname[hostname]), own)

    def is_known(self, key: str) -> bool:
        return key in self._known


@dataclasses.dataclass(frozen=True, slots=True)
class _Rule:
    """What the DestinationRules of one namespace say of one host, together."""

    subsets: tuple[Subset, ...] = ()
    policies: tuple[PortPolicy, ...] = ()

    def and_then(self, younger: DestinationRule) -> "_Rule":
        names = {subset.name for subset in self.subsets}
        more = tuple(subset for subset in younger.subsets if subset.name not in names)
        return _Rule(self.subsets + more, self.policies or younger.policies)

    def in_place(self, service: Service | None, of_mesh: LocalityBalancing | None) -> "_Rule":
        """With the mesh's setting where nothing else is said; a Service's own preference goes before it."""
        is_free = service is not None and service.balancing.mode is BalancingMode.STANDARD
        of_mesh = of_mesh if is_free and of_mesh is not None and of_mesh.is_on else None
        policies = self.policies
        if of_mesh is not None and of_mesh.distributions and not any(entry.port == 0 for entry in policies):
            policies = (*policies, PortPolicy(0, TrafficPolicy()))
        return _Rule(
            tuple(
                msgspec.structs.replace(subset, policies=_located(subset.policies, of_mesh)) for subset in self.subsets
            ),
            tuple(entry for entry in _located(policies, of_mesh) if entry.port or entry.policy != TrafficPolicy()),
        )


def _located(policies: Iterable[PortPolicy], of_mesh: LocalityBalancing | None) -> tuple[PortPolicy, ...]:
    return tuple(PortPolicy(entry.port, _locate(entry.policy, of_mesh)) for entry in policies)


def _locate(policy: TrafficPolicy, of_mesh: LocalityBalancing | None) -> TrafficPolicy:
    locality = policy.locality if policy.locality is not None else of_mesh
    if locality is not None and not (locality.is_on and (locality.distributions or policy.outlier is not None)):
        locality = None
    return msgspec.structs.replace(policy, locality=locality)


@dataclasses.dataclass(frozen=True, slots=True)
class _Routes:
    tcp: tuple[TcpRoute, ...] = ()
    tls: tuple[TcpRoute, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Written:
    """By Service: what is in force."""

    routes: dict[str, _Routes]
    rules: dict[str, _Rule]
    findings: list[Finding]

    @classmethod
    def read(cls, objects: tuple[MeshObject, ...], services: Collection[str], mesh: MeshConfig) -> "_Written":
        hosts, written = _Hosts(services, mesh), cls({}, {}, [])
        rules = [value for value in objects if isinstance(value, DestinationRule)]
        written.add_rules(sorted(rules, key=lambda rule: rule.meta.age), hosts, mesh.root_namespace)
        virtual = [value for value in objects if isinstance(value, VirtualService) and value.is_for_mesh]
        for service in sorted(virtual, key=lambda service: service.meta.age):
            written.add_routes(service, hosts)
        return written

    def add_rules(self, oldest_first: list[DestinationRule], hosts: _Hosts, root_namespace: str) -> None:
        by_place: dict[tuple[str, str], _Rule] = {}
        for rule in oldest_first:
            namespace = rule.meta.namespace
            key = hosts.key_of(rule.host, namespace)
            if not key:
                words = f"host {rule.host!r} is a pattern, which is not used"
                self.find(rule.meta, "MN0301", words, _EXACT, "spec.host")
            elif namespace not in {key.partition("/")[0], root_namespace}:
                words = f"{key} is of another namespace, so its clients do not use this"
                self.find(rule.meta, "MN0302", words, _MOVE, "spec.host")
            else:
                by_place[key, namespace] = by_place.get((key, namespace), _Rule()).and_then(rule)
        for (key, namespace), merged in by_place.items():
            # The Service's own namespace goes before the root namespace, whole.
            if namespace == key.partition("/")[0] or (key, key.partition("/")[0]) not in by_place:
                self.rules[key] = merged

    def add_routes(self, service: VirtualService, hosts: _Hosts) -> None:
        for at, host in enumerate(service.hosts):
            field = f"spec.hosts[{at}]"
            key = hosts.key_of(host, service.meta.namespace)
            if not key:
                self.find(service.meta, "MN0301", f"host {host!r} is a pattern, which is not used", _EXACT, field)
            elif key.partition("/")[0] != service.meta.namespace:
                words = f"{key} is of another namespace, so it is not routed by this"
                self.find(service.meta, "MN0302", words, _MOVE, field)
            elif key in self.routes:
                words = f"not in force for {host}: an older one routes it"
                self.find(service.meta, "MN0217", words, _KEEP_ONE, field)
            else:
                self.routes[key] = _Routes(
                    self._led(service.routes, service.meta, hosts, "spec.tcp"),
                    self._led(service.tls_routes, service.meta, hosts, "spec.tls"),
                )

    def _led(self, routes: tuple[WrittenRoute, ...], meta: Meta, hosts: _Hosts, path: str) -> tuple[TcpRoute, ...]:
        return tuple(
            TcpRoute(self._destinations(route, meta, hosts, f"{path}[{number}]"), route.matches)
            for number, route in enumerate(routes)
            if route.destinations
        )

    def _destinations(self, route: WrittenRoute, meta: Meta, hosts: _Hosts, path: str) -> tuple[Destination, ...]:
        found = []
        for at, destination in enumerate(route.destinations):
            key, field = hosts.key_of(destination.host, meta.namespace), f"{path}.route[{at}].destination"
            if not hosts.is_known(key):
                words = f"destination {destination.host!r} is no Service"
                self.find(meta, "MN0303", words, _REFUSED, f"{field}.host")
            elif destination.subset and destination.subset not in self._subset_names(key):
                words = f"{key} has no subset {destination.subset!r}"
                self.find(meta, "MN0303", words, _REFUSED, f"{field}.subset")
            weight = destination.weight if len(route.destinations) > 1 else 1
            if weight:
                found.append(
                    Destination(
                        service=key or destination.host, weight=weight, port=destination.port, subset=destination.subset
                    )
                )
        return tuple(found)

    def _subset_names(self, key: str) -> set[str]:
        return {subset.name for subset in self.rules.get(key, _Rule()).subsets}

    def labels(self) -> set[tuple[str, str]]:
        """All that some subset or match asks for."""
        found = {pair for rule in self.rules.values() for subset in rule.subsets for pair in subset.labels.items()}
        for routes in self.routes.values():
            matches = (match for route in (*routes.tls, *routes.tcp) for match in route.matches)
            found |= {pair for match in matches for pair in match.source_labels.items()}
        return found

    def find(self, meta: Meta, code: str, message: str, check: str, field: str) -> None:
        place, subject = meta.origin, str(meta.key)
        found = Finding(place.file, place.line, Severity.WARNING, code, subject, message, check, field=field)
        self.findings.append(found)


_EXACT = "Name the Service."
_MOVE = "Write it in the namespace of the Service."
_KEEP_ONE = "Only one VirtualService per host counts."
_REFUSED = "Connections that are routed there are refused."
