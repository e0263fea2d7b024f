# SPDX-License-Identifier: Apache-2.0
"""Whole responses: what a real istiod sent, compared with its own JSON; and what is refused by name."""

import base64
import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from nodeagent.model.address import Cidr, Port, parse_ip
from nodeagent.model.policy import (
    Action,
    Clause,
    Match,
    MatchKind,
    Policy,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
)
from nodeagent.model.workload import (
    BalancingMode,
    GatewayAddress,
    LoadBalancing,
    Scope,
    Service,
    ServicePort,
    TunnelProtocol,
    Vip,
    Workload,
)
from nodeagent.proto import authorization_pb2, workload_pb2, xds_pb2
from nodeagent.xds.bad_resource import BadResource
from nodeagent.xds.decode import decode_resource, read_response, write_request
from nodeagent.xds.delta import Acknowledge, Kind, Refuse, Rejected, Subscribe

Json = dict[str, Any]
Recorded = Callable[[str, str], list[Json]]

FILES = [
    (folder, kind)
    for folder in ("basic", "authz", "peerauth", "waypoint", "reconnect", "multinetwork")
    for kind in ("address", "authorization")
]


@pytest.mark.parametrize(("folder", "kind"), FILES)
def test_everything_istiod_sent_is_what_its_json_says(recording: Recorded, folder: str, kind: str) -> None:
    compared = 0
    for message in recording(folder, kind):
        if message["dir"] != "res":
            continue
        answer = read_response(xds_pb2.DeltaDiscoveryResponse.FromString(message["raw"]))
        assert answer is not None
        assert answer.rejected == ()
        assert list(answer.removed) == message.get("removed_resources", [])
        assert answer.nonce == message["nonce"]
        assert [(one.name, one.version, one.value) for one in answer.resources] == [
            (one["name"], one["version"], _from_json(answer.kind, one["json"])) for one in message.get("resources", [])
        ]
        compared += 1
    assert compared > 0


# ---- the slow, obvious twin of the decoders: protojson -> model ----------------------------------------------------


def _from_json(kind: Kind, value: Json) -> Workload | Service | Policy:
    if kind is Kind.AUTHORIZATION:
        return _policy(value)
    return _workload(value["workload"]) if "workload" in value else _service(value["service"])


def _ip(text: str) -> str:
    return parse_ip(str(ipaddress.ip_address(base64.b64decode(text))))


def _ports(ports: list[Json]) -> tuple[ServicePort, ...]:
    return tuple(ServicePort(Port(port["servicePort"]), port.get("targetPort", 0)) for port in ports)


def _gateway(value: Json | None) -> GatewayAddress | None:
    if value is None:
        return None
    if "hostname" in value:
        name = value["hostname"]
        return GatewayAddress(value["hboneMtlsPort"], service=f"{name['namespace']}/{name['hostname']}")
    address = value["address"]
    return GatewayAddress(
        value["hboneMtlsPort"], network=address.get("network", ""), ip=parse_ip(_ip(address["address"]))
    )


def _workload(value: Json) -> Workload:
    locality = value.get("locality", {})
    return Workload(
        uid=value["uid"],
        name=value["name"],
        namespace=value["namespace"],
        addresses=tuple(parse_ip(_ip(text)) for text in value.get("addresses", [])),
        hostname=value.get("hostname", ""),
        network=value.get("network", ""),
        protocol=TunnelProtocol(value.get("tunnelProtocol", "TCP")),
        trust_domain=value.get("trustDomain", "cluster.local"),
        service_account=value.get("serviceAccount", "default"),
        node=value.get("node", ""),
        cluster=value.get("clusterId", "Kubernetes"),
        canonical_name=value.get("canonicalName", ""),
        canonical_revision=value.get("canonicalRevision", ""),
        workload_type=value.get("workloadType", "DEPLOYMENT").lower(),
        workload_name=value.get("workloadName", ""),
        waypoint=_gateway(value.get("waypoint")),
        network_gateway=_gateway(value.get("networkGateway")),
        native_tunnel=value.get("nativeTunnel", False),
        services={key: _ports(ports.get("ports", [])) for key, ports in value.get("services", {}).items()},
        policies=tuple(value.get("authorizationPolicies", [])),
        is_healthy=value.get("status", "HEALTHY") == "HEALTHY",
        is_host_network=value.get("networkMode") == "HOST_NETWORK",
        region=locality.get("region", ""),
        zone=locality.get("zone", ""),
        subzone=locality.get("subzone", ""),
        capacity=value.get("capacity", 1),
    )


def _service(value: Json) -> Service:
    balancing = value.get("loadBalancing", {})
    return Service(
        name=value["name"],
        namespace=value["namespace"],
        hostname=value["hostname"],
        vips=tuple(
            Vip(one.get("network", ""), parse_ip(_ip(one["address"])))
            if "length" not in one
            else Vip(one.get("network", ""), block=Cidr.parse(f"{_ip(one['address'])}/{one['length']}"))
            for one in value.get("addresses", [])
        ),
        ports=_ports(value.get("ports", [])),
        subject_alt_names=tuple(value.get("subjectAltNames", [])),
        waypoint=_gateway(value.get("waypoint")),
        balancing=LoadBalancing(
            BalancingMode[balancing.get("mode", "STANDARD")],
            tuple(Scope[scope] for scope in balancing.get("routingPreference", [])),
            balancing.get("healthPolicy") == "ALLOW_ALL",
        ),
        prefers_ipv6={"IPV4_ONLY": False, "IPV6_ONLY": True}.get(value.get("ipFamilies", "")),
        is_canonical=value.get("canonical", False),
        is_namespace_private=value.get("visibility") == "NAMESPACE",
    )


