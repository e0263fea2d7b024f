# SPDX-License-Identifier: Apache-2.0
"""Policies as values: their name on the wire, and their way to the worker."""

import msgspec
import pytest

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


def test_a_policy_is_named_by_namespace_and_name() -> None:
    assert Policy(name="p", namespace="shop", scope=PolicyScope.GLOBAL, action=Action.DENY).key == "shop/p"


@pytest.mark.parametrize("rules", [(), (Rule(),), (Rule((Clause(),)),), (Rule((Clause((Match(),)),)),)])
def test_the_empty_parts_stay_apart_on_their_way_to_the_worker(rules: tuple[Rule, ...]) -> None:
    """No rules, no clauses, no matches and no fields mean four different things."""
    policy = Policy(name="p", namespace="a", scope=PolicyScope.NAMESPACE, action=Action.ALLOW, rules=rules)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=Policy) == policy


def test_every_field_survives_its_way_to_the_worker() -> None:
    text = (StringMatch(MatchKind.PREFIX, "a"), StringMatch(MatchKind.PRESENCE))
    accounts = (ServiceAccountMatch("a", "b"),)
    blocks = (Cidr.parse("10.0.0.0/8"), Cidr.parse("::/0"))
    ports = (Port(80),)
    match = Match(
        namespaces=text,
        not_namespaces=text,
        principals=text,
        not_principals=text,
        service_accounts=accounts,
        not_service_accounts=accounts,
        source_ips=blocks,
        not_source_ips=blocks,
        destination_ips=blocks,
        not_destination_ips=blocks,
        destination_ports=ports,
        not_destination_ports=ports,
    )
    assert all(getattr(match, field) for field in match.__struct_fields__)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(match), type=Match) == match
