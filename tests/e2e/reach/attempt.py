# SPDX-License-Identifier: Apache-2.0
"""One connection on one of the ways, and all that was seen of it: by its ends, kernels, link and access logs."""

import dataclasses
import errno
import functools
import socket
from collections.abc import Mapping
from typing import Any

from nodeagent.lab.demo.claims import ClaimFalse, eventually
from nodeagent.lab.demo.stage import NODES
from nodeagent.model.address import Ip, join_host_port
from tests.e2e.reach.applications import PATIENCE_SECONDS, Accepted
from tests.e2e.reach.cluster import MARKER, Cluster
from tests.e2e.reach.ways import ITSELF, Outcome, Record, Way

_RESET = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNREFUSED, errno.ENOTCONN})
"""The last: the reset was there before this end was closed."""
ALARMS = frozenset(
    {
        "CUT_SHORT",
        "IP_OPTIONS",
        "FRAGMENT",
        "EXTENSION_HEADERS",
        "SPOOFED_SOURCE",
        "NOT_REGISTERED",
        "PROXY_NOT_TCP",
        "FOREIGN_SOURCE",
        "PROXY_AWAY",
        "ASSIGN_REFUSED",
    }
)
"""What no honest traffic moves."""


@dataclasses.dataclass(frozen=True)
class Seen:
    outcome: Outcome | str
    """A text says what else it was."""
    own: tuple[Ip, int]
    """The client's end."""
    accepted: tuple[Accepted, ...]
    """By any application of the cluster."""
    moved: Mapping[str, frozenset[str]]
    """Reasons that were counted, by node."""
    is_plain_on_wire: bool
    """The client's bytes crossed the link as it sent them."""


def attempt(cluster: Cluster, way: Way, index: int) -> Seen:
    accepted = len(cluster.applications.accepted)
    cluster.ear.has_heard(MARKER)
    before = {node: cluster.packets(node) for node in NODES}
    for node in NODES:
        cluster.new_lines(node)
    outcome, own = _talk(cluster, way, index)
    after = {node: cluster.packets(node) for node in NODES}
    return Seen(
        outcome,
        own,
        tuple(cluster.applications.accepted[accepted:]),
        {node: frozenset(name for name in after[node] if after[node][name] > before[node][name]) for node in NODES},
        cluster.ear.has_heard(MARKER),
    )


def _talk(cluster: Cluster, way: Way, index: int) -> tuple[Outcome | str, tuple[Ip, int]]:
    source = cluster.places[way.source]
    connection = source.socket(socket.AF_INET6 if index else socket.AF_INET)
    with connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        target = cluster.address(way.target, index)
        outcome: Outcome | str
        try:
            # Inside, since that is where the scope of a link-local address means something.
            source.call(
                functools.partial(_connect, connection, cluster.own_end(way.source, index, target), target, way.port)
            )
            connection.sendall(MARKER)
            connection.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except OSError as error:
            outcome = Outcome.REFUSED if error.errno in _RESET else f"{type(error).__name__}: {error}"
        else:
            greeting, _, echo = received.partition(b"\n")
            outcome = Outcome.SERVED if greeting and echo == MARKER else f"answered {received!r}"
        return outcome, connection.getsockname()[:2]


def _connect(connection: socket.socket, own: tuple[str, int], target: Ip, port: int) -> None:
    connection.bind(own)
    if target.startswith("fe80"):
        connection.connect((target, port, 0, socket.if_nametoindex("eth0")))
    else:
        connection.connect((target, port))


def judge(cluster: Cluster, way: Way, index: int, seen: Seen) -> None:
    """Raises AssertionError with what was seen."""
    evidence = f"{way.name}: {seen}"
    assert seen.outcome is way.outcome, evidence
    source = cluster.address(way.seen_as, index, way.source)
    if way.outcome is Outcome.SERVED:
        (accepted,) = seen.accepted
        assert (accepted.place, accepted.port) == way.application, evidence
        assert accepted.source == source, evidence
        if way.seen_as == ITSELF:
            assert accepted.source_port == seen.own[1], evidence
        assert seen.is_plain_on_wire == way.is_plain_on_wire, evidence
    else:
        assert seen.accepted == (), evidence
    for node, names in way.counters.items():
        assert names <= seen.moved[node], f"{sorted(names - seen.moved[node])} did not move; {evidence}"
    alarms = {node: names & ALARMS for node, names in seen.moved.items()}
    assert not any(alarms.values()), f"{alarms}; {evidence}"
    for record in way.records:
        _demand_record(cluster, record, source, seen.own[1] if way.seen_as == ITSELF else None, evidence)


def _demand_record(cluster: Cluster, record: Record, source: Ip, port: int | None, evidence: str) -> None:
    """`port` None: whoever masquerades has chosen it."""
    found: list[dict[str, Any]] = []
    wanted = join_host_port(source, port or 0)

    def is_told() -> bool:
        found.extend(cluster.new_lines(record.node))
        return any(map(fits, found))

    def fits(line: dict[str, Any]) -> bool:
        address = line["src.addr"] if port is not None else join_host_port(_host(line["src.addr"]), 0)
        return (
            address == wanted
            and line["direction"] == record.direction
            and line.get("reason", "") == record.reason
            and (not record.source_identity or line.get("src.identity") == record.source_identity)
        )

    try:
        eventually(is_told, PATIENCE_SECONDS, f"{record} from {wanted}")
    except ClaimFalse as failure:
        raise AssertionError(f"{failure}; told were {found}; {evidence}") from failure


def _host(address: str) -> Ip:
    return Ip(address.rpartition(":")[0].strip("[]"))
