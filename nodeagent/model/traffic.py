# SPDX-License-Identifier: Apache-2.0
"""What an agent is told beyond the workload API, as nodeagent/proto/extension.proto describes it.

Nothing of it is needed: a mesh without these values behaves as a ztunnel's.
"""

import enum
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import msgspec

from nodeagent.model.address import Cidr
from nodeagent.model.security import PolicyOrigin, SecurityExtension


class TcpMatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Fields that are set are ANDed."""

    destination_blocks: tuple[Cidr, ...] = ()
    """Of what the client dialled; ORed."""
    port: int = 0
    """That the client dialled; 0: any."""
    source_namespace: str = ""
    source_labels: dict[str, str] = {}
    server_names: tuple[str, ...] = ()
    """In lower case; ORed. `*.x` is every name that ends with `.x`, `*` every name. Only of `tls_routes`, and there at
    least one."""


class Destination(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    service: str
    """`ns/hostname`."""
    weight: int
    """Above 0."""
    port: int = 0
    """0: the only one of the Service, else the one that the client dialled."""
    subset: str = ""
    """Empty: every endpoint."""


class TcpRoute(msgspec.Struct, frozen=True, gc=False):
    destinations: tuple[Destination, ...]
    """At least one."""
    matches: tuple[TcpMatch, ...] = ()
    """ORed; none at all matches every connection."""


class Algorithm(enum.StrEnum):
    RANDOM = "RANDOM"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"
    SOURCE_IP = "SOURCE_IP"


class Keepalive(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """TCP's; what is 0 is the kernel's default."""

    probes: int = 0
    idle_seconds: int = 0
    interval_seconds: int = 0


class OutlierDetection(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    failures: int
    """Connections in a row that were not made; above 0."""
    base_ejection_seconds: float
    """Times how often the endpoint has been ejected of late."""
    max_ejection_percent: int
    """Of the endpoints; one may always be ejected unless it is 0."""
    interval_seconds: float
    """For so long without an ejection, and it counts as one ejection less."""


class Distribution(msgspec.Struct, frozen=True, gc=False):
    source: str
    """Locality of the clients that it is about: `*`, or `region/zone/subzone` of one to three parts, the last perhaps
    `*`."""
    shares: tuple[tuple[str, int], ...]
    """Localities of endpoints, and how much of the connections each gets in proportion. Others get none."""


class LocalityBalancing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """With none of its fields, nearer endpoints go before others, by region, zone and subzone."""

    distributions: tuple[Distribution, ...] = ()
    """The first about the client counts. With any, the other fields do not."""
    failover: tuple[tuple[str, str], ...] = ()
    """Of a client's region, and the region that goes before all others but its own."""
    priority_labels: tuple[str, ...] = ()
    """`name`, or `name=value`: who shares more of them with the client, in this order, goes first."""
    is_on: bool = True
    """False: off, whatever is said for the mesh. Never told to an agent."""


class TrafficPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a client's agent treats connections to a Service or a subset of it."""

    algorithm: Algorithm | None = None
    """None: by weight, at random, as without a policy."""
    max_connections: int = 0
    """0: any number."""
    connect_seconds: float = 0.0
    """From the decision to the application's answer; 0: as the agent is set."""
    idle_seconds: float = 0.0
    """Without a byte in either direction; 0: for ever."""
    keepalive: Keepalive | None = None
    outlier: OutlierDetection | None = None
    locality: LocalityBalancing | None = None
    """None: as the Service itself says."""


class PortPolicy(msgspec.Struct, frozen=True, gc=False):
    port: int
    """Of the Service; 0: every port that has none of its own."""
    policy: TrafficPolicy


class Subset(msgspec.Struct, frozen=True, gc=False):
    name: str
    labels: dict[str, str] = {}
    policies: tuple[PortPolicy, ...] = ()
    """Instead of those of the Service."""