def _policy(value: Json) -> Policy:
    return Policy(
        name=value["name"],
        namespace=value["namespace"],
        scope=PolicyScope(value.get("scope", "GLOBAL")),
        action=Action(value.get("action", "ALLOW")),
        rules=tuple(
            Rule(
                tuple(
                    Clause(tuple(_match(match) for match in clause.get("matches", [])))
                    for clause in group.get("rules", [])
                )
            )
            for group in value.get("groups", [])
        ),
        is_dry_run=value.get("dryRun", False),
    )


def _match(value: Json) -> Match:
    fields: dict[str, tuple[object, ...]] = {}
    for name, values in value.items():
        key = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        if key.endswith("_ips"):
            fields[key] = tuple(Cidr.parse(f"{_ip(one['address'])}/{one.get('length', 0)}") for one in values)
        elif key.endswith("_ports"):
            fields[key] = tuple(values)
        elif key.endswith("_accounts"):
            fields[key] = tuple(ServiceAccountMatch(one["namespace"], one["serviceAccount"]) for one in values)
        else:
            fields[key] = tuple(_text(one) for one in values)
    return Match(**fields)  # type: ignore[arg-type]  # one line that gives every field its own type


def _text(value: Json) -> StringMatch:
    ((kind, text),) = value.items()
    return StringMatch(MatchKind(kind), text if kind != "presence" else "")


# ---- responses and names ------------------------------------------------------------------------------------------


def _resource(kind: Kind, name: str, value: bytes) -> xds_pb2.Resource:
    return xds_pb2.Resource(name=name, version="1", resource=AnyMessage(type_url=kind.value, value=value))


def _workload_bytes(uid: str, **fields: Any) -> bytes:
    return workload_pb2.Address(workload=workload_pb2.Workload(uid=uid, namespace="shop", **fields)).SerializeToString()


def test_a_bad_resource_is_rejected_by_name_and_the_others_are_kept() -> None:
    response = xds_pb2.DeltaDiscoveryResponse(
        type_url=Kind.ADDRESS.value,
        nonce="n",
        resources=[
            _resource(Kind.ADDRESS, "good", _workload_bytes("good")),
            _resource(Kind.ADDRESS, "legacy", _workload_bytes("legacy", tunnel_protocol=2)),
            _resource(Kind.ADDRESS, "torn", b"\x0a\xff"),
            _resource(Kind.ADDRESS, "other", _workload_bytes("another")),
            _resource(Kind.AUTHORIZATION, "stray", b""),
        ],
        removed_resources=["gone"],
    )

    answer = read_response(response)

    assert answer is not None
    assert [one.name for one in answer.resources] == ["good"]
    assert answer.rejected == (
        Rejected("legacy", "unsupported tunnel protocol LEGACY_ISTIO_MTLS"),
        Rejected("torn", "cannot be parsed"),
        Rejected("other", "describes 'another'"),
        Rejected("stray", f"is of type '{Kind.AUTHORIZATION.value}'"),
    )
    assert answer.removed == ("gone",)


def test_a_type_nobody_asked_for_is_no_answer() -> None:
    assert read_response(xds_pb2.DeltaDiscoveryResponse(type_url="type.googleapis.com/some.Thing")) is None


def test_a_policy_must_have_the_name_it_is_sent_under() -> None:
    value = authorization_pb2.Authorization(name="a", namespace="shop").SerializeToString()

    assert decode_resource(Kind.AUTHORIZATION, "shop/a", value) == Policy(
        name="a", namespace="shop", scope=PolicyScope.GLOBAL, action=Action.ALLOW
    )
    with pytest.raises(BadResource, match=r"^shop/b: describes 'shop/a'$"):
        decode_resource(Kind.AUTHORIZATION, "shop/b", value)


NODE = xds_pb2.Node(id="ztunnel~1.1.1.1~a.b~b.svc.cluster.local")


@pytest.mark.parametrize(
    ("command", "request_"),
    [
        pytest.param(
            Subscribe(Kind.ADDRESS, {"a": "1"}),
            xds_pb2.DeltaDiscoveryRequest(node=NODE, type_url=Kind.ADDRESS.value, initial_resource_versions={"a": "1"}),
            id="the first request carries the node and what is held",
        ),
        pytest.param(
            Acknowledge(Kind.ADDRESS, "7"),
            xds_pb2.DeltaDiscoveryRequest(type_url=Kind.ADDRESS.value, response_nonce="7"),
            id="an ACK is a nonce",
        ),
        pytest.param(
            Refuse(Kind.AUTHORIZATION, "8", "x: bad"),
            xds_pb2.DeltaDiscoveryRequest(
                type_url=Kind.AUTHORIZATION.value, response_nonce="8", error_detail=xds_pb2.Status(message="x: bad")
            ),
            id="a NACK is a nonce and a reason, without a code, as ztunnel's",
        ),
    ],
)
def test_requests(command: Subscribe | Acknowledge | Refuse, request_: xds_pb2.DeltaDiscoveryRequest) -> None:
    assert write_request(command, NODE) == request_


def test_our_requests_are_those_of_the_recorded_client(recording: Recorded) -> None:
    """The first request of a stream, and a resumed one, up to the node's own names."""
    for message in recording("reconnect", "address"):
        if message["dir"] == "res":
            continue
        recorded = xds_pb2.DeltaDiscoveryRequest.FromString(message["raw"])
        if recorded.HasField("node"):
            ours = write_request(Subscribe(Kind.ADDRESS, message.get("initial_resource_versions", {})), recorded.node)
            assert ours == recorded
