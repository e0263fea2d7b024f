# SPDX-License-Identifier: Apache-2.0
"""Which flows somebody wants to see. Pure: works on the rows of the agent's answer, live or from a file alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from nodeagent.errors import ConfigError

Row = Mapping[str, Any]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class FlowFilter:
    """Of the values of one field any may match, of the fields all must; an empty one is not asked about.

    Patterns may have `*` and `?`. Of an end: `namespace/workload`, `namespace/`, a workload's name alone, an address
    or a SPIFFE identity.
    """

    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    """Either end."""
    services: tuple[str, ...] = ()
    """`namespace/hostname`, the hostname, or its first label."""
    ports: tuple[int, ...] = ()
    """That was dialled, or that the application has."""
    verdicts: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    """`HBONE` or `PLAIN`."""
    ended_since: str = ""
    """RFC 3339 in UTC, as in the rows."""

    @property
    def is_empty(self) -> bool:
        return self == FlowFilter()

    def matches(self, row: Row) -> bool:
        source, destination = _names(row, "source"), _names(row, "destination")
        return (
            _any_fits(self.sources, source)
            and _any_fits(self.destinations, destination)
            and _any_fits(self.pods, source + destination)
            and _any_fits(self.services, _service_names(row["service"]))
            and (not self.ports or not _ports(row).isdisjoint(self.ports))
            and _is_in(self.verdicts, row["verdict"])
            and _is_in(self.reasons, row["reason"])
            and _any_fits(self.policies, (row["policy"], row["policy"].partition("/")[2]))
            and _is_in(self.paths, row["path"])
            and _is_in(self.directions, row["direction"])
            and _is_in(self.protocols, row["protocol"])
            and row["ended"] >= self.ended_since
        )


def require_flow(row: Row) -> None:
    """Raises LookupError, TypeError, ValueError or AttributeError when a row is not what an agent tells of a flow."""
    _names(row, "source"), _names(row, "destination"), _ports(row), _service_names(row["service"])
    row["policy"].partition("/"), row["ended"].partition("T")
    row["verdict"], row["reason"], row["path"], row["direction"], row["protocol"]


def parse_duration(text: str) -> float:
    """`90s`, `5m`, `1h30m`, `2d`: in seconds. Raises ConfigError."""
    rest, seconds = text.strip(), 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        if not digits or rest[digits : digits + 1] not in _UNITS:
            break
        seconds += int(rest[:digits]) * _UNITS[rest[digits]]
        rest = rest[digits + 1 :]
    if rest or not text.strip() or len(text) > 20:
        raise ConfigError(f"{text!r} is not a duration", check="Such as 90s, 5m, 1h30m or 2d.")
    return seconds


def _names(row: Row, side: str) -> tuple[str, ...]:
    """All that this end can be called."""
    end = row[side]
    ip = end["address"].rpartition(":")[0].strip("[]")
    identity = row[f"{side}_identity"]
    called = (f"{end['namespace']}/{end['workload']}", end["workload"]) if end["workload"] else ()
    return (*called, ip, identity, identity.removeprefix("spiffe://"))


def _service_names(service: str) -> tuple[str, ...]:
    hostname = service.partition("/")[2]
    return service, hostname, hostname.partition(".")[0]


def _ports(row: Row) -> set[int]:
    addresses = row["destination"]["address"], row["original"]
    return {int(address.rpartition(":")[2]) for address in addresses}


def _any_fits(patterns: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """An end that has no name is asked by its address only: `*` is not somebody of whom nothing is known."""
    return not patterns or any(name and fnmatchcase(name, _whole(pattern)) for pattern in patterns for name in names)


def _whole(pattern: str) -> str:
    return f"{pattern}*" if pattern.endswith("/") else pattern


def _is_in(wanted: tuple[str, ...], value: str) -> bool:
    return not wanted or value in wanted
