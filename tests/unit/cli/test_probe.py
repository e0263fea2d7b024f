# SPDX-License-Identifier: Apache-2.0
"""What was tried is shown, what failed with what to look at; the exit status says whether all is well."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.agent.peer_probe import ORDER_SECONDS
from tests.unit.cli.test_forms import validate

Call = Callable[..., tuple[int, str, str]]

GOOD: dict[str, Any] = {
    "from_node": "node-a",
    "to_node": "node-b",
    "path": "hbone",
    "ok": True,
    "source": "shop/web",
    "destination": "shop/db",
    "address": "10.0.1.1",
    "connect_seconds": 0.00012,
    "handshake_seconds": 0.0031,
    "round_trip_seconds": 0.00025,
    "reason": "",
    "error": "",
    "check": "",
}
FAILED = {
    **GOOD,
    "ok": False,
    "to_node": "node-c",
    "connect_seconds": 0.0,
    "handshake_seconds": 0.0,
    "round_trip_seconds": 0.0,
    "reason": "connect_timeout",
    "error": "nothing within 5 s",
    "check": "A firewall, perhaps.",
}


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """What was ordered, and what will be answered."""
    asked: list[dict[str, str]] = []
    rows: list[dict[str, Any]] = []

    def order(_self: AdminClient, route: str, *, takes_seconds: float, **query: str) -> dict[str, Any]:
        assert route == "/probe"
        assert takes_seconds >= ORDER_SECONDS
        asked.append(query)
        return {"schema": "nodeagent/v1", "probes": rows}

    monkeypatch.setattr(AdminClient, "order", order)
    return asked, rows


Orders = tuple[list[dict[str, str]], list[dict[str, Any]]]


def test_all_is_well(call: Call, orders: Orders) -> None:
    asked, rows = orders
    rows += [GOOD]
    status, out, err = call("probe")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "FROM    TO      PATH   ADDRESS   OK   CONNECT  HANDSHAKE  RTT",
        "node-a  node-b  hbone  10.0.1.1  yes  0.1ms    3.1ms      0.2ms",
    ]
    assert asked == [{"seconds": "5"}]


def test_what_failed_is_told_with_what_to_look_at(call: Call, orders: Orders) -> None:
    asked, rows = orders
    rows += [GOOD, FAILED, {**FAILED, "address": "fd00::1"}]
    status, out, err = call("probe", "--to", "node-b", "--to", "node-c", "--timeout", "0.5")
    assert status == 1
    assert "no (connect_timeout)  -" in out
    assert err == "node-c: nothing within 5 s. A firewall, perhaps.\n", "once"
    assert asked == [{"seconds": "0.5", "to": "node-b,node-c"}]


def test_json(call: Call, orders: Orders) -> None:
    orders[1].extend([GOOD, FAILED])
    status, out, err = call("probe", "-o", "json")
    assert (status, err) == (1, "")
    validate(json.loads(out), "ProbedNodes")
    assert call("probe", "-o", "name")[1] == "node-b\nnode-c\n"


def test_nobody_to_try(call: Call, orders: Orders) -> None:
    del orders
    status, out, err = call("probe", "--no-headers")
    assert (status, out, err) == (0, "", "no other node has a captured pod of this network\n")
