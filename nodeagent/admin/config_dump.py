# SPDX-License-Identifier: Apache-2.0
"""What this node knows in the form of ztunnel's /config_dump, which `istioctl ztunnel-config` and Kiali read. Pure.

Names, spellings and absences are ztunnel's (src/admin.rs, src/state, src/rbac.rs), as istioctl decodes them
(istioctl/pkg/writer/ztunnel/configdump/api.go). What we do not have is left out, never made up.
"""

import base64
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nodeagent.admin.state import AgentState, Captured, CertificateState, CertificateView, OpenConnection, PodView
from nodeagent.config import Config
from nodeagent.model.address import join_host_port
from nodeagent.model.policy import Match, MatchKind, Policy, StringMatch
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.model.workload import BalancingMode, GatewayAddress, LoadBalancing, Service, Workload

_STATES = {Captured.YES: "Up", Captured.PENDING: "Pending"}


class Subject(NamedTuple):
    """Everything that a dump is about, taken at one moment. Nothing that is read of it later changes."""

    state: AgentState
    connections: Sequence[OpenConnection]
    config: Config
    workloads: tuple[Workload, ...]
    services: tuple[tuple[Service, tuple[Workload, ...]], ...]
    """Each with its endpoints."""
    policies: tuple[Policy, ...]

    @classmethod
    def of(cls, state: AgentState, connections: Sequence[OpenConnection], config: Config) -> Self:
        """Takes little time in a large mesh; what is done with it may then take place in a thread."""
        mesh = state.mesh
        services = tuple((service, tuple(mesh.endpoints(service.key))) for service in mesh.services.values())
        policies = (*mesh.policies.values(), *mesh.security.every_dry_run.values())
        return cls(state, connections, config, tuple(mesh.workloads.values()), services, policies)


def config_dump(subject: Subject) -> bytes:
    """JSON, in an order that does not depend on when things came."""
    told = {
        "workloads": [_workload(one) for one in sorted(subject.workloads, key=lambda one: one.uid)],
        "services": [_service(*one) for one in sorted(subject.services, key=lambda one: one[0].key)],
        "policies": [_policy(one) for one in sorted(subject.policies, key=lambda one: one.key)],
        "certificates": [
            _certificate(view)
            for view in sorted(subject.state.certificates, key=lambda view: str(view.identity))
            if view.identity is not None
        ],
        "workloadState": _workload_state(subject),
        "version": {"version": f"nodeagent-{subject.state.version}"},
        "config": _config(subject.config),
    }
    return msgspec.json.format(msgspec.json.encode(told)) + b"\n"


def _workload(workload: Workload) -> dict[str, object]:
    places = {"region": workload.region, "zone": workload.zone, "subzone": workload.subzone}
    tunnel = None
    if workload.expects_proxy_protocol:
        tunnel = {"protocol": "PROXY", **({"port": port} if (port := workload.application_tunnel_port) else {})}
    return {
        "uid": workload.uid,
        "workloadIps": list(workload.addresses),
        "protocol": workload.protocol,
        "networkMode": "HostNetwork" if workload.is_host_network else "Standard",
        "name": workload.name,
        "namespace": workload.namespace,
        "serviceAccount": workload.service_account,
        "workloadName": workload.workload_name,
        "workloadType": workload.workload_type,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "clusterId": workload.cluster,
        "status": _status(workload),
        "capacity": workload.capacity,
        **_present(
            waypoint=_gateway(workload.waypoint),
            networkGateway=_gateway(workload.network_gateway),
            trustDomain=workload.trust_domain,
            locality=places if any(places.values()) else None,
            node=workload.node,
            network=workload.network,
            hostname=workload.hostname,
            nativeTunnel=workload.native_tunnel,
            applicationTunnel=tunnel,
            authorizationPolicies=list(workload.policies),
            services=sorted(workload.services),
        ),
    }


def _service(service: Service, endpoints: Iterable[Workload]) -> dict[str, object]:
    family = {None: "", False: "IPv4", True: "IPv6"}[service.prefers_ipv6]
    return {
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": [f"{vip.network}/{vip.ip}" for vip in service.vips if vip.block is None],
        "ports": {str(port.service_port): port.target_port for port in service.ports},
        "endpoints": {
            workload.uid: {
                "workloadUid": workload.uid,
                "port": {str(port.service_port): port.target_port for port in workload.services[service.key]},
                "status": _status(workload),
            }
            for workload in sorted(endpoints, key=lambda one: one.uid)
        },
        "subjectAltNames": list(service.subject_alt_names),
        "canonical": service.is_canonical,
        "visibility": "Namespace" if service.is_namespace_private else "Public",
        **_present(
            cidrVips=[f"{vip.network}/{vip.block}" for vip in service.vips if vip.block is not None],
            waypoint=_gateway(service.waypoint),
            loadBalancer=_load_balancer(service.balancing),
            ipFamilies=family,
        ),
    }


def _load_balancer(balancing: LoadBalancing) -> dict[str, object] | None:
    if balancing == LoadBalancing():
        return None
    return {
        "mode": BalancingMode(balancing.mode).name.capitalize(),
        "routingPreferences": [scope.name.capitalize() for scope in balancing.scopes],
        "healthPolicy": "AllowAll" if balancing.takes_unhealthy else "OnlyHealthy",
    }


