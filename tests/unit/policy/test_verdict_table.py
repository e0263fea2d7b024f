# SPDX-License-Identifier: Apache-2.0
"""The table says of every pair and port what evaluate() says, or nothing; and it never asks more than it must."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodeagent.model.address import Ip, is_ipv6
from nodeagent.model.identity import Identity
from nodeagent.model.policy import Policy
from nodeagent.policy import verdict_table as module
from nodeagent.policy.evaluate import Allow, ConnectionFacts, evaluate
from nodeagent.policy.verdict_table import OTHER_PORTS, Member, VerdictRow, verdict_table

Plain = dict[str, Any]
ToPolicy = Callable[[Plain], Policy]
WEB, DB = Identity("cluster.local", "shop", "web"), Identity("cluster.local", "shop", "db")


def _allowed(rows: list[VerdictRow], source: int, destination: int, port: int) -> bool:
    """As the kernel reads it: the port's own row, else the one for all others."""
    table = {(row.destination, row.port): 0 if row.is_pending else row.sources for row in rows}
    bits = table.get((destination, port), table.get((destination, OTHER_PORTS), 0))
    return bool(bits >> source & 1)


def _verdicts(source: Member, destination: Member, port: int) -> Iterator[bool]:
    for ip in source.addresses:
        for to in destination.addresses:
            if is_ipv6(ip) is is_ipv6(to):
                facts = ConnectionFacts(source.identity, ip, to, port)
                yield isinstance(evaluate(destination.policies, destination.missing, facts), Allow)


def _allow(*, principals: tuple[str, ...] = (), **fields: object) -> Plain:
    match = {**({"principals": list(principals)} if principals else {}), **fields}
    return {"action": "ALLOW", "rules": [[[match]]]}


def _member(number: int, identity: Identity, *policies: Policy, missing: tuple[str, ...] = ()) -> Member:
    return Member(number, identity, (Ip(f"10.0.0.{number}"), Ip(f"fd00::{number}")), policies, missing)


def test_without_policies_everyone_may() -> None:
    members = [_member(0, WEB), _member(5, DB)]
    assert verdict_table(members) == [VerdictRow(0, OTHER_PORTS, 0b100001), VerdictRow(5, OTHER_PORTS, 0b100001)]


def test_ports_have_rows_of_their_own_before_the_others(to_policy: ToPolicy) -> None:
    policy = to_policy(_allow(principals=("cluster.local/ns/shop/sa/web",), destination_ports=[5432, 80]))
    assert verdict_table([_member(0, WEB), _member(1, DB, policy)]) == [
        VerdictRow(0, OTHER_PORTS, 0b11),
        VerdictRow(1, 80, 0b01),
        VerdictRow(1, 5432, 0b01),
        VerdictRow(1, OTHER_PORTS, 0),
    ]


def test_a_port_that_is_named_in_vain_still_leaves_one_for_all_others(to_policy: ToPolicy) -> None:
    policy = to_policy(_allow(not_destination_ports=[1]))
    assert verdict_table([_member(0, WEB, policy)]) == [VerdictRow(0, 1, 0), VerdictRow(0, OTHER_PORTS, 1)]


def test_closed_ports_are_nobodys() -> None:
    rows = verdict_table([_member(0, WEB)], closed_ports={15008})
    assert rows == [VerdictRow(0, 15008, 0), VerdictRow(0, OTHER_PORTS, 1)]


def test_a_destination_that_denies_all_has_no_row(to_policy: ToPolicy) -> None:
    nobody = to_policy({"action": "ALLOW", "rules": []})
    assert verdict_table([_member(1, DB, nobody)]) == []


def test_while_a_policy_is_on_its_way_a_row_holds_whom_no_policy_denies(to_policy: ToPolicy) -> None:
    """As the proxy has it for its open connections."""
    no_db = to_policy({"action": "DENY", "rules": [[[{"principals": ["cluster.local/ns/shop/sa/db"]}]]]})
    nobody = to_policy({"action": "ALLOW", "rules": []})
    members = [_member(0, WEB, no_db, nobody, missing=("shop/late",)), _member(1, DB)]
    assert verdict_table(members)[0] == VerdictRow(0, OTHER_PORTS, 0b01, is_pending=True)


def test_who_is_reached_another_way_is_a_source_only() -> None:
    members = [_member(0, WEB)._replace(is_destination=False), _member(1, DB)]
    assert verdict_table(members) == [VerdictRow(1, OTHER_PORTS, 0b11)]


def test_a_pod_whose_addresses_are_judged_differently_is_the_proxys_to_answer(to_policy: ToPolicy) -> None:
    by_address = to_policy(_allow(source_ips=["10.0.0.0/8"]))
    assert verdict_table([_member(0, WEB), _member(1, DB, by_address)]) == [VerdictRow(0, OTHER_PORTS, 0b11)]
    both = to_policy(_allow(source_ips=["10.0.0.0/8", "fd00::0/128"]))
    assert verdict_table([_member(0, WEB), _member(1, DB, both)])[-1] == VerdictRow(1, OTHER_PORTS, 0b01)


def test_pods_that_never_meet_have_no_verdict(to_policy: ToPolicy) -> None:
    by_address = to_policy(_allow(source_ips=["0.0.0.0/0", "::/0"]))
    ipv4 = Member(0, WEB, (Ip("10.0.0.1"),), ())
    ipv6 = Member(1, DB, (Ip("fd00::1"),), (by_address,))
    assert verdict_table([ipv4, ipv6])[-1] == VerdictRow(1, OTHER_PORTS, 0b10), "only itself"


@pytest.mark.parametrize("seed", range(60))
def test_it_says_what_the_evaluator_says(
    seed: int, make_case: Callable[[random.Random], tuple[list[Plain], list[str], Plain]], to_policy: ToPolicy
) -> None:
    rng = random.Random(seed)
    members = []
    for number in range(8):
        plain, missing, _ = make_case(rng)
        identity = Identity(
            rng.choice(["cluster.local", "td1"]), rng.choice(["shop", "ops", "a"]), rng.choice(["web", "db"])
        )
        addresses = rng.choice([("10.0.0.1", "fd00::1"), ("10.0.1.7",), ("fd00:1::2",), ("9.9.9.9", "::1")])
        policies = tuple(map(to_policy, plain))
        members.append(Member(number * 7, identity, tuple(map(Ip, addresses)), policies, tuple(missing)))
    rows = verdict_table(members)
    for source in members:
        for destination in members:
            for port in (80, 443, 5432, 8080, 9, 1, 65535):
                verdicts = list(_verdicts(source, destination, port))
                is_allowed = _allowed(rows, source.number, destination.number, port)
                if verdicts:  # else they have no family in common, and never meet
                    assert is_allowed is all(verdicts)


def test_pods_that_no_policy_tells_apart_are_judged_once(monkeypatch: pytest.MonkeyPatch, to_policy: ToPolicy) -> None:
    """250 replicas of one deployment are one question, not 62,500."""
    asked = []

    def counted(*arguments: Any) -> object:
        asked.append(arguments)
        return evaluate(*arguments)

    monkeypatch.setattr(module, "evaluate", counted)
    policy = to_policy(_allow(principals=("cluster.local/ns/shop/sa/web",)))
    members = [_member(number, WEB, policy) for number in range(250)]
    assert len(verdict_table(members)) == 250
    assert len(asked) == 1
