# SPDX-License-Identifier: Apache-2.0
"""Policies from the wire: what is empty stays apart from what is missing, and one bad value refuses the whole."""

from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Cidr, Port
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
from nodeagent.proto import authorization_pb2 as pb
from nodeagent.proto import workload_pb2
from nodeagent.xds.decode_policy import decode_policy


def policy(**fields: Any) -> Policy:
    message = pb.Authorization(**{"name": "a", "namespace": "shop", **fields})
    return decode_policy(message.SerializeToString())


def match(**fields: Any) -> Match:
    decoded = policy(rules=[pb.Rule(clauses=[pb.Clause(matches=[pb.Match(**fields)])])])
    return decoded.rules[0].clauses[0].matches[0]


def test_zero_values() -> None:
    assert policy() == Policy(name="a", namespace="shop", scope=PolicyScope.GLOBAL, action=Action.ALLOW)


def test_scope_action_and_dry_run() -> None:
    decoded = policy(scope=pb.WORKLOAD_SELECTOR, action=pb.DENY, dry_run=True)

    assert (decoded.scope, decoded.action, decoded.is_dry_run) == (PolicyScope.WORKLOAD_SELECTOR, Action.DENY, True)


def test_empty_rules_clauses_and_matches_are_kept_apart() -> None:
    decoded = policy(rules=[pb.Rule(), pb.Rule(clauses=[pb.Clause(), pb.Clause(matches=[pb.Match()])])])

    assert decoded.rules == (Rule(), Rule((Clause(), Clause((Match(),)))))


@pytest.mark.parametrize("negation", ["", "not_"])
@pytest.mark.parametrize(
    ("name", "wire", "value"),
    [
        ("namespaces", [pb.StringMatch(exact="x")], (StringMatch(MatchKind.EXACT, "x"),)),
        ("namespaces", [pb.StringMatch(exact="")], (StringMatch(MatchKind.EXACT, ""),)),
        ("principals", [pb.StringMatch(prefix="x")], (StringMatch(MatchKind.PREFIX, "x"),)),
        (
            "principals",
            [pb.StringMatch(suffix="x"), pb.StringMatch(presence=Empty())],
            (StringMatch(MatchKind.SUFFIX, "x"), StringMatch(MatchKind.PRESENCE)),
        ),
        ("source_ips", [pb.Address(address=b"\x0a\x14\1\5", length=16)], (Cidr.parse("10.20.0.0/16"),)),
        ("destination_ips", [pb.Address(address=b"\x20\1" + b"\0" * 14, length=32)], (Cidr.parse("2001::/32"),)),
        ("source_ips", [pb.Address(address=b"\0\0\0\0")], (Cidr.parse("0.0.0.0/0"),)),
        ("destination_ports", [0, 80, 65535], (Port(0), Port(80), Port(65535))),
        (
            "service_accounts",
            [pb.ServiceAccountMatch(namespace="n", serviceAccount="s")],
            (ServiceAccountMatch("n", "s"),),
        ),
    ],
)
def test_fields_of_a_match(name: str, wire: object, value: object, negation: str) -> None:
    assert match(**{negation + name: wire}) == Match(**{negation + name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"principals": [pb.StringMatch()]}, "without a type", id="string match without a type"),
        pytest.param({"not_namespaces": [pb.StringMatch()]}, "without a type", id="negative one"),
        pytest.param({"source_ips": [pb.Address(address=b"\1\2\3")]}, "3", id="address of 3 bytes"),
        pytest.param({"source_ips": [pb.Address(length=8)]}, "IP|octets|IPv4", id="no address"),
        pytest.param({"not_source_ips": [pb.Address(address=b"\1\2\3\4", length=33)]}, "33", id="prefix too long"),
        pytest.param({"destination_ports": [80, 65536]}, "65536", id="port too large"),
        pytest.param(
            {"extensions": [workload_pb2.Extension(name="geo")]}, "unknown condition 'geo'", id="unknown condition"
        ),
    ],
)
def test_one_bad_value_rejects_the_whole_policy(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        match(**fields)


@pytest.mark.parametrize("fields", [{"name": ""}, {"namespace": ""}, {"name": "a\nb"}, {"scope": 9}, {"action": 9}])
def test_a_policy_that_cannot_be_used(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"name|Scope|Action"):
        policy(**fields)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_policy_or_a_refusal(data: bytes) -> None:
    try:
        decoded = decode_policy(data)
    except (ValueError, DecodeError):
        return
    assert isinstance(decoded, Policy)
