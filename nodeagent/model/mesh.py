# SPDX-License-Identifier: Apache-2.0
"""The mesh as one node knows it: workloads, services and policies by name and by address.

One writer applies changes, between decisions; a decision reads without waiting. Every value is replaced whole, so a
reader never sees half a policy. The order hazards of delta xDS are harmless here: a workload may name a service or a
policy that has not come yet, and one address may belong to two workloads while a pod is being replaced (the last one
that came is found, and the removal of the older one does not hide it).
"""

from collections.abc import Hashable, Iterable, Iterator, KeysView, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar, assert_never

import msgspec

from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.address_index import AddressIndex, Owners
from nodeagent.model.policy import Policy, PolicyScope
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.security import DryRun, PolicyOrigin, Revocations, Security, SecurityExtension, TrustDomains
from nodeagent.model.sharing import share_text
from nodeagent.model.traffic import (
    ClientScope,
    ClientScopes,
    Extension,
    MeshTraffic,
    ServiceTraffic,
    WorkloadLabels,
    WorkloadLimits,
)
from nodeagent.model.workload import Service, TunnelProtocol, Workload

_Key = TypeVar("_Key", bound=Hashable)


class Changes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one xDS response did, or the node's resolver, in the order in which it must be applied.

    Policies first, so that no workload is seen with a policy list it cannot resolve although both came together; then
    extensions, so that no client is seen without the labels that a route asks for, and names before who has them.
    """

    policies: tuple[Policy, ...] = ()
    extensions: tuple[Extension, ...] = ()
    names: tuple[ResolvedName, ...] = ()
    """What the agent has found out itself."""
    services: tuple[Service, ...] = ()
    workloads: tuple[Workload, ...] = ()
    removed_workloads: tuple[str, ...] = ()
    removed_services: tuple[str, ...] = ()
    removed_names: tuple[str, ...] = ()
    removed_extensions: tuple[str, ...] = ()
    removed_policies: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, field) for field in self.__struct_fields__)

    @property
    def values(self) -> int:
        """How many there are, without what is removed."""
        kinds = (self.policies, self.extensions, self.names, self.services, self.workloads)
        return sum(map(len, kinds))


class Mesh:
    """Indexes over the kinds of resource. `generation` grows with each applied change."""

    def __init__(self, node: str | None = None, network: str = "") -> None:
        """`node`: whose workloads are asked for often; `network`: whose news are taken."""
        self.generation = 0
        self.workloads: dict[str, Workload] = {}
        self.services: dict[str, Service] = {}
        self.policies: dict[str, Policy] = {}
        self.extensions: dict[str, Extension] = {}
        self.resolved: dict[str, ResolvedName] = {}
        """By name; one that is missing nobody has had an answer to yet."""
        self.security = Security()
        self._by_address, self._by_vip, self._by_answer = AddressIndex(), AddressIndex(), AddressIndex()
        self._by_hostname = Owners[str]()
        # Each inner dict is an ordered set.
        self._blocks: dict[tuple[str, Cidr], dict[str, None]] = {}
        self._endpoints: dict[str, dict[str, None]] = {}
        self._by_name: dict[str, dict[str, None]] = {}
        """Workloads that are known by their name alone."""
        self._places: dict[str, list[tuple[Ip, Port]]] = {}
        """Answers of `named_places`, until one may be another."""
        self._by_scope: dict[str, dict[str, Policy]] = {}
        self._changed: dict[str, int] = {}
        self._node, self._network = node, network
        self._here: dict[str, Workload] = {}
        """Of `node`."""
        self._news: set[Ip] | None = None
        """None before they are taken for the first time: then all are."""

    def apply(self, changes: Changes) -> None:
        for policy in changes.policies:
            key = share_text(policy.key)
            self._remove_policy(key)
            self.policies[key] = policy
            if policy.scope is not PolicyScope.WORKLOAD_SELECTOR:
                self._by_scope.setdefault(_scope_of(policy), {})[key] = policy
        for extension in changes.extensions:
            self._add_extension(extension)
        for found in changes.names:
            self._resolve(found.hostname, found)
        for service in changes.services:
            self._remove_service(service.key)
            self._add_service(service)
        for workload in changes.workloads:
            self._remove_workload(workload.uid)
            self._add_workload(workload)
        self._remove(changes)
        self.generation += 1

    def _remove(self, changes: Changes) -> None:
        for key in changes.removed_workloads:
            self._remove_workload(key)
        for key in changes.removed_services:
            self._remove_service(key)
        for hostname in changes.removed_names:
            self._resolve(hostname, None)
        for name in changes.removed_extensions:
            self._remove_extension(name)
        for key in changes.removed_policies:
            self._remove_policy(key)

    def workload_at(self, network: str, ip: Ip) -> Workload | None:
        """The workload that owns this address; host-network workloads share theirs and are never found."""
        uids = self._by_address.find(network, ip)
        return self.workloads[uids[-1]] if uids else None

    def services_at(self, network: str, ip: Ip) -> tuple[Service, ...]:
        """Services with this address: by exact address, else by the longest block that holds it."""
        exact = self.services_at_ip(network, ip)
        if exact:
            return exact
        holding = self.services_at_block(network, ip)
        longest = max((bits for bits, _ in holding), default=0)
        return tuple(service for bits, service in holding if bits == longest)

    def services_at_ip(self, network: str, ip: Ip) -> tuple[Service, ...]:
        """Services that have exactly this address, in the order of arrival."""
        return tuple(self.services[key] for key in self._by_vip.find(network, ip))

    def services_at_block(self, network: str, ip: Ip) -> tuple[tuple[int, Service], ...]:
        """Services with a block that holds this address, each with the length of its prefix."""
        return tuple(
            (block.bits, self.services[key])
            for (net, block), keys in self._blocks.items()
            if net == network and block.contains(ip)
            for key in keys
        )

    def services_by_name(self, network: str, ip: Ip, port: int) -> tuple[Service, ...]:
        """Services with this port of which an endpoint's name means this address, and that are reached in plain TCP."""
        found = self._services_meant(self._by_answer.find(network, ip))
        return tuple(service for service in found if any(listed.service_port == port for listed in service.ports))

    def named_places(self, network: str) -> Sequence[tuple[Ip, Port]]:
        """Addresses and ports for which `services_by_name` has an answer."""
        if network not in self._places:
            self._places[network] = self._find_places(network)
        return self._places[network]

    def _find_places(self, network: str) -> list[tuple[Ip, Port]]:
        places: dict[tuple[Ip, Port], None] = {}  # an ordered set
        for hostname in self.resolved:
            for uid in self._by_name.get(hostname, ()):
                workload = self.workloads[uid]
                ports = [listed.service_port for one in self._services_meant((uid,)) for listed in one.ports]
                ips = self._meant_by(workload) if workload.network == network else ()
                places.update(((ip, port), None) for ip in ips for port in ports)
        return list(places)

    def _services_meant(self, uids: Iterable[str]) -> list[Service]:
        """Without those behind a waypoint, as `_meant_by` is without who speaks HBONE."""
        keys = dict.fromkeys(key for uid in uids for key in self.workloads[uid].services)
        found = (self.services[key] for key in keys if key in self.services)
        return [service for service in found if service.waypoint is None]

    def services_named(self, hostname: str) -> tuple[Service, ...]:
        """Services with this hostname, one per namespace at most, in the order of arrival."""
        return tuple(self.services[key] for key in self._by_hostname.find(hostname))

    def names(self) -> KeysView[str]:
        """By which alone some workload is known."""
        return self._by_name.keys()

    def addresses(self, workload: Workload) -> tuple[Ip, ...]:
        """Its own; of one that is known by its name alone, those that the name has at the moment."""
        if not workload.is_named:
            return workload.addresses
        found = self.resolved.get(workload.hostname)
        return found.addresses if found is not None else ()

    def endpoints(self, service_key: str) -> Iterator[Workload]:
        """Every workload that names this Service, healthy or not, in the order of arrival."""
        return (self.workloads[uid] for uid in self._endpoints.get(service_key, ()))

    def policies_for(self, workload: Workload) -> tuple[tuple[Policy, ...], tuple[str, ...]]:
        """Policies that apply to `workload` as a destination, and the names it lists that have not arrived."""
        found = [*self._by_scope.get("", {}).values(), *self._by_scope.get(workload.namespace, {}).values()]
        missing = []
        for key in workload.policies:
            policy = self.policies.get(key)
            if policy is None:
                missing.append(key)
            elif policy.scope is PolicyScope.WORKLOAD_SELECTOR or _scope_of(policy) not in {"", workload.namespace}:
                found.append(policy)  # named is enough, whatever its scope; the others are in the list already
        return tuple(found), tuple(missing)

    def dry_runs_for(self, workload: Workload) -> tuple[Policy, ...]:
        """Policies that only tell what they would decide about connections to `workload`."""
        if not self.security.has_dry_runs:  # the usual case, and asked for every connection
            return ()
        return tuple(self.security.dry_runs(workload, self.labels(workload.uid)))

    def policy_named(self, key: str) -> Policy | None:
        """By `ns/name`: one that is in force, else a dry run."""
        return self.policies.get(key) or self.security.every_dry_run.get(key)

    def traffic(self, service_key: str) -> ServiceTraffic | None:
        """How connections to this Service are routed, if anything is said about it."""
        found = self.extensions.get(ServiceTraffic.PREFIX + service_key)
        return found if isinstance(found, ServiceTraffic) else None

    def labels(self, uid: str) -> dict[str, str]:
        """Of this workload, those that some route or subset asks for."""
        found = self.extensions.get(WorkloadLabels.PREFIX + uid)
        return found.labels if isinstance(found, WorkloadLabels) else {}

    def limits(self, uid: str) -> WorkloadLimits | None:
        """What one source may open to this workload, if anything is said about it."""
        found = self.extensions.get(WorkloadLimits.PREFIX + uid)
        return found if isinstance(found, WorkloadLimits) else None

    def scope(self, client: Workload) -> ClientScope | None:
        """What `client` sees of the mesh, if anything is said about it."""
        for namespace in (client.namespace, ""):
            scopes = self.extensions.get(ClientScopes.PREFIX + namespace)
            found = scopes.scope(self.labels(client.uid)) if isinstance(scopes, ClientScopes) else None
            if found is not None:
                return found
        return None

    def is_registry_only(self, client: Workload) -> bool:
        """Whether its connections to addresses that nobody has registered are to be dropped."""
        scope = self.scope(client)
        if scope is not None:
            return scope.is_registry_only
        found = self.extensions.get(MeshTraffic.NAME)
        return isinstance(found, MeshTraffic) and found.is_registry_only

    def changed(self, service_key: str) -> int:
        """Another number after each change of this Service, its endpoints, or what extensions say of either."""
        return self._changed.get(service_key, 0)

    def workloads_on(self, node: str) -> Iterable[Workload]:
        if node == self._node:
            return self._here.values()
        return (workload for workload in self.workloads.values() if workload.node == node)

    def known_addresses(self, network: str) -> Iterator[Ip]:
        """Every address of this network that a packet may be steered for: workloads and services."""
        yield from self._by_address.addresses(network)
        yield from self._by_vip.addresses(network)

    def is_known(self, network: str, ip: Ip) -> bool:
        """Whether it is one of `known_addresses`."""
        return self._by_address.has(network, ip) or self._by_vip.has(network, ip)

    def take_news(self) -> AbstractSet[Ip] | None:
        """Addresses that have become known, or are no longer, since this was called last; None: any may be."""
        taken, self._news = self._news, set()
        return taken

    def is_news(self, ip: Ip) -> bool:
        """Whether it is among those to be taken."""
        return self._news is None or ip in self._news

    def known_blocks(self, network: str) -> Iterator[Cidr]:
        """Every block of addresses of this network that a Service has."""
        return (block for net, block in self._blocks if net == network)

    def origin(self, policy: str) -> str:
        """Where `ns/name` is written, as `file:line`; empty where nobody has said it, as an istiod does not."""
        found = self.extensions.get(PolicyOrigin.PREFIX + policy)
        return str(found) if isinstance(found, PolicyOrigin) else ""

    def everything(self) -> Changes:
        """The whole state as one change, for a worker that starts."""
        return Changes(
            policies=tuple(self.policies.values()),
            extensions=tuple(self.extensions.values()),
            names=tuple(self.resolved.values()),
            services=tuple(self.services.values()),
            workloads=tuple(self.workloads.values()),
        )

    def _add_extension(self, extension: Extension) -> None:
        name = share_text(extension.name)  # as with a Service's key
        self._remove_extension(name)
        self.extensions[name] = extension
        if isinstance(extension, SecurityExtension):
            self.security.add(extension)
        self._note_extension(extension)

    def _remove_extension(self, name: str) -> None:
        extension = self.extensions.pop(name, None)
        if extension is not None:
            if isinstance(extension, SecurityExtension):
                self.security.remove(extension)
            self._note_extension(extension)

    def _note_extension(self, extension: Extension) -> None:
        match extension:
            case ServiceTraffic():
                keys: Iterable[str] = (extension.service,)
            case WorkloadLabels():
                workload = self.workloads.get(extension.uid)
                keys = workload.services if workload is not None else ()
            case (
                MeshTraffic()
                | WorkloadLimits()
                | ClientScopes()
                | DryRun()
                | TrustDomains()
                | Revocations()
                | PolicyOrigin()
            ):
                keys = ()
            case unreachable:
                assert_never(unreachable)
        self._note(keys)

    def _resolve(self, hostname: str, found: ResolvedName | None) -> None:
        workloads = [self.workloads[uid] for uid in self._by_name.get(hostname, ())]
        for workload in workloads:
            self._forget_answer(workload)
        if found is None:
            self.resolved.pop(hostname, None)
        else:
            self.resolved[hostname] = found
        for workload in workloads:
            self._add_answer(workload)
            self._note(workload.services)

    def _add_answer(self, workload: Workload) -> None:
        self._places.clear()
        for ip in self._meant_by(workload):
            self._by_answer.add(workload.network, ip, workload.uid)

    def _forget_answer(self, workload: Workload) -> None:
        self._places.clear()
        for ip in self._meant_by(workload):
            self._by_answer.remove(workload.network, ip, workload.uid)

    def _meant_by(self, workload: Workload) -> tuple[Ip, ...]:
        """Addresses by which a client may dial it that has resolved its name by itself.

        One that speaks HBONE has none: what is sent to them must not pass in plain text when nobody tunnels it.
        """
        found = self.resolved.get(workload.hostname)
        if found is None or not workload.is_named or workload.protocol is not TunnelProtocol.TCP:
            return ()
        return (*found.addresses, *found.former)

    def _note(self, services: Iterable[str]) -> None:
        """As changed."""
        for key in services:
            if key in self.services or key in self._endpoints:
                self._changed[key] = self.generation + 1

    def _add_workload(self, workload: Workload) -> None:
        self.workloads[workload.uid] = workload
        if workload.node == self._node:
            self._here[workload.uid] = workload
        if not workload.is_host_network:
            for ip in workload.addresses:
                self._add_address(self._by_address, workload.network, ip, workload.uid)
        if workload.is_named:
            self._by_name.setdefault(workload.hostname, {})[workload.uid] = None
            self._add_answer(workload)
        for key in workload.services:
            self._endpoints.setdefault(key, {})[workload.uid] = None
            self._changed[key] = self.generation + 1

    def _remove_workload(self, uid: str) -> None:
        workload = self.workloads.pop(uid, None)
        if workload is None:
            return
        self._here.pop(uid, None)
        for ip in workload.addresses:
            self._remove_address(self._by_address, workload.network, ip, uid)
        if workload.is_named:
            _discard(self._by_name, workload.hostname, uid)
            self._forget_answer(workload)
        for key in workload.services:
            _discard(self._endpoints, key, uid)
            if key in self.services or key in self._endpoints:
                self._changed[key] = self.generation + 1
            else:
                self._changed.pop(key, None)

    def _add_service(self, service: Service) -> None:
        self._places.clear()
        key = share_text(service.key)  # made anew by each call, and an index of endpoints may have it already
        self.services[key] = service
        self._changed[key] = self.generation + 1
        self._by_hostname.add(service.hostname, key)
        for vip in service.vips:
            if vip.block is not None:
                self._blocks.setdefault((vip.network, vip.block), {})[key] = None
            else:
                self._add_address(self._by_vip, vip.network, vip.ip, key)

    def _remove_service(self, key: str) -> None:
        service = self.services.pop(key, None)
        if service is None:
            return
        self._places.clear()
        self._changed.pop(key, None)
        self._by_hostname.remove(service.hostname, key)
        for vip in service.vips:
            if vip.block is not None:
                _discard(self._blocks, (vip.network, vip.block), key)
            else:
                self._remove_address(self._by_vip, vip.network, vip.ip, key)

    def _add_address(self, index: AddressIndex, network: str, ip: Ip, owner: str) -> None:
        if not self.is_known(network, ip):
            self._note_news(network, ip)
        index.add(network, ip, owner)

    def _remove_address(self, index: AddressIndex, network: str, ip: Ip, owner: str) -> None:
        was_known = self.is_known(network, ip)
        index.remove(network, ip, owner)
        if was_known and not self.is_known(network, ip):
            self._note_news(network, ip)

    def _note_news(self, network: str, ip: Ip) -> None:
        """One that goes and comes back is none: a change of a workload removes its addresses and adds them again."""
        if self._news is not None and network == self._network:
            self._news ^= {ip}

    def _remove_policy(self, key: str) -> None:
        policy = self.policies.pop(key, None)
        if policy is not None and policy.scope is not PolicyScope.WORKLOAD_SELECTOR:
            self._by_scope.get(_scope_of(policy), {}).pop(key, None)


def _scope_of(policy: Policy) -> str:
    """The namespace whose workloads it applies to; empty means all."""
    return "" if policy.scope is PolicyScope.GLOBAL else policy.namespace


def _discard(index: dict[_Key, dict[str, None]], key: _Key, member: str) -> None:
    members = index.get(key)
    if members is not None:
        members.pop(member, None)
        if not members:
            del index[key]


def split(changes: Changes, limit: int) -> Iterator[Changes]:
    """The same change in pieces of at most `limit` values, in the order that `Changes` promises."""
    piece: dict[str, tuple[object, ...]] = {}
    room = limit
    for field in changes.__struct_fields__:
        values = getattr(changes, field)
        while values:
            taken, values = values[:room], values[room:]
            piece[field] = taken
            room -= len(taken)
            if room == 0:
                yield Changes(**piece)  # type: ignore[arg-type]
                piece, room = {}, limit
    if piece:
        yield Changes(**piece)  # type: ignore[arg-type]
