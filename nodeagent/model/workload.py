# SPDX-License-Identifier: Apache-2.0
"""Workloads and Services as nodeagent/proto/workload.proto describes them, in the mesh's own words."""

import enum

import msgspec

from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.identity import Identity


class TunnelProtocol(enum.StrEnum):
    TCP = "TCP"
    """Plain TCP: the workload is not in the mesh."""
    HBONE = "HBONE"


class Scope(enum.IntEnum):
    """Where an endpoint must equal the client to be preferred (istio.workload.LoadBalancing.Scope)."""

    REGION = 1
    ZONE = 2
    SUBZONE = 3
    NODE = 4
    CLUSTER = 5
    NETWORK = 6


class BalancingMode(enum.IntEnum):
    STANDARD = 0
    STRICT = 1
    FAILOVER = 2
    PASSTHROUGH = 3


class LoadBalancing(msgspec.Struct, frozen=True, gc=False):
    mode: BalancingMode = BalancingMode.STANDARD
    scopes: tuple[Scope, ...] = ()
    takes_unhealthy: bool = False
    """HealthPolicy ALLOW_ALL: endpoints that are not ready are chosen too."""


class ServicePort(msgspec.Struct, frozen=True, array_like=True, gc=False):
    service_port: Port
    target_port: int
    """0 in a Service: a named port, whose number stands in each endpoint's own list."""


class GatewayAddress(msgspec.Struct, frozen=True, gc=False):
    """A waypoint or network gateway: by `ns/hostname` of its Service or by (network, ip); exactly one is set."""

    hbone_port: Port
    service: str = ""
    network: str = ""
    ip: Ip = Ip("")


class Workload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Something with an address that the mesh knows. Defaults are the values that istiod leaves out."""

    uid: str
    """`<cluster>//Pod/<namespace>/<name>` and its kin; opaque."""
    name: str
    namespace: str
    addresses: tuple[Ip, ...] = ()
    hostname: str = ""
    """Its name in the DNS; it counts where there are no addresses."""
    network: str = ""
    protocol: TunnelProtocol = TunnelProtocol.TCP
    trust_domain: str = "cluster.local"
    service_account: str = "default"
    node: str = ""
    cluster: str = "Kubernetes"
    canonical_name: str = ""
    canonical_revision: str = ""
    workload_type: str = "pod"
    """deployment, cronjob, pod or job: the member of the HBONE baggage that carries `workload_name`."""
    workload_name: str = ""
    waypoint: GatewayAddress | None = None
    network_gateway: GatewayAddress | None = None
    native_tunnel: bool = False
    application_tunnel_port: int = 0
    """Port of the application's PROXY-protocol tunnel; 0 without one, and for one on the port that is asked for."""
    has_open_tunnel: bool = False
    """It has one on the port that is asked for."""
    services: dict[str, tuple[ServicePort, ...]] = {}
    """`ns/hostname` of each Service it is an endpoint of, with this endpoint's own target ports."""
    policies: tuple[str, ...] = ()
    """`ns/name` of the selector-scoped policies that apply to it."""
    is_healthy: bool = True
    is_host_network: bool = False
    """Shares its node's address: never found by address."""
    region: str = ""
    zone: str = ""
    subzone: str = ""
    capacity: int = 1

    @property
    def expects_proxy_protocol(self) -> bool:
        """Its application is told by a PROXY header for whom a connection was."""
        return self.has_open_tunnel or self.application_tunnel_port > 0

    @property
    def is_named(self) -> bool:
        """Known by its name alone, which has to be resolved."""
        return bool(self.hostname) and not self.addresses

    @property
    def identity(self) -> Identity:
        return Identity(self.trust_domain, self.namespace, self.service_account)


class Vip(msgspec.Struct, frozen=True, gc=False):
    """An address of a Service; `block` is set for a CIDR address and then `ip` is empty."""

    network: str
    ip: Ip = Ip("")
    block: Cidr | None = None


class Service(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    name: str
    namespace: str
    hostname: str
    vips: tuple[Vip, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    waypoint: GatewayAddress | None = None
    balancing: LoadBalancing = LoadBalancing()
    prefers_ipv6: bool | None = None
    """None: AUTOMATIC or DUAL; else IPV4_ONLY (False) or IPV6_ONLY (True)."""
    is_canonical: bool = False
    is_namespace_private: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.hostname}"
