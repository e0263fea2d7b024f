# SPDX-License-Identifier: Apache-2.0
"""The answer set out for reading, and the exit status that a script asks for."""

import json
from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., tuple[int, str, str]]

_ROUTE = {
    "endpoints": ["shop/db-0 (10.242.0.1:5432, node-b)", "shop/db-1 (10.242.0.2:5432, node-b)"],
    "transport": "HBONE",
    "path": ["pod -> steered by from_pod -> worker", "HBONE to port 15008 of the endpoint", "application"],
    "verdict": "DENIED",
    "reason": "policy_not_allowed",
    "words": "denied: ALLOW policies apply, and none matches",
    "policies": [{"policy": "shop/db-allow"}],
    "missing": [],
    "nearest_miss": None,
    "working": ["1 ALLOW shop/db-allow: no match <- nearest miss", "    rule 1: destination_ports: 5432 is not 5433"],
    "to_allow": ['add "5432" to ports in rule 1 of shop/db-allow'],
}
_ANSWER: dict[str, Any] = {
    "source": {
        "name": "shop/web",
        "addresses": ["10.241.0.12"],
        "node": "node-a",
        "identity": "spiffe://cluster.local/ns/shop/sa/web",
        "captured": "yes (veth3, 812 connections)",
    },
    "destination": {"asked": "shop/db:5432", "service": "shop/db.shop.svc.cluster.local", "port": 5432},
    "routes": [_ROUTE],
    "verdict": "DENIED",
    "warnings": [],
}


def test_a_denial(agent: dict[str, Any], call: Call, asked: list[tuple[str, dict[str, str]]]) -> None:
    agent["/explain"] = _ANSWER
    status, out, err = call("explain", "shop/web", "shop/db:5432")
    assert (status, err) == (1, "")
    assert asked == [("/explain", {"source": "shop/web", "destination": "shop/db", "port": "5432"})]
    assert out == (
        "source       shop/web (10.241.0.12, node-a)  identity cluster.local/ns/shop/sa/web  "
        "captured yes (veth3, 812 connections)\n"
        "destination  shop/db:5432  via service shop/db.shop.svc.cluster.local\n"
        "endpoint     shop/db-0 (10.242.0.1:5432, node-b)\n"
        "             shop/db-1 (10.242.0.2:5432, node-b)\n"
        "path         pod -> steered by from_pod -> worker -> HBONE to port 15008 of the endpoint -> application\n"
        "policies     1 applies\n"
        "             1 ALLOW shop/db-allow: no match <- nearest miss\n"
        "                 rule 1: destination_ports: 5432 is not 5433\n"
        "verdict      DENIED  reason=policy_not_allowed  denied: ALLOW policies apply, and none matches\n"
        'to allow     add "5432" to ports in rule 1 of shop/db-allow\n'
        "last seen    not among the connections that this node remembers\n"
        "warnings     none\n"
    )


def test_several_answers_are_numbered(agent: dict[str, Any], call: Call) -> None:
    allowed = {**_ROUTE, "verdict": "ALLOWED", "reason": "", "working": [], "policies": [], "to_allow": []}
    agent["/explain"] = {**_ANSWER, "routes": [_ROUTE, allowed], "verdict": "MIXED", "warnings": ["one", "two"]}
    status, out, _ = call("explain", "web", "db:5432")
    assert status == 1
    assert "answer 1     of 2\n" in out
    assert "answer 2     of 2\n" in out
    assert "policies     none applies\n" in out
    assert out.endswith("warnings     one\n             two\n")


@pytest.mark.parametrize(
    ("verdict", "status"), [("ALLOWED", 0), ("PASSES", 0), ("DENIED", 1), ("PENDING", 1), ("REFUSED", 1), ("MIXED", 1)]
)
def test_exit_status(agent: dict[str, Any], call: Call, verdict: str, status: int) -> None:
    agent["/explain"] = {**_ANSWER, "verdict": verdict}
    found, out, _ = call("explain", "web", "db:5432", "-o", "json")
    assert found == status
    assert json.loads(out)["verdict"] == verdict


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        (["10.0.0.1", "[fd00::9]:80"], {"source": "10.0.0.1", "destination": "fd00::9", "port": "80"}),
        (
            ["web", "pod/shop/db:1", "--identity", "td/ns/a/sa/b"],
            {"source": "web", "destination": "pod/shop/db", "port": "1", "identity": "td/ns/a/sa/b"},
        ),
        (["web", "db:1", "--plaintext"], {"source": "web", "destination": "db", "port": "1", "plaintext": "true"}),
    ],
)
def test_questions(
    agent: dict[str, Any],
    call: Call,
    asked: list[tuple[str, dict[str, str]]],
    arguments: list[str],
    query: dict[str, str],
) -> None:
    agent["/explain"] = {**_ANSWER, "verdict": "ALLOWED"}
    assert call("explain", *arguments)[0] == 0
    assert asked == [("/explain", query)]


@pytest.mark.parametrize("destination", ["db", "db:", ":80", "db:http", "fd00::9", "fd00::9:80"])
def test_what_is_no_destination(call: Call, destination: str) -> None:
    status, _, err = call("explain", "web", destination)
    assert status == 2
    assert "is not NAME:PORT" in err


def test_a_dry_run_has_a_line_of_its_own(agent: dict[str, Any], call: Call) -> None:
    agent["/explain"] = _ANSWER | {"routes": [_ROUTE | {"dry_run": "would be allowed by shop/try, which it is not"}]}
    assert (
        "dry run      would be allowed by shop/try, which it is not\n" in call("explain", "shop/web", "shop/db:5432")[1]
    )


def test_tunnel_and_last_seen_have_lines_of_their_own(agent: dict[str, Any], call: Call) -> None:
    seen = {
        "ended": "2026-08-20T10:25:53.000000Z",
        "direction": "outbound",
        "path": "tunnel",
        "verdict": "denied",
        "reason": "hbone_denied",
        "policy": "shop/db-allow",
        "recent": 6,
        "recent_seconds": 300,
    }
    agent["/explain"] = _ANSWER | {"routes": [_ROUTE | {"tunnel": "mutual TLS as web"}], "last_seen": seen}
    out = call("explain", "shop/web", "shop/db:5432")[1]
    assert "tunnel       mutual TLS as web\n" in out
    assert (
        "last seen    2026-08-20T10:25:53.000000Z  denied by shop/db-allow, ended as hbone_denied "
        "(outbound, by way of the tunnel; 6 in the last 5 minutes)\n"
    ) in out
