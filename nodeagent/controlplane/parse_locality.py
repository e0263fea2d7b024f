# SPDX-License-Identifier: Apache-2.0
"""localityLbSetting of DestinationRules and MeshConfig, with the checks of Istio's webhook. Pure."""

from collections.abc import Iterable

from nodeagent.controlplane.fields import Fields
from nodeagent.model.traffic import Distribution, LocalityBalancing
from nodeagent.routing.locality import PLACE_LABELS

_API = "See the Istio reference of LocalityLoadBalancerSetting."
_WHOLE = 100
_MOST_PARTS = 3


def parse_locality(above: Fields) -> LocalityBalancing | None:
    """None when it is not written."""
    written = above.within("localityLbSetting")
    if written is None:
        return None
    found = LocalityBalancing(
        distributions=tuple(_distribution(entry) for entry in written.each("distribute")),
        failover=tuple(_failover(entry) for entry in written.each("failover")),
        priority_labels=written.parsed("failoverPriority", str),
        is_on=not written.has("enabled") or written.flag("enabled"),
    )
    written.refuse_others(_API)
    _check_overlaps(written, "distribute", (one.source for one in found.distributions))
    if found.distributions and found.failover:
        written.wrong("failover", "cannot stand beside distribute")
    if found.failover and PLACE_LABELS & set(found.priority_labels):
        written.wrong("failover", "cannot stand beside labels of a place in failoverPriority")
    return found


def _distribution(entry: Fields) -> Distribution:
    source, to = entry.text("from"), entry.within("to")
    entry.refuse_others(_API)
    _check_locality(entry, "from", source)
    shares = []
    for place in to.mapping.entries if to is not None else ():
        weight = to.number(place, most=_WHOLE) if to is not None else 0
        if to is not None:
            _check_locality(to, place, place)
            if not weight:
                to.wrong(place, "a weight is a number from 1 to 100")
        shares.append((place, weight))
    _check_overlaps(entry, "to", (place for place, _ in shares))
    if sum(weight for _, weight in shares) != _WHOLE:
        entry.wrong("to", "the weights do not add up to 100")
    return Distribution(source, tuple(sorted(shares)))


def _failover(entry: Fields) -> tuple[str, str]:
    source, to = entry.text("from"), entry.text("to")
    for name, region in (("from", source), ("to", to)):
        if not region or "/" in region or "*" in region:
            entry.wrong(name, f"{region!r} is no region")
    if source == to:
        entry.wrong("to", "is the same region")
    entry.refuse_others(_API)
    return source, to


def _check_locality(fields: Fields, name: str, text: str) -> None:
    parts = text.split("/")
    if not all(parts) or len(parts) > _MOST_PARTS or any("*" in part for part in parts[:-1]):
        fields.wrong(name, f"{text!r} is no locality", check="Write region, region/zone or region/zone/subzone.")
    elif "*" in parts[-1] and parts[-1] != "*":
        fields.wrong(name, f"{text!r} is no locality: `*` stands for a whole part, the last one")


def _check_overlaps(fields: Fields, name: str, localities: Iterable[str]) -> None:
    """In none of Istio's lists may one locality be a part of another."""
    seen: list[list[str]] = []
    for text in localities:
        parts = [part for part in text.split("/") if part != "*"]
        if any(parts[: len(former)] == former[: len(parts)] for former in seen):
            fields.wrong(name, f"{text} overlaps with another locality")
        seen.append(parts)