def _policy(policy: Policy) -> dict[str, object]:
    return {
        "name": policy.name,
        "namespace": policy.namespace,
        "scope": "".join(word.capitalize() for word in policy.scope.split("_")),
        "action": policy.action.capitalize(),
        "rules": [[[_match(match) for match in clause.matches] for clause in rule.clauses] for rule in policy.rules],
        "dryRun": policy.is_dry_run,
    }


def _match(match: Match) -> dict[str, object]:
    told: dict[str, object] = {}
    for name in match.__struct_fields__:
        values = getattr(match, name)
        if values:
            told[_camel(name)] = [_value(value) for value in values]
    return told


def _value(value: object) -> object:
    match value:
        case StringMatch(kind=MatchKind.PRESENCE):
            return {"Presence": []}
        case StringMatch():
            return {value.kind.capitalize(): value.value}
        case int():
            return value
        case msgspec.Struct() if hasattr(value, "service_account"):
            return {_camel(name): getattr(value, name) for name in value.__struct_fields__}
        case _:
            return str(value)


def _certificate(view: CertificateView) -> dict[str, object]:
    is_available = view.state is CertificateState.AVAILABLE
    state = f"{view.state}: {view.last_error}" if view.state is CertificateState.UNAVAILABLE else str(view.state)
    return {
        "identity": str(view.identity),
        "state": state,
        "certChain": list(_pem_certificates(view.chain_pem)) if is_available else [],
        "rootCerts": list(_pem_certificates(view.roots_pem)) if is_available else [],
    }


def _pem_certificates(pem: bytes) -> Iterator[dict[str, object]]:
    for certificate in x509.load_pem_x509_certificates(pem) if pem else ():
        yield {
            "pem": base64.b64encode(certificate.public_bytes(Encoding.PEM)).decode("ascii"),
            "serialNumber": str(certificate.serial_number),
            "validFrom": _moment(certificate.not_valid_before_utc),
            "expirationTime": _moment(certificate.not_valid_after_utc),
        }


def _workload_state(subject: Subject) -> dict[str, object]:
    """By the workload's uid, where ztunnel has the pod's: each pod of this node that is captured or is about to be."""
    here = {(one.namespace, one.name): one for one in subject.workloads if one.node == subject.state.node}
    told: dict[str, object] = {}
    for pod in subject.state.pods:
        state = _STATES.get(pod.captured)
        if state is not None and pod.identity is not None:
            workload = here.get((pod.namespace, pod.pod))
            uid = workload.uid if workload is not None else f"{pod.namespace}/{pod.pod}"
            told[uid] = {
                "state": state,
                "connections": _connections(pod, subject.connections),
                "info": {
                    "name": pod.pod,
                    "namespace": pod.namespace,
                    "trustDomain": pod.identity.trust_domain,
                    "serviceAccount": pod.identity.service_account,
                },
            }
    return told


def _connections(pod: PodView, found: Sequence[OpenConnection]) -> dict[str, list[dict[str, object]]]:
    """One that stays on this node without a tunnel is both: it has one record for its two ends."""
    inbound, outbound = [], []
    for record in (one.record for one in found):
        if record.source_ip in pod.ips and record.direction is Direction.OUTBOUND:
            outbound.append(_connection(record, join_host_port(record.original_ip, record.original_port)))
        if record.destination_ip in pod.ips and (record.has_both_ends or record.direction is Direction.INBOUND):
            inbound.append(_connection(record, record.service.partition("/")[2] or None, is_inbound=True))
    return {"inbound": inbound, "outbound": outbound}


def _connection(record: ConnectionRecord, original: str | None, *, is_inbound: bool = False) -> dict[str, object]:
    target = join_host_port(
        record.destination_ip or record.original_ip, record.destination_port or record.original_port
    )
    return {
        "src": join_host_port(record.source_ip, record.source_port),
        "originalDst": original,
        "actualDst": target if is_inbound else record.hop or target,
        "protocol": record.transport,
    }


def _config(config: Config) -> dict[str, object]:
    """Of ztunnel's settings those that we have, too. Durations as Kiali reads them."""
    return {
        "localNode": config.node,
        "clusterId": config.cluster,
        "network": config.network,
        "proxy": True,
        "proxyMode": "Shared",
        "dnsProxy": False,
        "xdsAddress": config.xds_address,
        "caAddress": config.ca_address or config.xds_address,
        "xdsRootCert": {"File": config.root_certificate},
        "caRootCert": {"File": config.root_certificate},
        "secretTtl": _duration(config.certificate_seconds),
        "numWorkerThreads": config.workers,
        "poolMaxStreamsPerConn": config.pool_streams,
        "poolUnusedReleaseTimeout": _duration(config.pool_idle_seconds),
        "selfTerminationDeadline": _duration(config.drain_seconds),
        "packetMark": config.mark,
        "statsAddr": {"SocketAddr": config.stats_address},
        "readinessAddr": {"SocketAddr": config.ready_address},
    }


def _duration(seconds: float) -> dict[str, int]:
    whole = int(seconds)
    return {"secs": whole, "nanos": round((seconds - whole) * 1e9)}


def _gateway(gateway: GatewayAddress | None) -> dict[str, object] | None:
    if gateway is None:
        return None
    destination = gateway.service or f"{gateway.network}/{gateway.ip}"
    return {"destination": destination, "hboneMtlsPort": gateway.hbone_port}


def _status(workload: Workload) -> str:
    return "Healthy" if workload.is_healthy else "Unhealthy"


def _moment(time: dt.datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _present(**members: object) -> Mapping[str, object]:
    """Those that are not empty: ztunnel leaves out what has its default."""
    return {name: value for name, value in members.items() if value}
