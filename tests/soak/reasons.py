# SPDX-License-Identifier: Apache-2.0
"""Why connections ended, as the agents count it."""

from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from nodeagent.lab.demo.stage import NODES, Stage
from nodeagent.model.reason import Reason

_STATS_PORT = 15020
EXPECTED = frozenset(
    reason.value
    for reason in (
        Reason.CLOSED,
        Reason.RESET,  # by the policy's own other end, and by who speaks with a worker that was killed
        Reason.POLICY_CHANGED,
        Reason.POLICY_DENIED,
        Reason.HBONE_DENIED,
        Reason.PEER_LOST,
        Reason.WORKER_LOST,
    )
)
"""What the injected faults and the changes of policy bring about."""


def closed(stage: Stage) -> Counter[str]:
    """Connections of both nodes by reason."""
    return Counter({labels["reason"]: count for labels, count in _values(stage, "nodeagent_connections_total")})


def total(stage: Stage, name: str) -> int:
    return sum(count for _, count in _values(stage, name))


def _values(stage: Stage, name: str) -> list[tuple[dict[str, str], int]]:
    found = []
    for node in NODES:
        for family in text_string_to_metric_families(_scrape(stage, node)):
            found += [(sample.labels, int(sample.value)) for sample in family.samples if sample.name == name]
    return found


def _scrape(stage: Stage, node: str) -> str:
    with stage.lab.nodes[node].connect("127.0.0.1", _STATS_PORT) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
        answer = b""
        while some := sock.recv(1 << 16):
            answer += some
    return answer.partition(b"\r\n\r\n")[2].decode()
