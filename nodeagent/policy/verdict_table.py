# SPDX-License-Identifier: Apache-2.0
"""Verdicts for all pairs of this node's pods, as rows of bits: what the kernel may decide without asking anybody.

Only an allow is told. What is denied, or depends on more than identities and port (the two addresses of a pod are
judged differently) has no bit, and whoever reads the table asks the proxy, which answers and names the policy. While a
policy is on its way a row is for open connections only, which go on as the proxy's own do. Each bit is an answer of
evaluate(); this file only chooses the questions, so that no question is asked twice:
    ports         those that a policy of the destination names, and one for all others
    sources       identities that no policy tells apart are one source, unless a policy looks at addresses
    destinations  those to which the same policies apply are one, unless a policy looks at theirs
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from nodeagent.model.address import Ip, is_ipv6
from nodeagent.model.identity import Identity
from nodeagent.model.policy import Match, Policy
from nodeagent.policy.evaluate import ConnectionFacts, Deny, evaluate
from nodeagent.policy.source_groups import SourceGroups

OTHER_PORTS = 0
"""In place of a port: every port that has no row of its own."""


class Member(NamedTuple):
    """An enrolled pod of this node that the kernel may decide about."""

    number: int
    """Its bit, 0 or more; no other member has it."""
    identity: Identity
    addresses: tuple[Ip, ...]
    policies: tuple[Policy, ...]
    """All that apply to it as a destination."""
    missing: tuple[str, ...] = ()
    """Policies that it names and that have not arrived."""
    is_destination: bool = True
    """False when who connects to its address is led somewhere else first: then nobody is told of it."""


class VerdictRow(NamedTuple):
    destination: int
    """Number of the pod that is connected to."""
    port: int
    """Or OTHER_PORTS."""
    sources: int
    """Bit n: the pod of number n may connect."""
    is_pending: bool = False
    """A policy is on its way: who is connected may go on unless a policy that is here denies it; nobody new may."""


_Basis: TypeAlias = tuple[tuple[Policy, ...], tuple[str, ...]]


def verdict_table(members: Sequence[Member], closed_ports: Collection[int] = ()) -> list[VerdictRow]:
    """Rows in an order that is safe to write one by one: a destination's OTHER_PORTS come after its own ports.

    A destination of which nothing is allowed on any port has no row. `closed_ports` are allowed to nobody.
    """
    rows: list[VerdictRow] = []
    answered: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    sources = _Sources(members)
    for destination in members:
        if not destination.is_destination:
            continue
        policies = destination.policies
        # By id: hashing the policies of 250 pods would cost more than judging them, and the members keep them alive.
        question = (*map(id, policies), len(destination.missing), *_addresses_seen(destination))
        answers = answered.get(question)
        if answers is None:
            answers = answered[question] = _answers(destination, sources, closed_ports)
        rows += (VerdictRow(destination.number, port, bits, bool(destination.missing)) for port, bits in answers)
    return rows


def _answers(destination: Member, sources: "_Sources", closed_ports: Collection[int]) -> list[tuple[int, int]]:
    named = _ports(destination.policies) | set(closed_ports)
    other = next(port for port in range(1, 65536) if port not in named)
    basis = (destination.policies, destination.missing)
    is_by_address = any(_sees_addresses(match) for match in _matches(destination.policies))
    groups = sources.by_pod if is_by_address else sources.by_identity(destination.policies)
    answers = [(port, 0 if port in closed_ports else _bits(basis, groups, destination, port)) for port in sorted(named)]
    answers.append((OTHER_PORTS, _bits(basis, groups, destination, other)))
    return answers if any(bits for _, bits in answers) else []


def _bits(basis: _Basis, groups: Iterable["_Group"], destination: Member, port: int) -> int:
    bits = 0
    for identity, addresses, own_bits in groups:
        if _may(basis, identity, addresses, destination, port):
            bits |= own_bits
    return bits


def _may(basis: _Basis, identity: Identity, addresses: tuple[Ip, ...], destination: Member, port: int) -> bool:
    """Not denied for any pair of their addresses that can meet; without addresses it does not depend on them."""
    if not addresses:
        facts = ConnectionFacts(identity, Ip(""), Ip(""), port)
        return not isinstance(evaluate(*basis, facts), Deny)
    pairs = list(_pairs(addresses, destination.addresses))
    return bool(pairs) and all(
        not isinstance(evaluate(*basis, ConnectionFacts(identity, source, to, port)), Deny) for source, to in pairs
    )


def _pairs(sources: Iterable[Ip], destinations: Sequence[Ip]) -> Iterator[tuple[Ip, Ip]]:
    return ((source, to) for source in sources for to in destinations if is_ipv6(source) is is_ipv6(to))


_Group: TypeAlias = tuple[Identity, tuple[Ip, ...], int]
"""Sources that no question tells apart: their identity, their addresses if these are asked for, their bits."""


class _Sources:
    def __init__(self, members: Sequence[Member]) -> None:
        of_identity: defaultdict[Identity, int] = defaultdict(int)
        for member in members:
            of_identity[member.identity] |= 1 << member.number
        self._groups = SourceGroups(of_identity)
        self.by_pod: list[_Group] = [(member.identity, member.addresses, 1 << member.number) for member in members]

    def by_identity(self, policies: Iterable[Policy]) -> list[_Group]:
        return [(identity, (), bits) for identity, bits in self._groups.told_apart(_matches(policies))]


def _addresses_seen(destination: Member) -> tuple[int, ...]:
    """What makes a destination differ from another with the same policies: its number, if they look at addresses."""
    is_seen = any(_sees_addresses(match) for match in _matches(destination.policies))
    return (-1, destination.number) if is_seen else ()


def _sees_addresses(match: Match) -> bool:
    return bool(match.source_ips or match.not_source_ips or match.destination_ips or match.not_destination_ips)


def _ports(policies: Iterable[Policy]) -> set[int]:
    return {
        port
        for match in _matches(policies)
        for ports in (match.destination_ports, match.not_destination_ports)
        for port in ports
    }


def _matches(policies: Iterable[Policy]) -> Iterator[Match]:
    return (
        match for policy in policies for rule in policy.rules for clause in rule.clauses for match in clause.matches
    )
