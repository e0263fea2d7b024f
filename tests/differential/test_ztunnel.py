# SPDX-License-Identifier: Apache-2.0
"""Policies match what a real ztunnel says that they match; recorded in tests/data/ztunnel."""

import base64
import json
from pathlib import Path

from nodeagent.model.address import parse_ip
from nodeagent.model.identity import Identity
from nodeagent.model.policy import Policy
from nodeagent.policy.evaluate import ConnectionFacts, policy_matches
from nodeagent.proto import authorization_pb2
from nodeagent.xds.decode import decode_resource
from nodeagent.xds.delta import Kind

RECORDED = Path(__file__).parents[1] / "data" / "ztunnel" / "matches.json"


def decoded(value: bytes) -> Policy:
    message = authorization_pb2.Authorization.FromString(value)
    policy = decode_resource(Kind.AUTHORIZATION, f"{message.namespace}/{message.name}", value)
    assert isinstance(policy, Policy)
    return policy


def test_a_policy_matches_the_connections_that_it_matches_at_a_ztunnel() -> None:
    recorded = json.loads(RECORDED.read_text())
    connections = [
        ConnectionFacts(Identity.parse(identity) if identity else None, parse_ip(source), parse_ip(destination), port)
        for identity, source, destination, port in recorded["connections"]
    ]
    for encoded, expected in recorded["policies"].items():
        policy = decoded(base64.b64decode(encoded))
        answers = "".join(str(int(policy_matches(policy, facts))) for facts in connections)
        assert answers == expected, policy
