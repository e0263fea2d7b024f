# SPDX-License-Identifier: Apache-2.0
"""Address blocks: told as they are written, meant as they are read."""

import ipaddress

import pytest

from nodeagent.controlplane.blocks import parse_written_block, written_interface
from nodeagent.controlplane.encode import encode_policy
from nodeagent.model.address import Cidr
from nodeagent.model.policy import Action, Clause, Match, Policy, PolicyScope, Rule
from nodeagent.xds.decode import decode_resource
from nodeagent.xds.delta import Kind


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("10.1.2.3/16", "10.1.2.3/16"),
        ("10.1.0.0/16", "10.1.0.0/16"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("FD00::1/64", "fd00::1/64"),
        ("::ffff:10.1.2.3", "::ffff:10.1.2.3/128"),
        ("::ffff:10.1.2.3/112", "::ffff:10.1.2.3/112"),
    ],
)
def test_a_block_is_told_as_it_is_written(text: str, told: str) -> None:
    assert written_interface(parse_written_block(text)) == ipaddress.ip_interface(told)


def test_of_one_block_each_writing_is_told_and_an_agent_reads_the_block() -> None:
    texts = ("10.1.2.3/16", "10.1.0.0/16", "10.1.9.9/16", "::ffff:10.1.2.3/112")
    match = Match(source_ips=tuple(parse_written_block(text) for text in texts))
    policy = Policy(
        name="p", namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.DENY, rules=(Rule((Clause((match,)),)),)
    )
    decoded = decode_resource(Kind.AUTHORIZATION, policy.key, encode_policy(policy).value)
    assert isinstance(decoded, Policy)
    assert decoded.rules[0].clauses[0].matches[0].source_ips == (Cidr.parse("10.1.0.0/16"),) * len(texts)


def test_what_is_no_block_is_refused() -> None:
    with pytest.raises(ValueError, match="not an address or CIDR block"):
        parse_written_block("10.0.0.0/255.0.0.0")
