# SPDX-License-Identifier: Apache-2.0
"""Extensions from the wire: what the control plane encodes is what is decoded, and one bad value refuses the whole."""

import contextlib
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.controlplane.encode_extension import encode_extension
from nodeagent.model.address import Cidr
from nodeagent.model.policy import Action, Clause, Match, Policy, PolicyScope, Rule
from nodeagent.model.security import DryRun, PolicyOrigin, Revocations, TrustDomains
from nodeagent.model.traffic import (
    Algorithm,
    ClientScope,
    ClientScopes,
    Destination,
    Distribution,
    EgressHosts,
    Extension,
    Keepalive,
    LocalityBalancing,
    MeshTraffic,
    OutlierDetection,
    PortPolicy,
    ServiceTraffic,
    Subset,
    TcpMatch,
    TcpRoute,
    TrafficPolicy,
    WorkloadLabels,
    WorkloadLimits,
)
from nodeagent.proto import authorization_pb2
from nodeagent.proto import extension_pb2 as pb
from nodeagent.tls.certificate_name import MOST_REVOKED, NAME_BYTES
from nodeagent.xds.bad_resource import BadResource
from nodeagent.xds.decode import decode_resource
from nodeagent.xds.decode_extension import decode_extension
from nodeagent.xds.delta import Kind

