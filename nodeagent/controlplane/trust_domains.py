# SPDX-License-Identifier: Apache-2.0
"""Principals and trust domains of policies in a mesh whose trust domain has aliases. Pure.

The rules are those by which istiod writes policies for sidecars (pilot/pkg/security/trustdomain/bundle.go); what it
writes for node proxies knows no aliases. Without any nothing is rewritten here either:

- Only a principal with the five parts of an identity has a trust domain; `*/ns/...` has none that counts.
- One that is the mesh's own, an alias, or `cluster.local`, which stands for the mesh's own, becomes one principal for
  each of them. A pattern in it means all that it fits, and stays as it is for those: `*-td` is old-td and new-td.
- A trust domain alone (`trustDomains`) becomes all of them if it is exactly one.
- All others mean what is written.
"""

from collections.abc import Iterable, Sequence

from nodeagent.controlplane.objects import MeshConfig
from nodeagent.controlplane.parse_rule import parse_match
from nodeagent.model.policy import MatchKind, StringMatch

DEFAULT = "cluster.local"
_PARTS = 5


def aliases_of(mesh: MeshConfig) -> tuple[str, ...]:
    """The mesh's domain and its aliases; empty when there is none."""
    return (mesh.trust_domain, *mesh.trust_domain_aliases) if mesh.trust_domain_aliases else ()


def expand_principals(principals: Sequence[StringMatch], domains: Sequence[str]) -> tuple[StringMatch, ...]:
    if not domains:
        return tuple(principals)
    return _distinct(one for principal in principals for one in _expand(principal, domains))


def expand_trust_domains(values: Sequence[StringMatch], domains: Sequence[str]) -> tuple[StringMatch, ...]:
    return _distinct(
        one
        for value in values
        for one in (
            [StringMatch(MatchKind.EXACT, domain) for domain in domains]
            if value.kind is MatchKind.EXACT and value.value in domains
            else [value]
        )
    )


def as_principals(trust_domains: Sequence[StringMatch]) -> tuple[StringMatch, ...]:
    """What principals of these trust domains look like. A suffix cannot be said so, and was refused before."""
    return tuple(
        StringMatch(MatchKind.PREFIX, f"{one.value}/") if one.kind is MatchKind.EXACT else one for one in trust_domains
    )


def _expand(principal: StringMatch, domains: Sequence[str]) -> list[StringMatch]:
    text = written(principal)
    domain, _, rest = text.partition("/")
    if text.count("/") != _PARTS - 1 or domain == "*":
        return [principal]
    if domain != DEFAULT and not any(_meet(domain, one) for one in domains):
        return [principal]
    return [principal if _ends_as(one, domain) else parse_match(f"{one}/{rest}") for one in domains]


def written(match: StringMatch) -> str:
    """As it stands in a policy."""
    match match.kind:
        case MatchKind.EXACT:
            return match.value
        case MatchKind.PREFIX:
            return f"{match.value}*"
        case MatchKind.SUFFIX:
            return f"*{match.value}"
        case MatchKind.PRESENCE:
            return "*"


def _meet(domain: str, other: str) -> bool:
    """Equal, or `domain` is a pattern for the other; those of a mesh are none, and a pattern has its star in front."""
    return domain == other or _ends_as(other, domain)


def _ends_as(domain: str, pattern: str) -> bool:
    return pattern.startswith("*") and domain.endswith(pattern[1:])


def _distinct(matches: Iterable[StringMatch]) -> tuple[StringMatch, ...]:
    return tuple(dict.fromkeys(matches))
