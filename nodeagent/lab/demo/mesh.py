# SPDX-License-Identifier: Apache-2.0
"""The demo's mesh directory: ordinary Kubernetes and Istio objects, written for the lab's addresses."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from nodeagent.lab.topology import PodPlace
from nodeagent.model.address import Ip

Object = dict[str, object]


README = """\
# The demo's mesh. Edit a file while the demo runs: a change is in force a moment after it is saved.
# An object that is not valid is refused with file and line, and its last good version stays in force.
"""


def _metadata(name: str, namespace: str = "", labels: dict[str, str] | None = None) -> Object:
    metadata: Object = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = labels
    return metadata


def namespace(name: str, *, ambient: bool) -> Object:
    labels = {"istio.io/dataplane-mode": "ambient"} if ambient else None
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": _metadata(name, labels=labels)}


def node(name: str, zone: str) -> Object:
    labels = {"topology.kubernetes.io/region": "lab", "topology.kubernetes.io/zone": zone}
    return {"apiVersion": "v1", "kind": "Node", "metadata": _metadata(name, labels=labels)}


def pod(place: PodPlace, ips: Sequence[Ip] = ()) -> Object:
    """At `ips`, or where the lab has it."""
    spec, ips = place.spec, ips or place.ips
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(spec.name, spec.namespace, dict(spec.labels)),
        "spec": {"nodeName": spec.node, "serviceAccountName": spec.service_account},
        "status": {
            "phase": "Running",
            "podIP": str(ips[0]),
            "podIPs": [{"ip": str(ip)} for ip in ips],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def service(
    name: str, namespace_name: str, selector: dict[str, str], ips: Sequence[str], ports: dict[int, int]
) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, namespace_name),
        "spec": {
            "selector": selector,
            "clusterIP": ips[0],
            "clusterIPs": list(ips),
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [
                {"name": f"tcp-{port}", "port": port, "targetPort": target, "protocol": "TCP"}
                for port, target in ports.items()
            ],
        },
    }


def authorization(name: str, namespace_name: str, app: str, action: str, rules: list[Object]) -> Object:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": _metadata(name, namespace_name),
        "spec": {"selector": {"matchLabels": {"app": app}}, "action": action, "rules": rules},
    }


def rule(
    *,
    principals: Sequence[str] = (),
    namespaces: Sequence[str] = (),
    ip_blocks: Sequence[str] = (),
    ports: Sequence[int] = (),
) -> Object:
    """One rule of an AuthorizationPolicy from what may vary in the tour."""
    source: Object = {}
    if principals:
        source["principals"] = list(principals)
    if namespaces:
        source["namespaces"] = list(namespaces)
    if ip_blocks:
        source["ipBlocks"] = list(ip_blocks)
    made: Object = {}
    if source:
        made["from"] = [{"source": source}]
    if ports:
        made["to"] = [{"operation": {"ports": [str(port) for port in ports]}}]
    return made


def virtual_service(host: str, namespace_name: str, routes: list[Object]) -> Object:
    """Its `tcp` routes, as Istio writes them."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": _metadata(host, namespace_name),
        "spec": {"hosts": [host], "tcp": routes},
    }


def route(weights: dict[str, int], *, client_app: str = "") -> Object:
    """One route of a VirtualService: weights of destinations by host, for clients with the label `app`."""
    made: Object = {"route": [{"destination": {"host": host}, "weight": weight} for host, weight in weights.items()]}
    if client_app:
        made["match"] = [{"sourceLabels": {"app": client_app}}]
    return made


def destination_rule(host: str, namespace_name: str, policy: Object) -> Object:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": _metadata(host, namespace_name),
        "spec": {"host": host, "trafficPolicy": policy},
    }


def connection_limit(name: str, namespace_name: str, per_source: Object) -> Object:
    """For every workload of the namespace."""
    return {
        "apiVersion": "nodeagent/v1",
        "kind": "ConnectionLimit",
        "metadata": _metadata(name, namespace_name),
        "spec": {"perSource": per_source},
    }


def outbound(mode: str) -> Object:
    """MeshConfig's outboundTrafficPolicy."""
    return {"kind": "MeshConfig", "outboundTrafficPolicy": {"mode": mode}}


def peer_authentication(name: str, namespace_name: str, mode: str) -> Object:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": _metadata(name, namespace_name),
        "spec": {"mtls": {"mode": mode}},
    }


def text(objects: Iterable[Object]) -> str:
    return README + "---\n".join(yaml.safe_dump(item, sort_keys=False) for item in objects)


def write(path: Path, objects: Iterable[Object]) -> None:
    replace(path, text(objects))


def replace(path: Path, content: str) -> None:
    """In one step, so that the control plane never reads half a file."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(content, encoding="utf-8")
    aside.replace(path)
