# SPDX-License-Identifier: Apache-2.0
"""Authorization policies as nodeagent/proto/authorization.proto describes them; evaluated by policy/."""

import enum

import msgspec

from nodeagent.model.address import Cidr, Port


class PolicyScope(enum.StrEnum):
    GLOBAL = "GLOBAL"
    NAMESPACE = "NAMESPACE"
    WORKLOAD_SELECTOR = "WORKLOAD_SELECTOR"


class Action(enum.StrEnum):
    ALLOW = "ALLOW"
    DENY = "DENY"


class MatchKind(enum.StrEnum):
    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    PRESENCE = "presence"


class StringMatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    kind: MatchKind
    value: str = ""
    """Empty for PRESENCE."""


class ServiceAccountMatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    namespace: str
    service_account: str


class Match(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Populated fields are ANDed, values of one field ORed; of a `not_` field none may match."""

    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()
    source_ips: tuple[Cidr, ...] = ()
    not_source_ips: tuple[Cidr, ...] = ()
    destination_ips: tuple[Cidr, ...] = ()
    not_destination_ips: tuple[Cidr, ...] = ()
    destination_ports: tuple[Port, ...] = ()
    not_destination_ports: tuple[Port, ...] = ()


class Clause(msgspec.Struct, frozen=True, gc=False):
    """Matches are ORed; no matches at all is true."""

    matches: tuple[Match, ...] = ()


class Rule(msgspec.Struct, frozen=True, gc=False):
    """Clauses are ANDed; no clauses at all is true."""

    clauses: tuple[Clause, ...] = ()


class Policy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Rules are ORed; no rules at all never matches."""

    name: str
    namespace: str
    scope: PolicyScope
    action: Action
    rules: tuple[Rule, ...] = ()
    is_dry_run: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"
