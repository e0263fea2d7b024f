# SPDX-License-Identifier: Apache-2.0
"""The objects of the mesh directory, as far as the mesh needs them. Code that holds one never checks it again.

Names are Kubernetes' and Istio's. A value that means "not written" is empty or None. `origin` says where the object
stands, for findings that only show when objects are seen together.
"""

import enum
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from nodeagent.controlplane.entry_spec import EntryPort, EntrySpec, Resolution
from nodeagent.controlplane.gateway_spec import GatewayStatusAddress, Listener
from nodeagent.controlplane.label_selector import LabelSelector
from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.policy import Action, ServiceAccountMatch, StringMatch
from nodeagent.model.traffic import EgressHosts, LocalityBalancing, PortPolicy, Subset, TcpMatch


class Origin(msgspec.Struct, frozen=True):
    file: str
    line: int


class Key(msgspec.Struct, frozen=True, order=True):
    """What makes two documents the same object. The API version is no part of it: v1 and v1beta1 are one object."""

    kind: str
    namespace: str
    """Empty for cluster-wide kinds."""
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    key: Key
    origin: Origin
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    created: str = ""
    """metadata.creationTimestamp; RFC 3339 in UTC, so it sorts as text."""

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def namespace(self) -> str:
        return self.key.namespace

    @property
    def age(self) -> tuple[bool, str, str, str]:
        """Sorts the oldest first: by timestamp, then file, then name; an object without timestamp is the youngest."""
        return (not self.created, self.created, self.origin.file, self.name)


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta


