# SPDX-License-Identifier: Apache-2.0
"""The dump is what istioctl and Kiali decode: by their own field rules, and byte by byte as it was once looked at.

Go's decoder takes members by name, ignores those that it does not know, reads null and absence as zero, and fails on
another type; so do these classes, which have the fields of istio's istioctl/pkg/writer/ztunnel/configdump/api.go and of
Kiali's kubernetes/ztunnel.go (release-1.30 and v2.28, August 2026).
"""

import base64
import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from nodeagent.admin.config_dump import Subject, config_dump
from nodeagent.admin.state import (
    AgentState,
    Captured,
    CertificateState,
    CertificateView,
    OpenConnection,
    PodView,
)
from nodeagent.config import Config
from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.policy import Action, Clause, Match, Policy, PolicyScope, Rule, ServiceAccountMatch
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.model.workload import (
    BalancingMode,
    GatewayAddress,
    LoadBalancing,
    Scope,
    Service,
    ServicePort,
    Vip,
    Workload,
)

GOLDEN = Path(__file__).parents[2] / "data" / "config_dump" / "node-a.json"
StateOf = Callable[..., AgentState]

U16 = Annotated[int, msgspec.Meta(ge=0, le=65535)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class Go(msgspec.Struct, rename="camel"):
    pass


class Gateway(Go):
    destination: str


class Tunnel(Go):
    protocol: str
    port: U16 | None = None


class Locality(Go):
    region: str = ""
    zone: str = ""
    subzone: str = ""


class ZtunnelWorkload(Go):
    uid: str
    workload_ips: list[str]
    protocol: str
    name: str
    namespace: str
    service_account: str
    workload_name: str
    workload_type: str
    canonical_name: str
    canonical_revision: str
    cluster_id: str
    status: str
    capacity: U32
    waypoint: Gateway | None = None
    network_gateway: Gateway | None = None
    trust_domain: str = ""
    locality: Locality | None = None
    node: str = ""
    network: str = ""
    hostname: str = ""
    application_tunnel: Tunnel | None = None
    authorization_policies: list[str] = []


class Endpoint(Go):
    workload_uid: str
    port: dict[U16, U16]
    status: str
    """Kiali's alone."""
    service: str = ""
    address: str = ""


class Balancer(Go):
    mode: str
    routing_preferences: list[str]
    health_policy: str


class ZtunnelService(Go):
    name: str
    namespace: str
    hostname: str
    vips: list[str]
    ports: dict[str, int]
    endpoints: dict[str, Endpoint]
    cidr_vips: list[str] = []
    load_balancer: Balancer | None = None
    waypoint: Gateway | None = None
    subject_alt_names: list[str] = []
    ip_families: str = ""
    canonical: bool = False
    visibility: str = ""


class GoString(Go, rename="pascal", forbid_unknown_fields=True):
    exact: str = ""
    suffix: str = ""
    prefix: str = ""
    presence: Any = None


class GoAccount(Go, forbid_unknown_fields=True):
    namespace: str
    service_account: str


class PolicyMatch(Go, forbid_unknown_fields=True):
    namespaces: list[GoString] = []
    not_namespaces: list[GoString] = []
    principals: list[GoString] = []
    not_principals: list[GoString] = []
    source_ips: list[str] = []
    not_source_ips: list[str] = []
    destination_ips: list[str] = []
    not_destination_ips: list[str] = []
    destination_ports: list[U16] = []
    not_destination_ports: list[U16] = []
    service_accounts: list[GoAccount] = []
    not_service_accounts: list[GoAccount] = []


class ZtunnelPolicy(Go):
    name: str
    namespace: str
    scope: str
    action: str
    rules: list[list[list[PolicyMatch]]]


class Cert(Go):
    pem: str
    serial_number: str
    valid_from: str
    expiration_time: str


class CertsDump(Go):
    identity: str
    state: str
    cert_chain: list[Cert]
    root_certs: list[Cert]


class GoConnection(Go):
    src: str
    actual_dst: str
    protocol: str
    original_dst: str | None = None


class Connections(Go):
    inbound: list[GoConnection]
    outbound: list[GoConnection]


class Info(Go):
    name: str
    namespace: str
    trust_domain: str
    service_account: str


class WorkloadState(Go):
    state: str
    connections: Connections
    info: Info


class File(msgspec.Struct, rename="pascal"):
    file: str


class SocketAddress(msgspec.Struct, rename="pascal"):
    socket_addr: str


class Duration(msgspec.Struct):
    secs: int
    nanos: int


class KialiConfig(Go):
    ca_address: str
    ca_root_cert: File
    cluster_id: str
    dns_proxy: bool
    local_node: str
    network: str
    num_worker_threads: int
    packet_mark: int
    pool_max_streams_per_conn: int
    pool_unused_release_timeout: Duration
    proxy: bool
    proxy_mode: str
    readiness_addr: SocketAddress
    secret_ttl: Duration
    self_termination_deadline: Duration
    stats_addr: SocketAddress
    xds_address: str
    xds_root_cert: File


class ZtunnelDump(Go):
    workloads: list[ZtunnelWorkload]
    services: list[ZtunnelService]
    policies: list[ZtunnelPolicy]
    certificates: list[CertsDump]
    workload_state: dict[str, WorkloadState]
    config: KialiConfig


WAYPOINT = GatewayAddress(hbone_port=Port(15008), service="shop/waypoint.shop.svc.cluster.local")
ODD = Workload(
    uid="Kubernetes//Pod/shop/odd",
    name="odd",
    namespace="shop",
    addresses=(Ip("10.242.0.77"),),
    waypoint=WAYPOINT,
    network_gateway=GatewayAddress(hbone_port=Port(15008), network="west", ip=Ip("192.0.2.7")),
    application_tunnel_port=15088,
    is_healthy=False,
    is_host_network=True,
    native_tunnel=True,
    region="r1",
    zone="z1",
    network="west",
    hostname="odd.example",
    capacity=7,
    services={"shop/odd.example": (ServicePort(Port(80), 8080),)},
)
ODD_SERVICE = Service(
    name="odd",
    namespace="shop",
    hostname="odd.example",
    vips=(Vip("", Ip("10.96.0.77")), Vip("west", block=Cidr.parse("198.51.100.0/24"))),
    ports=(ServicePort(Port(80), 0),),
    subject_alt_names=("spiffe://cluster.local/ns/shop/sa/odd",),
    waypoint=WAYPOINT,
    balancing=LoadBalancing(BalancingMode.FAILOVER, (Scope.REGION, Scope.ZONE), takes_unhealthy=True),
    prefers_ipv6=False,
    is_canonical=True,
    is_namespace_private=True,
)
ODD_POLICY = Policy(
    name="odd",
    namespace="istio-system",
    scope=PolicyScope.GLOBAL,
    action=Action.DENY,
    rules=(
        Rule(
            (
                Clause(
                    (
                        Match(
                            source_ips=(Cidr.parse("192.0.2.0/24"), Cidr.parse("fd00::/8")),
                            not_destination_ports=(Port(53), Port(443)),
                            not_service_accounts=(ServiceAccountMatch("shop", "web"),),
                        ),
                        Match(),
                    )
                ),
                Clause(),
            )
        ),
    ),
)


@pytest.fixture
def state(state_of: StateOf) -> AgentState:
    """With one of everything that has a spelling of its own."""
    state = state_of()
    state.mesh.apply(Changes(policies=(ODD_POLICY,), services=(ODD_SERVICE,), workloads=(ODD,)))
    refused = CertificateView(
        identity=Identity("cluster.local", "shop", "api"), state=CertificateState.UNAVAILABLE, last_error="CA: no"
    )
    waiting = CertificateView(identity=Identity("cluster.local", "shop", "db"), state=CertificateState.INITIALIZING)
    pending = PodView(
        namespace="shop",
        pod="late",
        ips=(Ip("10.241.0.14"),),
        captured=Captured.PENDING,
        identity=Identity("cluster.local", "shop", "late"),
    )
    return state_of(certificates=(refused, waiting), pods=(*state.pods, pending))


def dumped(state: AgentState, *connections: OpenConnection) -> bytes:
    return config_dump(Subject.of(state, connections, Config(node="node-a", drain_seconds=2.5)))


def test_it_is_byte_by_byte_what_was_looked_at(state: AgentState, connection: OpenConnection) -> None:
    """Run with GOLDEN=write to make it anew; then look at the difference."""
    told = dumped(state, connection)
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_bytes(told)
    assert told == GOLDEN.read_bytes()


def test_istioctl_and_kiali_can_decode_it(state: AgentState, connection: OpenConnection) -> None:
    dump = msgspec.json.decode(dumped(state, connection), type=ZtunnelDump)
    workloads = {one.name: one for one in dump.workloads}
    assert workloads["odd"].application_tunnel == Tunnel("PROXY", 15088)
    assert workloads["odd"].network_gateway == Gateway("west/192.0.2.7")
    services = {one.name: one for one in dump.services}
    assert services["odd"].cidr_vips == ["west/198.51.100.0/24"]
    assert services["odd"].endpoints[ODD.uid].port == {80: 8080}
    assert services["odd"].load_balancer == Balancer("Failover", ["Region", "Zone"], "AllowAll")
    assert {one.scope for one in dump.policies} == {"WorkloadSelector", "Global"}
    assert {one.action for one in dump.policies} == {"Allow", "Deny"}
    assert dump.config.self_termination_deadline == Duration(2, 500_000_000)


def test_a_policy_without_a_dialect(state: AgentState) -> None:
    policies = {one.name: one for one in msgspec.json.decode(dumped(state), type=ZtunnelDump).policies}
    (((strict,),),) = policies["istio_converted_static_strict"].rules
    assert strict.not_principals == [GoString(presence=[])]
    ((odd, everything), nothing) = policies["odd"].rules[0]
    assert odd.source_ips == ["192.0.2.0/24", "fd00::/8"]
    assert odd.not_destination_ports == [53, 443]
    assert odd.not_service_accounts == [GoAccount("shop", "web")]
    assert (everything, nothing) == (PolicyMatch(), [])


def test_the_states_of_certificates_are_ztunnels(state: AgentState) -> None:
    dump = msgspec.json.decode(dumped(state), type=ZtunnelDump)
    assert [(one.identity.rpartition("/")[2], one.state, one.cert_chain) for one in dump.certificates] == [
        ("api", "Unavailable: CA: no", []),
        ("db", "Initializing", []),
    ]


def test_a_certificate_is_pem_in_base64_with_a_decimal_serial(state_of: StateOf) -> None:
    pem, made = _certificate()
    view = CertificateView(
        identity=Identity("cluster.local", "shop", "web"),
        state=CertificateState.AVAILABLE,
        chain_pem=pem,
        roots_pem=pem + pem,
    )
    (told,) = msgspec.json.decode(dumped(state_of(certificates=(view,))), type=ZtunnelDump).certificates
    (leaf,) = told.cert_chain
    assert base64.b64decode(leaf.pem) == pem
    assert leaf.serial_number == str(made.serial_number)
    assert (leaf.valid_from, leaf.expiration_time) == ("2026-08-20T00:00:00Z", "2026-08-21T00:00:00Z")
    assert [one.pem for one in told.root_certs] == [leaf.pem, leaf.pem]


def test_a_connection_stands_at_the_pods_that_have_it(state_of: StateOf, connection: OpenConnection) -> None:
    web, api = Ip("10.241.0.12"), Ip("10.241.0.20")
    record = ConnectionRecord(
        id=1,
        direction=Direction.OUTBOUND,
        started=0.0,
        source_ip=web,
        source_port=1,
        original_ip=api,
        original_port=80,
        destination_ip=api,
        destination_port=8080,
        destination_identity=Identity("d", "shop", "api"),
        is_in_kernel=True,
    )
    pods = (
        *state_of().pods,
        PodView(namespace="shop", pod="api", ips=(api,), captured=Captured.YES, identity=Identity("d", "shop", "api")),
    )
    found = msgspec.json.decode(dumped(state_of(pods=pods), connection, OpenConnection(None, record)), type=ZtunnelDump)
    at_web, at_api = found.workload_state["Kubernetes//Pod/shop/web"], found.workload_state["shop/api"]
    assert [one.actual_dst for one in at_web.connections.outbound] == ["10.242.0.1:15008", "10.241.0.20:8080"]
    assert [(one.original_dst, one.protocol) for one in at_web.connections.outbound] == [
        ("10.96.0.5:5432", "HBONE"),
        ("10.241.0.20:80", "TCP"),
    ]
    assert [one.src for one in at_api.connections.inbound] == ["10.241.0.12:1"]
    assert at_web.connections.inbound == at_api.connections.outbound == []


def _certificate() -> tuple[bytes, x509.Certificate]:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    begin = dt.datetime(2026, 8, 20, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = builder.not_valid_before(begin).not_valid_after(begin + dt.timedelta(days=1)).sign(key, SHA256())
    return made.public_bytes(Encoding.PEM), made
