# SPDX-License-Identifier: Apache-2.0
"""For each condition that may fail a sentence that would make it hold."""

from typing import Any

import pytest

from nodeagent.admin.remedy import to_allow
from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.identity import Identity
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
from nodeagent.policy.evaluate import ConnectionFacts
from nodeagent.policy.judge import judge

_FACTS = ConnectionFacts(Identity("td", "shop", "web"), Ip("10.0.0.1"), Ip("10.0.0.2"), 80)
_NOBODY = ConnectionFacts(None, Ip("10.0.0.1"), Ip("10.0.0.2"), 80)


def _policy(action: Action, *rules: Rule) -> Policy:
    return Policy(name="rules", namespace="shop", scope=PolicyScope.NAMESPACE, action=action, rules=rules)


def _rule(**match: Any) -> Rule:
    return Rule((Clause((Match(**match),)),))


def _is(text: str) -> tuple[StringMatch, ...]:
    return (StringMatch(MatchKind.EXACT, text),)


_ANY = (StringMatch(MatchKind.PRESENCE),)
_PLACE = "rule 1 of shop/rules"


@pytest.mark.parametrize(
    ("match", "facts", "sentence"),
    [
        ({"principals": _is("td/ns/a/sa/b")}, _FACTS, f'add "td/ns/shop/sa/web" to principals in {_PLACE}'),
        (
            {"not_principals": _is("td/ns/shop/sa/web")},
            _FACTS,
            f'take "td/ns/shop/sa/web" out of notPrincipals in {_PLACE}',
        ),
        ({"namespaces": _is("a")}, _FACTS, f'add "shop" to namespaces in {_PLACE}'),
        (
            {"service_accounts": (ServiceAccountMatch("a", "b"),)},
            _FACTS,
            f'add "shop/web" to serviceAccounts in {_PLACE}',
        ),
        ({"source_ips": (Cidr.parse("10.1.0.0/16"),)}, _FACTS, f'add "10.0.0.1" to ipBlocks in {_PLACE}'),
        ({"not_source_ips": (Cidr.parse("10.0.0.0/16"),)}, _FACTS, f'take "10.0.0.1" out of notIpBlocks in {_PLACE}'),
        ({"destination_ips": (Cidr.parse("10.1.0.0/16"),)}, _FACTS, f'add "10.0.0.2" to destination.ip in {_PLACE}'),
        ({"destination_ports": (Port(81),)}, _FACTS, f'add "80" to ports in {_PLACE}'),
        ({"not_destination_ports": (Port(80),)}, _FACTS, f'take "80" out of notPorts in {_PLACE}'),
        (
            {"principals": _ANY},
            _NOBODY,
            f"{_PLACE} asks for an identity, and the client has none: connect from a pod that is in the mesh",
        ),
        (
            {"not_namespaces": _is("")},
            _NOBODY,
            f"{_PLACE} excludes clients without identity: connect from a pod that is in the mesh",
        ),
        ({}, _FACTS, f"{_PLACE} has a condition that cannot hold here (it belongs to layer 7)"),
    ],
)
def test_the_nearest_miss(match: dict[str, Any], facts: ConnectionFacts, sentence: str) -> None:
    assert to_allow(judge([_policy(Action.ALLOW, _rule(**match))], [], facts)) == (sentence,)


def test_every_failing_field_is_a_change() -> None:
    rule = _rule(namespaces=_is("a"), destination_ports=(Port(81),))
    assert len(to_allow(judge([_policy(Action.ALLOW, rule)], [], _FACTS))) == 2


@pytest.mark.parametrize(
    ("rules", "facts", "sentence"),
    [
        ((_rule(namespaces=_is("shop")),), _FACTS, "shop/rules denies it: except this connection from rule 1"),
        (
            (_rule(namespaces=_is("shop")), _rule(namespaces=_is("a")), _rule(principals=_ANY)),
            _FACTS,
            "shop/rules denies it: except this connection from rules 1, 3",
        ),
        (
            (_rule(not_principals=_ANY),),
            _NOBODY,
            "shop/rules denies clients without identity: connect from a pod that is in the mesh",
        ),
    ],
)
def test_an_explicit_denial(rules: tuple[Rule, ...], facts: ConnectionFacts, sentence: str) -> None:
    assert to_allow(judge([_policy(Action.DENY, *rules)], [], facts)) == (sentence,)


def test_allow_nothing_has_no_rule_to_change() -> None:
    (sentence,) = to_allow(judge([_policy(Action.ALLOW)], [], _FACTS))
    assert sentence == "no ALLOW policy has a rule that could match: add one to shop/rules"


def test_what_is_allowed_needs_nothing() -> None:
    assert to_allow(judge([], [], _FACTS)) == ()


def test_what_has_not_come_is_awaited() -> None:
    (sentence,) = to_allow(judge([], ["shop/late"], _FACTS))
    assert "the control plane has to send shop/late" in sentence
