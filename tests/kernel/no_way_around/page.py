# SPDX-License-Identifier: Apache-2.0
"""The tables as a page, docs/vectors.md: what was tried, and what became of it."""

from collections.abc import Iterator

from tests.kernel.no_way_around.tables import TABLES
from tests.kernel.no_way_around.vector import Table, Vector

_SENDERS = {"a": "pod", "b": "another pod", "x": "stranger", "wire": "host", "worker": "worker"}
_PLACES = {
    "a": "the pod",
    "b": "another pod",
    "x": "the stranger",
    "wire": "the wire",
    "proxy": "the proxy",
    "node": "the node",
}


def count_vectors() -> int:
    """One for each address family."""
    return sum(len(vector.families) for table in TABLES for vector in table.vectors)


def page() -> str:
    return "\n".join(
        [
            "<!-- made by python -m tests.kernel.no_way_around from the tables there; do not edit -->",
            "# No way around",
            "",
            "What was tried against a node's programs, and what becomes of it. Each row is a test of",
            "`tests/kernel/test_no_way_around.py`: real packets through real devices, with nothing beside the",
            "programs that could stop them (no reverse-path check, no firewall).",
            f"{count_vectors()} vectors, each address family counted.",
            "",
            "By whom: an enrolled *pod* with every capability in its network namespace, a *stranger* (a pod of this",
            "node outside the mesh), a *host* beyond the wire, a *worker* that an attacker controls and that has every",
            "capability in the proxy's namespace. What decides is the reason of `bpf/reasons.h` whose counter moves;",
            "the test names the others too, and no further one may move. Where the payload arrives elsewhere than at",
            "the proxy, the last column says why it may. The families are both, unless a row says 4 or 6.",
            "",
            *(line for table in TABLES for line in _section(table)),
        ]
    )


def _section(table: Table) -> Iterator[str]:
    yield from (f"## {table.title}", "")
    yield "| what | by | what decides | payload arrives at | answer | why it may |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield from (_row(vector) for vector in table.vectors)
    yield ""


def _row(vector: Vector) -> str:
    family = "" if len(vector.families) > 1 else f" ({min(vector.families)[-1]})"
    places = ", ".join(_PLACES[place] for place in sorted(vector.arrives)) or "nowhere"
    reason = f"`{vector.reason}`" if vector.counts else "the node's stack"
    cells = (vector.name + family, _SENDERS[vector.sender], reason, places, vector.answer or "none", vector.documented)
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")