class ServiceTraffic(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="service", gc=False):
    """How connections to one Service are routed."""

    PREFIX: ClassVar[str] = "service/"

    service: str
    """`ns/hostname`."""
    routes: tuple[TcpRoute, ...] = ()
    """The first that matches counts; without one, the Service itself is meant."""
    tls_routes: tuple[TcpRoute, ...] = ()
    """By the name in the client's ClientHello; before `routes`."""
    subsets: tuple[Subset, ...] = ()
    policies: tuple[PortPolicy, ...] = ()
    """For connections to every endpoint; to a subset without policies too."""

    @property
    def name(self) -> str:
        return self.PREFIX + self.service

    def subset(self, name: str) -> Subset | None:
        return next((subset for subset in self.subsets if subset.name == name), None)

    def policy(self, port: int, subset: str = "") -> TrafficPolicy | None:
        """For connections to this port of the Service, and to this subset if one is named."""
        named = self.subset(subset) if subset else None
        policies = named.policies if named is not None and named.policies else self.policies
        by_port = {entry.port: entry.policy for entry in policies}
        return by_port.get(port, by_port.get(0))


class WorkloadLabels(msgspec.Struct, frozen=True, kw_only=True, tag="workload", gc=False):
    """Those labels of a workload that some route or subset asks for."""

    PREFIX: ClassVar[str] = "workload/"

    uid: str
    labels: dict[str, str]

    @property
    def name(self) -> str:
        return self.PREFIX + self.uid


class MeshTraffic(msgspec.Struct, frozen=True, kw_only=True, tag="mesh", gc=False):
    """What holds for every client of the mesh."""

    NAME: ClassVar[str] = "mesh"

    is_registry_only: bool = False
    """Connections to addresses that the mesh does not know are dropped."""

    @property
    def name(self) -> str:
        return self.NAME


class WorkloadLimits(msgspec.Struct, frozen=True, kw_only=True, tag="limits", gc=False):
    """What one source may open to a workload; each identity has its own account."""

    PREFIX: ClassVar[str] = "limits/"

    uid: str
    per_second: float = 0.0
    """Connections; 0: any number."""
    burst: int = 0
    """That may come at once; above 0 where there is a rate."""
    concurrent: int = 0
    """Open at the same time; 0: any number."""

    @property
    def name(self) -> str:
        return self.PREFIX + self.uid


class EgressHosts(msgspec.Struct, frozen=True, gc=False):
    hosts: tuple[str, ...]
    """`namespace/hostname`: of the namespace `*` is any, `.` the client's own, `~` none; the hostname may begin with
    `*`."""
    port: int = 0
    """Of the Service; 0: every port that has none of its own."""


class ClientScope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What some clients see of the mesh."""

    name: str
    """`namespace/name` of the Sidecar that says so."""
    labels: dict[str, str] = {}
    """Of the clients; empty: all."""
    egress: tuple[EgressHosts, ...] | None = None
    """None: they see everything."""
    is_registry_only: bool = False
    """Connections to addresses of nothing that they see are dropped."""


class ClientScopes(msgspec.Struct, frozen=True, kw_only=True, tag="clients", gc=False):
    """For clients of one namespace, instead of what MeshTraffic says."""

    PREFIX: ClassVar[str] = "clients/"

    namespace: str
    """Empty: of every namespace without scopes for the client."""
    scopes: tuple[ClientScope, ...]
    """The first with the client's labels counts."""

    @property
    def name(self) -> str:
        return self.PREFIX + self.namespace

    def scope(self, labels: Mapping[str, str]) -> ClientScope | None:
        return next((scope for scope in self.scopes if scope.labels.items() <= labels.items()), None)


Extension: TypeAlias = (
    ServiceTraffic | WorkloadLabels | MeshTraffic | WorkloadLimits | ClientScopes | SecurityExtension | PolicyOrigin
)
"""Each has a `name`, by which it is replaced and removed."""