class Node(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta


class PodPhase(enum.StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta
    uid: str = ""
    node: str = ""
    service_account: str = "default"
    is_host_network: bool = False
    ips: tuple[Ip, ...] = ()
    phase: PodPhase = PodPhase.RUNNING
    is_ready: bool = True
    named_ports: dict[str, Port] = {}
    """TCP container ports by name; the first of a name counts."""
    container_ports: tuple[Port, ...] = ()
    """All TCP container ports. Optional in Kubernetes: a pod may listen on others."""
    workload_name: str = ""
    """Name of the Deployment, CronJob or whatever owns it; its own name without an owner."""


class PortSpec(msgspec.Struct, frozen=True):
    name: str
    port: Port
    target_port: int
    """0: see `target_name`."""
    target_name: str = ""
    app_protocol: str = ""
    is_udp: bool = False


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """ExternalName Services are parsed and carry no addresses; they are not translated."""

    meta: Meta
    is_external_name: bool = False
    is_headless: bool = False
    selector: dict[str, str] = {}
    ips: tuple[Ip, ...] = ()
    ip_families: tuple[str, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    is_node_local: bool = False
    """internalTrafficPolicy: Local."""
    traffic_distribution: str | None = None
    """As written; None when it is not."""
    publishes_not_ready: bool = False


class Endpoint(msgspec.Struct, frozen=True):
    addresses: tuple[Ip, ...]
    written: str
    """The first of them as it stands in the slice: a part of the workload's uid."""
    is_ready: bool
    pod: str = ""
    """`namespace/name` when the endpoint is a pod, which then stands for itself."""
    pod_uid: str = ""


class EndpointSlice(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta
    ports: tuple[tuple[str, Port], ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def service(self) -> str:
        """Name of its Service; empty when it belongs to none."""
        return self.meta.labels.get("kubernetes.io/service-name", "")


class WorkloadEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Its labels are those of the spec and of the metadata; of two values the metadata's counts."""

    meta: Meta
    spec: EntrySpec

    @property
    def labels(self) -> dict[str, str]:
        return {**self.spec.labels, **self.meta.labels}


class WorkloadGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A template for WorkloadEntries; it is nobody's address itself."""

    meta: Meta
    template: EntrySpec


class ServiceEntry(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta
    hosts: tuple[str, ...] = ()
    addresses: tuple[Cidr, ...] = ()
    ports: tuple[EntryPort, ...] = ()
    resolution: Resolution = Resolution.NONE
    endpoints: tuple[EntrySpec, ...] = ()
    selector: dict[str, str] | None = None
    """Labels of the pods and WorkloadEntries of its namespace that serve it; None when it has its own endpoints."""
    subject_alt_names: tuple[str, ...] = ()
    allocated: dict[str, tuple[Ip, ...]] = {}
    """By host: status.addresses, which a cluster's control plane writes."""


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """The Gateway API's. Here it is a waypoint that others name, or the way to another network."""

    meta: Meta
    class_name: str = ""
    listeners: tuple[Listener, ...] = ()
    addresses: tuple[GatewayStatusAddress, ...] = ()
    """Of its status: empty as long as it is not ready."""


class GatewayClass(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta


class Source(msgspec.Struct, frozen=True, kw_only=True):
    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()
    ip_blocks: tuple[Cidr, ...] = ()
    not_ip_blocks: tuple[Cidr, ...] = ()
    trust_domains: tuple[StringMatch, ...] = ()
    """Neither these nor the next are suffixes."""
    not_trust_domains: tuple[StringMatch, ...] = ()
    layer7: tuple[str, ...] = ()
    """Names of the fields that only a layer 7 proxy can judge."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    ports: tuple[Port, ...] = ()
    not_ports: tuple[Port, ...] = ()
    layer7: tuple[str, ...] = ()


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One `when`. Only the fields of its key are filled; none for a layer 7 key."""

    key: str
    source: Source = Source()
    operation: Operation = Operation()
    destination_ips: tuple[Cidr, ...] = ()
    not_destination_ips: tuple[Cidr, ...] = ()
    is_layer7: bool = False


class PolicyRule(msgspec.Struct, frozen=True, kw_only=True):
    sources: tuple[Source, ...] = ()
    operations: tuple[Operation, ...] = ()
    conditions: tuple[Condition, ...] = ()

    @property
    def layer7(self) -> tuple[str, ...]:
        """Layer 7 attributes anywhere in the rule."""
        names = [name for source in self.sources for name in source.layer7]
        names += [name for operation in self.operations for name in operation.layer7]
        names += [condition.key for condition in self.conditions if condition.is_layer7]
        return tuple(dict.fromkeys(names))


class AuthorizationPolicy(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta
    action: Action | None = Action.ALLOW
    """None: an action that only a waypoint has (AUDIT, CUSTOM)."""
    selector: dict[str, str] | None = None
    is_for_waypoint: bool = False
    """It has targetRefs."""
    is_dry_run: bool = False
    is_strict: bool = False
    """Of a DENY: what needs layer 7 counts as met, instead of never."""
    rules: tuple[PolicyRule, ...] = ()


class RouteDestination(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    """As written: a short name is of the object's namespace."""
    weight: int = 0
    port: int = 0
    subset: str = ""


class WrittenRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One of `tcp` or `tls`."""

    matches: tuple[TcpMatch, ...] = ()
    destinations: tuple[RouteDestination, ...] = ()


class VirtualService(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta
    hosts: tuple[str, ...] = ()
    """As written."""
    is_for_mesh: bool = True
    """False: it is for gateways only."""
    routes: tuple[WrittenRoute, ...] = ()
    tls_routes: tuple[WrittenRoute, ...] = ()


class DestinationRule(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta
    host: str
    """As written."""
    subsets: tuple[Subset, ...] = ()
    """Their policies are merged with the rule's."""
    policies: tuple[PortPolicy, ...] = ()


class OutboundMode(enum.StrEnum):
    """outboundTrafficPolicy.mode: what becomes of connections to addresses that the mesh does not know."""

    ALLOW_ANY = "ALLOW_ANY"
    REGISTRY_ONLY = "REGISTRY_ONLY"


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta
    labels: dict[str, str] = {}
    """Of its workloadSelector."""
    egress: tuple[EgressHosts, ...] | None = None
    """None: not written."""
    outbound: OutboundMode | None = None
    """None: not written."""


class ConnectionLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of our own."""

    meta: Meta
    selector: dict[str, str] = {}
    """Empty: the whole namespace."""
    per_second: float = 0.0
    burst: int = 0
    concurrent: int = 0


class MtlsMode(enum.StrEnum):
    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class PeerAuthentication(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta
    selector: dict[str, str] = {}
    """Empty: the whole namespace, or the whole mesh in the root namespace."""
    mode: MtlsMode = MtlsMode.UNSET
    port_modes: dict[Port, MtlsMode] = {}


class Enrolment(enum.StrEnum):
    LABEL = "label"
    """istio.io/dataplane-mode on the pod or its namespace."""
    ANNOTATION = "annotation"
    """ambient.istio.io/redirection on the pod alone, which istio-cni writes in a cluster."""


class Visibility(enum.StrEnum):
    """Who may know a ServiceEntry: everybody, its own namespace, nobody."""

    PUBLIC = "PUBLIC"
    NAMESPACE = "NAMESPACE"
    NONE = "NONE"


class VisibilityPolicy(msgspec.Struct, frozen=True):
    visibility: Visibility
    selectors: tuple[LabelSelector | None, ...] = ()
    """Each has to select the namespace; None is a rule that nobody knows, and selects nothing."""


class MeshConfig(msgspec.Struct, frozen=True, kw_only=True):
    meta: Meta
    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    """An identity of one of them is as good as the same of `trust_domain`."""
    root_namespace: str = "istio-system"
    enrolment: Enrolment = Enrolment.LABEL
    network: str = ""
    cluster: str = "Kubernetes"
    cluster_domain: str = "cluster.local"
    discovery: tuple[LabelSelector, ...] = ()
    """discoverySelectors: only namespaces that one of them selects count; all do if there are none."""
    default_visibility: Visibility = Visibility.PUBLIC
    visibility_policies: tuple[VisibilityPolicy, ...] = ()
    """serviceEntryVisibility: the first that matches counts."""
    outbound: OutboundMode = OutboundMode.ALLOW_ANY
    locality: LocalityBalancing | None = None
    """For Services whose DestinationRules and traffic distribution say nothing of it; None: not written."""

    def knows(self, namespace_labels: Mapping[str, str]) -> bool:
        return not self.discovery or any(selector.selects(namespace_labels) for selector in self.discovery)

    def visibility(self, namespace_labels: Mapping[str, str]) -> Visibility:
        for policy in self.visibility_policies:
            if all(selector is not None and selector.selects(namespace_labels) for selector in policy.selectors):
                return policy.visibility
        return self.default_visibility


MeshObject: TypeAlias = (
    Namespace
    | Node
    | Pod
    | Service
    | EndpointSlice
    | WorkloadEntry
    | WorkloadGroup
    | ServiceEntry
    | Gateway
    | GatewayClass
    | AuthorizationPolicy
    | PeerAuthentication
    | VirtualService
    | DestinationRule
    | Sidecar
    | ConnectionLimit
    | MeshConfig
)
"""Each has `meta`; which one it is decides `meta.key.kind`."""

DEFAULT_MESH = MeshConfig(meta=Meta(key=Key("MeshConfig", "", "default"), origin=Origin("", 0)))
