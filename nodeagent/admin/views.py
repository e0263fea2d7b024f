# SPDX-License-Identifier: Apache-2.0
"""From the agent's state to what the admin socket answers: JSON-able values, in a stable order. Pure.

Times are RFC 3339 in UTC, absent ones empty. Names are the mesh's own; nothing is shortened here.
"""

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence

from cryptography import x509

from nodeagent.admin import answers
from nodeagent.admin.state import AgentState, CertificateState, CertificateView, OpenConnection, ProbedNode
from nodeagent.errors import ConfigError
from nodeagent.logs.moment import timestamp
from nodeagent.model.address import join_host_port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Mesh
from nodeagent.model.policy import Policy, PolicyScope
from nodeagent.model.record import NO_HITS, ConnectionRecord, FlowPage, Party, Transport, reason_of
from nodeagent.model.workload import GatewayAddress, Service, Workload
from nodeagent.policy.sentences import cautions, headline, origin, rule_sentences


def moment(time: float) -> str:
    """Empty for 0, which is no time."""
    return dt.datetime.fromtimestamp(time, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time else ""


def age(since: float, now: float) -> float:
    """In seconds, of what began at `since`; 0 for what never did, and when clocks were set back."""
    return max(0.0, round(now - since, 1)) if since else 0.0


def pods(state: AgentState) -> answers.Pods:
    return {
        "pods": [
            {
                "namespace": pod.namespace,
                "pod": pod.pod,
                "ips": list(pod.ips),
                "netns": pod.netns,
                "captured": pod.captured,
                "reason": pod.reason,
                "mode": pod.mode,
                "identity": show_identity(pod.identity),
                "device": pod.device,
                "hits": pod.hits,
                "direct": pod.direct,
                "dropped": pod.dropped,
            }
            for pod in sorted(state.pods, key=lambda pod: (pod.namespace, pod.pod))
        ]
    }


def workloads(mesh: Mesh) -> answers.Workloads:
    return {"workloads": [_workload(mesh, found) for found in sorted(mesh.workloads.values(), key=_by_name)]}


def services(mesh: Mesh) -> answers.Services:
    return {"services": [_service(mesh, found) for found in sorted(mesh.services.values(), key=_by_name)]}


def policies(state: AgentState) -> answers.Policies:
    """All policies, and the names that workloads list in vain."""
    mesh = state.mesh
    by_namespace = Counter(workload.namespace for workload in mesh.workloads.values())
    by_policy = Counter(name for workload in mesh.workloads.values() for name in workload.policies)
    told = [
        _policy(state, policy, _attached(policy, len(mesh.workloads), by_namespace, by_policy))
        for policy in sorted(mesh.policies.values(), key=_by_name)
    ]
    told += [
        _policy(state, policy, len(_attached_dry_run(mesh, policy)))
        for policy in sorted(mesh.security.every_dry_run.values(), key=_by_name)
    ]
    missing = sorted(name for name in by_policy if name not in mesh.policies)
    return {"policies": told, "missing": [{"policy": name, "attached": by_policy[name]} for name in missing]}


def policy_in_words(state: AgentState, name: str) -> answers.PolicyShown:
    """One policy read back as sentences. `name` is `ns/name`; raises ConfigError when there is none."""
    mesh = state.mesh
    policy = mesh.policy_named(name)
    if policy is None:
        raise ConfigError(f"no policy {name!r} has arrived at this node", check="`nodeagent policies` lists them.")
    attached = sorted(
        f"{workload.namespace}/{workload.name}"
        for workload in mesh.workloads.values()
        if any(found is policy for found in (*mesh.policies_for(workload)[0], *mesh.dry_runs_for(workload)))
    )
    return {
        "policy": {
            **_policy(state, policy, len(attached)),
            "headline": headline(policy),
            "rules_in_words": list(rule_sentences(policy)),
            "cautions": list(cautions(policy)),
            "attached_to": attached,
        }
    }


def certificates(state: AgentState) -> answers.Certificates:
    return {
        "certificates": [
            {
                "name": show_identity(view.identity) or view.subject,
                "type": "Leaf" if view.identity is not None else "Root",
                "state": view.state,
                "valid": view.not_before <= state.now < view.not_after,
                "serial": view.serial,
                "not_after": moment(view.not_after),
                "not_before": moment(view.not_before),
                "expires_in_seconds": max(0, int(view.not_after - state.now)) if view.not_after else 0,
                "rotates": moment(view.rotates),
                "rotates_in_seconds": max(0, int(view.rotates - state.now)) if view.rotates else 0,
                "last_error": view.last_error,
            }
            for view in sorted(
                (*state.certificates, *_roots(state)),
                key=lambda view: (view.identity is None, show_identity(view.identity), view.serial),
            )
        ]
    }


def _roots(state: AgentState) -> Iterator[CertificateView]:
    """Each root that any identity of this node checks its peers by."""
    found = {
        root
        for pem in {view.roots_pem for view in state.certificates if view.roots_pem}
        for root in x509.load_pem_x509_certificates(pem)
    }
    for root in found:
        yield CertificateView(
            identity=None,
            state=CertificateState.AVAILABLE,
            serial=f"{root.serial_number:x}",
            not_before=root.not_valid_before_utc.timestamp(),
            not_after=root.not_valid_after_utc.timestamp(),
            subject=root.subject.rfc4514_string(),
        )


def connections(found: Sequence[OpenConnection], now: float) -> answers.Connections:
    """Open connections, the oldest first."""
    by_age = sorted(
        found, key=lambda one: (one.record.started, -1 if one.worker is None else one.worker, one.record.id)
    )
    return {"connections": [_connection(connection, now) for connection in by_age]}


def flows(page: FlowPage) -> answers.Flows:
    """Connections that ended or were refused, the latest last."""
    return {
        "flows": [_flow(record) for record in page.records],
        "cursor": page.cursor,
        "has_more": page.has_more,
        "lost": page.lost,
    }


def logs(state: AgentState) -> answers.Logs:
    return {"logs": [{"part": one.part, "level": one.level, "until": moment(one.until)} for one in state.logs]}


def probe(tried: ProbedNode) -> answers.Probed:
    return {
        "from_node": tried.here,
        "to_node": tried.node,
        "path": "hbone",
        "ok": tried.reason is None,
        "source": tried.source,
        "destination": tried.destination,
        "address": tried.address,
        "connect_seconds": round(tried.connect_seconds, 6),
        "handshake_seconds": round(tried.handshake_seconds, 6),
        "round_trip_seconds": round(tried.round_trip_seconds, 6),
        "reason": tried.reason.value if tried.reason else "",
        "error": tried.error,
        "check": tried.reason.check if tried.reason else "",
    }


def show_identity(identity: Identity | None) -> str:
    return str(identity) if identity is not None else ""


def show_gateway(gateway: GatewayAddress | None) -> str:
    if gateway is None:
        return ""
    return join_host_port(gateway.service or gateway.ip, gateway.hbone_port)


def _by_name(found: Workload | Service | Policy) -> tuple[str, str, str]:
    return found.namespace, found.name, found.uid if isinstance(found, Workload) else ""


def _workload(mesh: Mesh, workload: Workload) -> answers.Workload:
    resolved = mesh.resolved.get(workload.hostname) if workload.is_named else None
    return {
        "uid": workload.uid,
        "namespace": workload.namespace,
        "name": workload.name,
        "addresses": list(mesh.addresses(workload)),
        "dns_name": workload.hostname if workload.is_named else "",
        "dns_error": resolved.error if resolved is not None else "",
        "network": workload.network,
        "node": workload.node,
        "cluster": workload.cluster,
        "waypoint": show_gateway(workload.waypoint),
        "protocol": workload.protocol,
        "identity": str(workload.identity),
        "healthy": workload.is_healthy,
        "host_network": workload.is_host_network,
        "workload_type": workload.workload_type,
        "workload_name": workload.workload_name,
        "canonical_name": workload.canonical_name,
        "canonical_revision": workload.canonical_revision,
        "services": sorted(workload.services),
        "policies": list(workload.policies),
        "capacity": workload.capacity,
    }


def _service(mesh: Mesh, service: Service) -> answers.Service:
    endpoints = list(mesh.endpoints(service.key))
    return {
        "namespace": service.namespace,
        "name": service.name,
        "hostname": service.hostname,
        "vips": [f"{vip.network}/{vip.block or vip.ip}" for vip in service.vips],
        "ports": {str(port.service_port): port.target_port for port in service.ports},
        "waypoint": show_gateway(service.waypoint),
        "balancing": service.balancing.mode.name,
        "endpoints": len(endpoints),
        "names": {endpoint.hostname: list(mesh.addresses(endpoint)) for endpoint in endpoints if endpoint.is_named},
        "healthy_endpoints": sum(endpoint.is_healthy for endpoint in endpoints),
        "endpoint_uids": [endpoint.uid for endpoint in endpoints],
    }


def _policy(state: AgentState, policy: Policy, attached: int) -> answers.Policy:
    hits, since = state.policy_hits.get(policy.key, NO_HITS), state.policy_since.get(policy.key, 0.0)
    return {
        "namespace": policy.namespace,
        "name": policy.name,
        "action": policy.action,
        "scope": policy.scope,
        "rules": len(policy.rules),
        "dry_run": policy.is_dry_run,
        "origin": origin(policy),
        "attached": attached,
        "hits": hits.connections,
        "last_hit": moment(hits.last),
        "synced": moment(since),
        "synced_seconds": age(since, state.now),
    }


def _attached_dry_run(mesh: Mesh, policy: Policy) -> list[Workload]:
    return [workload for workload in mesh.workloads.values() if policy in mesh.dry_runs_for(workload)]


def _attached(policy: Policy, everyone: int, by_namespace: Counter[str], by_policy: Counter[str]) -> int:
    """To how many workloads it applies."""
    match policy.scope:
        case PolicyScope.GLOBAL:
            return everyone
        case PolicyScope.NAMESPACE:
            return by_namespace[policy.namespace]
        case PolicyScope.WORKLOAD_SELECTOR:
            return by_policy[policy.key]


def _connection(connection: OpenConnection, now: float) -> answers.Connection:
    record = connection.record
    return {
        "started": moment(record.started),
        "age_seconds": age(record.started, now),
        **_told(record),
        "worker": connection.worker,
    }


def _flow(record: ConnectionRecord) -> answers.Flow:
    reason = reason_of(record)
    return {
        "ended": timestamp(record.started + record.seconds),
        "started": timestamp(record.started),
        "seconds": round(record.seconds, 3),
        **_told(record),
        "verdict": record.verdict,
        "reason": record.reason,
        "error": record.error,
        "check": reason.check if reason is not None else "",
    }


def _told(record: ConnectionRecord) -> answers.Told:
    """What an open connection and one that is over have in common."""
    peer = record.source_identity if record.direction == "inbound" else record.destination_identity
    return {
        "id": record.name,
        "direction": record.direction,
        "source": _party(record.source, record.source_ip, record.source_port),
        "destination": _party(
            record.destination,
            record.destination_ip or record.original_ip,
            record.destination_port or record.original_port,
        ),
        "original": join_host_port(record.original_ip, record.original_port),
        "service": record.service,
        "hop": record.hop,
        "protocol": "HBONE" if record.transport is Transport.HBONE else "PLAIN",
        "path": record.path,
        "tls_peer": show_identity(peer),
        "policy": record.policy,
        "dry_run": record.dry_run,
        "dry_run_policy": record.dry_run_policy,
        "sent_bytes": record.sent_bytes,
        "received_bytes": record.received_bytes,
        "round_trip_us": record.round_trip_us,
        "retransmissions": record.retransmissions,
        "source_identity": show_identity(record.source_identity),
        "destination_identity": show_identity(record.destination_identity),
    }


def _party(party: Party, ip: str, port: int) -> answers.Party:
    return {
        "namespace": party.namespace,
        "workload": party.workload or party.canonical_name,
        "address": join_host_port(ip, port),
    }
