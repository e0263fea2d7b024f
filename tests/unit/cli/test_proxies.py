# SPDX-License-Identifier: Apache-2.0
"""`nodeagent proxies`: its table, its exit status, and where it looks for the control plane."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.admin.client import AdminClient

Call = Callable[..., tuple[int, str, str]]


def row(node: str = "node-a", state: str = "SYNCED", **changes: object) -> dict[str, Any]:
    return {
        "node": node,
        "id": "ztunnel~10.0.0.1~a.b~c",
        "address": "10.0.0.1:4711",
        "connected": "2026-01-01T12:00:00+00:00",
        "connected_seconds": 75.5,
        "type": "istio.workload.Address",
        "state": state,
        "asks_for": "everything",
        "resources": 12,
        "sent": {"nonce": "4/9", "version": "4"},
        "acknowledged": {"nonce": "4/9", "version": "4"},
        "unanswered": 0,
        "unanswered_seconds": 0.0,
        "refusals": [],
        "refused": 0,
        **changes,
    }


REFUSED = row(
    "node-b", "NACKED", refusals=[{"nonce": "3/1", "error": "shop/db: no"}, {"nonce": "4/9", "error": "x: y"}]
)
LATE = row("node-c", "STALE", acknowledged={"nonce": "", "version": ""}, unanswered=1, unanswered_seconds=12.3)


@pytest.mark.parametrize(
    ("rows", "arguments", "status", "words"),
    [
        pytest.param([], (), 0, "NODE", id="nobody is connected"),
        pytest.param([row()], (), 0, "SYNCED  12         4/9   4/9", id="synced"),
        pytest.param([row(), REFUSED], (), 1, "NACKED  12         4/9   4/9    x: y", id="refused"),
        pytest.param([row(), LATE], (), 1, "STALE   12         4/9   -      no answer for 12s", id="no answer yet"),
        pytest.param([row(), LATE], ("node-a",), 0, "SYNCED", id="one node, which is well"),
        pytest.param([row(), LATE], ("node-c",), 1, "STALE", id="one node, which is not"),
    ],
)
def test_a_table_and_its_exit_status(
    agent: dict[str, Any], call: Call, rows: list[dict[str, Any]], arguments: tuple[str, ...], status: int, words: str
) -> None:
    agent["/proxies"] = {"generation": 4, "proxies": rows}
    found, out, _ = call("proxies", *arguments)
    assert found == status
    assert words in out


def test_a_node_that_is_not_connected(agent: dict[str, Any], call: Call) -> None:
    agent["/proxies"] = {"generation": 4, "proxies": [row()]}
    status, out, said = call("proxies", "node-x")
    assert (status, out) == (1, "")
    assert "node node-x is not connected" in said


def test_json_is_the_whole_answer(agent: dict[str, Any], call: Call) -> None:
    agent["/proxies"] = {"generation": 4, "proxies": [REFUSED]}
    status, out, _ = call("proxies", "-o", "json")
    assert status == 1
    assert json.loads(out)["proxies"] == [REFUSED]


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ((), "/var/lib/nodeagent/control-plane/admin.sock"),
        (("--state-dir", "/srv/cp"), "/srv/cp/admin.sock"),
        (("--socket", "/run/cp.sock"), "/run/cp.sock"),
    ],
)
def test_without_a_control_plane_it_says_where_it_looked(
    call: Call, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], path: str
) -> None:
    made: list[str] = []
    original = AdminClient.__init__

    def made_with(self: AdminClient, path: str, *rest: Any, **options: Any) -> None:
        made.append(path)
        original(self, "/nonexistent/admin.sock", *rest, **options)

    monkeypatch.setattr(AdminClient, "__init__", made_with)
    status, _, said = call("proxies", *arguments)
    assert (status, made) == (3, [path])
    assert "no control plane answers at" in said
    assert "Is the control plane running on this node?" in said