TEXTS = st.text("abc./-", min_size=1, max_size=6)
LABELS = st.dictionaries(TEXTS, st.text("abc", max_size=3), max_size=2)
PORTS = st.integers(0, 65535)
BLOCKS = st.sampled_from([Cidr.parse(text) for text in ("10.0.0.0/8", "10.1.2.3", "fd00::/8", "::/0", "0.0.0.0/0")])
MATCHES = st.builds(
    TcpMatch,
    destination_blocks=st.lists(BLOCKS, max_size=2).map(tuple),
    port=PORTS,
    source_namespace=st.text("abc", max_size=3),
    source_labels=LABELS,
)
DESTINATIONS = st.builds(
    Destination, service=TEXTS, weight=st.integers(1, 2**32 - 1), port=PORTS, subset=st.text("abc", max_size=3)
)
ROUTES = st.builds(
    TcpRoute,
    destinations=st.lists(DESTINATIONS, min_size=1, max_size=3).map(tuple),
    matches=st.lists(MATCHES, max_size=2).map(tuple),
)
NAMED = st.builds(
    TcpMatch, port=PORTS, source_labels=LABELS, server_names=st.lists(TEXTS, min_size=1, max_size=2).map(tuple)
)
TLS_ROUTES = st.builds(
    TcpRoute,
    destinations=st.lists(DESTINATIONS, min_size=1, max_size=3).map(tuple),
    matches=st.lists(NAMED, min_size=1, max_size=2).map(tuple),
)
SECONDS = st.integers(0, 2**31).map(lambda milliseconds: milliseconds / 1000)
LOCALITIES = st.builds(
    LocalityBalancing,
    distributions=st.lists(
        st.builds(
            Distribution,
            source=TEXTS,
            shares=st.lists(st.tuples(TEXTS, st.integers(1, 100)), min_size=1, max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    failover=st.lists(st.tuples(TEXTS, TEXTS), max_size=2).map(tuple),
    priority_labels=st.lists(TEXTS, max_size=2).map(tuple),
)
POLICIES = st.builds(
    TrafficPolicy,
    locality=st.none() | LOCALITIES,
    algorithm=st.sampled_from([None, *Algorithm]),
    max_connections=st.integers(0, 2**32 - 1),
    connect_seconds=SECONDS,
    idle_seconds=SECONDS,
    keepalive=st.none()
    | st.builds(
        Keepalive, probes=st.integers(0, 127), idle_seconds=st.integers(0, 9999), interval_seconds=st.integers(0, 9999)
    ),
    outlier=st.none()
    | st.builds(
        OutlierDetection,
        failures=st.integers(1, 99),
        base_ejection_seconds=SECONDS,
        max_ejection_percent=st.integers(0, 100),
        interval_seconds=SECONDS,
    ),
)
BY_PORT = st.lists(st.builds(PortPolicy, port=PORTS, policy=POLICIES), max_size=2, unique_by=lambda one: one.port).map(
    tuple
)
SUBSETS = st.lists(
    st.builds(Subset, name=TEXTS, labels=LABELS, policies=BY_PORT), max_size=3, unique_by=lambda one: one.name
).map(tuple)
DRY_POLICIES = st.builds(
    Policy,
    name=st.text("abc", min_size=1, max_size=3),
    namespace=st.text("abc", min_size=1, max_size=3),
    scope=st.sampled_from(PolicyScope),
    action=st.sampled_from(Action),
    rules=st.lists(
        st.builds(Match, source_ips=st.lists(BLOCKS, max_size=2).map(tuple)).map(
            lambda match: Rule((Clause((match,)),))
        ),
        max_size=2,
    ).map(tuple),
    is_dry_run=st.just(True),  # noqa: FBT003 - a value
)
SCOPES = st.builds(
    ClientScope,
    name=TEXTS,
    labels=LABELS,
    egress=st.none()
    | st.lists(
        st.builds(EgressHosts, hosts=st.lists(TEXTS, max_size=2).map(tuple), port=PORTS),
        max_size=2,
        unique_by=lambda one: one.port,
    ).map(tuple),
    is_registry_only=st.booleans(),
)
EXTENSIONS: st.SearchStrategy[Extension] = st.one_of(
    st.builds(
        ServiceTraffic,
        service=TEXTS,
        routes=st.lists(ROUTES, max_size=2).map(tuple),
        tls_routes=st.lists(TLS_ROUTES, max_size=2).map(tuple),
        subsets=SUBSETS,
        policies=BY_PORT,
    ),
    st.builds(WorkloadLabels, uid=TEXTS, labels=LABELS),
    st.builds(
        WorkloadLimits,
        uid=TEXTS,
        per_second=st.integers(0, 10**9).map(lambda number: number / 1000),
        burst=st.integers(1, 9999),
        concurrent=st.integers(0, 9999),
    ),
    st.builds(MeshTraffic, is_registry_only=st.booleans()),
    st.builds(DryRun, policy=DRY_POLICIES, namespace=st.text("abc", max_size=3), selector=LABELS),
    st.builds(TrustDomains, domains=st.frozensets(TEXTS, max_size=3)),
    st.builds(
        Revocations,
        source=TEXTS,
        certificates=st.frozensets(st.binary(min_size=NAME_BYTES, max_size=NAME_BYTES), max_size=3),
    ),
    st.builds(PolicyOrigin, policy=TEXTS, file=TEXTS, line=st.integers(0, 9999)),
    st.builds(ClientScopes, namespace=st.text("abc", max_size=3), scopes=st.lists(SCOPES, max_size=2).map(tuple)),
)


@given(EXTENSIONS)
def test_what_is_encoded_is_decoded(extension: Extension) -> None:
    resource = encode_extension(extension)
    assert resource.name == extension.name
    assert decode_resource(Kind.EXTENSION, resource.name, resource.value) == extension


def traffic(**fields: Any) -> pb.Extension:
    return pb.Extension(service=pb.ServiceTraffic(**{"service": "shop/db", **fields}))


def shared(shares: list[pb.Share]) -> pb.Extension:
    locality = pb.LocalityBalancing(distributions=[pb.Distribution(source="*", shares=shares)])
    return traffic(policies=[pb.PortPolicy(policy=pb.TrafficPolicy(locality=locality))])


TO = pb.Destination(service="shop/db", weight=1)


def routed(match: pb.TcpMatch | None = None, **destination: Any) -> pb.Extension:
    to = pb.Destination(**{"service": "shop/db", "weight": 1, **destination})
    return traffic(tcp_routes=[pb.TcpRoute(destinations=[to], matches=[match] if match else [])])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (pb.Extension(), "neither about a service, a workload nor the mesh"),
        (traffic(service=""), "routes of a service without name"),
        (pb.Extension(workload=pb.WorkloadLabels(labels={"a": "b"})), "without uid"),
        (traffic(subsets=[pb.Subset(name="a"), pb.Subset(name="a")]), "without a name of their own"),
        (traffic(subsets=[pb.Subset()]), "without a name of their own"),
        (traffic(tcp_routes=[pb.TcpRoute()]), "without a destination"),
        (routed(pb.TcpMatch(server_names=["a"])), "without server names, or another one with them"),
        (traffic(tls_routes=[pb.TcpRoute(destinations=[TO])]), "a TLS route without a match"),
        (
            traffic(tls_routes=[pb.TcpRoute(destinations=[TO], matches=[pb.TcpMatch(port=1)])]),
            "without server names, or another one with them",
        ),
        (traffic(policies=[pb.PortPolicy(), pb.PortPolicy()]), "two policies for one port"),
        (traffic(policies=[pb.PortPolicy(port=65536)]), "port 65536"),
        (traffic(policies=[pb.PortPolicy(policy=pb.TrafficPolicy(algorithm=9))]), "unknown algorithm 9"),  # type: ignore[arg-type]
        (
            traffic(policies=[pb.PortPolicy(policy=pb.TrafficPolicy(outlier_detection=pb.OutlierDetection()))]),
            "without a number of failures",
        ),
        (shared([]), "a distribution without shares, or with one of 0"),
        (shared([pb.Share(locality="a")]), "a distribution without shares, or with one of 0"),
        (
            pb.Extension(
                clients=pb.ClientScopes(
                    scopes=[pb.ClientScope(egress=pb.Egress(listeners=[pb.EgressHosts(), pb.EgressHosts()]))]
                )
            ),
            "two listeners for one port",
        ),
        (pb.Extension(limits=pb.WorkloadLimits(concurrent=1)), "limits of a workload without uid"),
        (pb.Extension(limits=pb.WorkloadLimits(uid="a", per_thousand_seconds=1)), "a burst of 0 lets nobody in"),
        (pb.Extension(dry_run=pb.DryRun()), "policy without a name"),
        (
            pb.Extension(dry_run=pb.DryRun(policy=authorization_pb2.Authorization(name="a", namespace="b"))),
            "a policy that is to be enforced",
        ),
        (pb.Extension(trust_domains=pb.TrustDomains(domains=["a", ""])), "a trust domain without a name"),
        (pb.Extension(revocations=pb.Revocations()), "revocations of nobody"),
        (pb.Extension(policy_origin=pb.PolicyOrigin(file="a")), "an origin without policy or file"),
        (pb.Extension(policy_origin=pb.PolicyOrigin(policy="a/b")), "an origin without policy or file"),
        (pb.Extension(), "neither about a service"),
        (pb.Extension(revocations=pb.Revocations(source="a", certificates=[b"short"])), "name is not of 32 bytes"),
        (routed(weight=0), "without service or weight"),
        (routed(service=""), "without service or weight"),
        (routed(port=65536), "port 65536"),
        (routed(pb.TcpMatch(port=70000)), "port 70000"),
        (routed(pb.TcpMatch(destination_blocks=[pb.Block(address=b"123", length=8)])), "b.123."),
        (routed(pb.TcpMatch(destination_blocks=[pb.Block(address=b"1234", length=33)])), "33"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused(message: pb.Extension, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_extension(message.SerializeToString())


def test_a_list_without_bounds_is_refused() -> None:
    listed = [number.to_bytes(NAME_BYTES, "big") for number in range(MOST_REVOKED + 1)]
    message = pb.Extension(revocations=pb.Revocations(source="a", certificates=listed))
    with pytest.raises(ValueError, match="more than 100000"):
        decode_extension(message.SerializeToString())


@pytest.mark.parametrize("depth", range(4))
def test_a_field_of_a_newer_control_plane_refuses_the_resource_wherever_it_stands(depth: int) -> None:
    """It may narrow a match: to pass over it would widen the route."""
    unknown = b"\xfa\x3e\x01x"  # field 1007, one byte
    parts = [b"", b"\x0a", b"\x12", b"\x0a"][: depth + 1]  # Extension.service.tcp_routes[0].matches[0]
    value = unknown
    for tag in reversed(parts[1:]):
        value = tag + bytes([len(value)]) + value
    with pytest.raises(ValueError, match="that this agent does not know"):
        decode_extension(value)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_a_reason(value: bytes) -> None:
    with contextlib.suppress(DecodeError, ValueError):
        decode_extension(value)


def test_the_name_is_that_of_the_content() -> None:
    with pytest.raises(BadResource, match=r"describes 'service/shop/db'"):
        decode_resource(Kind.EXTENSION, "service/shop/web", traffic().SerializeToString())
