# SPDX-License-Identifier: Apache-2.0
"""istio.security.Authorization -> Policy.

Stricter than ztunnel: whatever cannot be understood rejects the whole policy, because leaving a value out of a list
widens it (an empty list matches everything), and leaving out a condition widens the match. Blocks come unmasked.
"""

from collections.abc import Iterable

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
from nodeagent.model.sharing import share_text
from nodeagent.proto import authorization_pb2 as pb

_KINDS = {
    "exact": MatchKind.EXACT,
    "prefix": MatchKind.PREFIX,
    "suffix": MatchKind.SUFFIX,
}


def decode_policy(value: bytes) -> Policy:
    """Raises DecodeError for bytes that are no Authorization, ValueError for one that cannot be used."""
    return read_policy(pb.Authorization.FromString(value))


def read_policy(message: pb.Authorization) -> Policy:
    """Raises ValueError for one that cannot be used."""
    if not message.name or not message.namespace:
        raise ValueError("policy without a name or a namespace")
    if not (message.name + message.namespace).isprintable():
        raise ValueError("unprintable characters in its name")
    return Policy(
        name=share_text(message.name),
        namespace=share_text(message.namespace),
        scope=PolicyScope(pb.Scope.Name(message.scope)),
        action=Action(pb.Action.Name(message.action)),
        rules=tuple(
            Rule(tuple(Clause(tuple(_match(match) for match in clause.matches)) for clause in rule.clauses))
            for rule in message.rules
        ),
        is_dry_run=message.dry_run,
    )


def _match(message: pb.Match) -> Match:
    if message.extensions:
        raise ValueError(f"unknown condition {message.extensions[0].name!r}")
    return Match(
        namespaces=_texts(message.namespaces),
        not_namespaces=_texts(message.not_namespaces),
        principals=_texts(message.principals),
        not_principals=_texts(message.not_principals),
        service_accounts=_accounts(message.service_accounts),
        not_service_accounts=_accounts(message.not_service_accounts),
        source_ips=_blocks(message.source_ips),
        not_source_ips=_blocks(message.not_source_ips),
        destination_ips=_blocks(message.destination_ips),
        not_destination_ips=_blocks(message.not_destination_ips),
        destination_ports=_ports(message.destination_ports),
        not_destination_ports=_ports(message.not_destination_ports),
    )


def _texts(messages: Iterable[pb.StringMatch]) -> tuple[StringMatch, ...]:
    return tuple(_text(message) for message in messages)


def _text(message: pb.StringMatch) -> StringMatch:
    kind = message.WhichOneof("match_type")
    if kind is None:
        raise ValueError("string match without a type")
    if kind == "presence":
        return StringMatch(MatchKind.PRESENCE)
    return StringMatch(_KINDS[kind], share_text(getattr(message, kind)))  # a client is named by all that it may call


def _accounts(messages: Iterable[pb.ServiceAccountMatch]) -> tuple[ServiceAccountMatch, ...]:
    return tuple(ServiceAccountMatch(message.namespace, message.serviceAccount) for message in messages)


def _blocks(messages: Iterable[pb.Address]) -> tuple[Cidr, ...]:
    return tuple(Cidr.unpack(message.address, message.length) for message in messages)


def _ports(numbers: Iterable[int]) -> tuple[Port, ...]:
    """Port 0 may stand in a policy (Istio's validation lets it pass); it matches nothing."""
    ports = tuple(Port(number) for number in numbers)
    if any(port > 65535 for port in ports):
        raise ValueError(f"port {max(ports)}")
    return ports
