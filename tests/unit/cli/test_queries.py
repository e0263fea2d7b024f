# SPDX-License-Identifier: Apache-2.0
"""Golden tables, and the same answer as JSON and YAML."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from nodeagent.admin.client import AdminClient
from nodeagent.cli import queries
from nodeagent.errors import ConfigError
from nodeagent.kernel.sources import programs_hash
from nodeagent.version import VERSION
from tests.unit.cli.test_forms import DUMP, validate

Call = Callable[..., tuple[int, str, str]]

_ANSWERS: dict[str, dict[str, Any]] = {
    "pods": {
        "pods": [
            {
                "namespace": "shop",
                "pod": "web",
                "ips": ["10.1.0.5", "fd00::5"],
                "netns": "/run/netns/web",
                "captured": "yes",
                "reason": "",
                "mode": "kernel",
                "identity": "spiffe://cluster.local/ns/shop/sa/web",
                "device": "veth3 (7)",
                "hits": 812,
                "direct": 7,
                "dropped": 3,
            },
            {
                "namespace": "old",
                "pod": "cron",
                "ips": [],
                "netns": "",
                "captured": "no",
                "reason": "NOT_IN_MESH",
                "mode": "",
                "identity": "",
                "device": "",
                "hits": 0,
                "direct": 0,
                "dropped": 0,
            },
        ]
    },
    "workloads": {
        "workloads": [
            {
                "namespace": "shop",
                "name": "web",
                "addresses": ["10.1.0.5", "fd00::5"],
                "dns_name": "",
                "dns_error": "",
                "node": "node-a",
                "waypoint": "",
                "protocol": "HBONE",
                "healthy": True,
            },
            *(
                {
                    "namespace": "shop",
                    "name": name,
                    "addresses": addresses,
                    "dns_name": f"{name}.example",
                    "dns_error": error,
                    "node": "",
                    "waypoint": "",
                    "protocol": "TCP",
                    "healthy": True,
                }
                for name, addresses, error in (
                    ("api", ["203.0.113.7"], ""),
                    ("lost", [], "there is no such name"),
                    ("new", [], ""),
                )
            ),
        ]
    },
    "services": {
        "services": [
            {
                "namespace": "shop",
                "name": "db",
                "vips": ["/10.96.0.5", "/fd01::5", "remote/10.0.0.0/8"],
                "ports": {"5432": 5432, "80": 0},
                "waypoint": "shop/wp.shop.svc.cluster.local:15008",
                "endpoints": 3,
                "healthy_endpoints": 2,
                "names": {},
            },
            {
                "namespace": "shop",
                "name": "api",
                "vips": ["/240.240.0.1"],
                "ports": {"443": 443},
                "waypoint": "",
                "endpoints": 2,
                "healthy_endpoints": 2,
                "names": {"api.example": ["203.0.113.7", "203.0.113.8"], "lost.example": []},
            },
        ]
    },
    "policies": {
        "policies": [
            {
                "namespace": "shop",
                "name": "db-allow",
                "action": "ALLOW",
                "scope": "WORKLOAD_SELECTOR",
                "rules": 1,
                "dry_run": True,
                "origin": "AuthorizationPolicy",
                "attached": 2,
                "hits": 7,
                "last_hit": "2026-01-01T00:00:00Z",
            }
        ],
        "missing": [{"policy": "shop/late", "attached": 1}],
    },
    "connections": {
        "connections": [
            {
                "id": "0-42",
                "age_seconds": 3725.4,
                "direction": "outbound",
                "source": {"namespace": "shop", "workload": "web", "address": "10.1.0.5:40000"},
                "destination": {"namespace": "", "workload": "", "address": "[fd00::9]:5432"},
                "service": "shop/db.shop.svc.cluster.local",
                "protocol": "HBONE",
                "path": "tunnel",
                "tls_peer": "spiffe://cluster.local/ns/shop/sa/db",
                "policy": "shop/db-allow",
                "sent_bytes": 1023,
                "received_bytes": 12_650_000,
                "round_trip_us": 240,
            }
        ]
    },
}

_TABLES = {
    "pods": """\
NAMESPACE  POD   IP                NETNS           CAPTURED  REASON       MODE  IDENTITY                     \
DEVICE     HITS  DIRECT
shop       web   10.1.0.5,fd00::5  /run/netns/web  yes       -            kernel  cluster.local/ns/shop/sa/web  \
veth3 (7)  812  7
old        cron  -                 -               no        NOT_IN_MESH  -  -  -          0  0
""",
    "workloads": """\
NAMESPACE  POD NAME  ADDRESS           NODE    WAYPOINT  PROTOCOL  HEALTHY
shop       web       10.1.0.5,fd00::5  node-a  None      HBONE     yes
shop       api       api.example (203.0.113.7)             -  None  TCP  yes
shop       lost      lost.example (there is no such name)  -  None  TCP  yes
shop       new       new.example (not resolved yet)        -  None  TCP  yes
""",
    "services": """\
NAMESPACE  SERVICE NAME  SERVICE VIP                    PORTS            WAYPOINT                              ENDPOINTS
shop       db            10.96.0.5,fd01::5,10.0.0.0/8  5432->5432,80->?  shop/wp.shop.svc.cluster.local:15008  2/3
shop       api           240.240.0.1                    443->443         None  \
2/2 api.example=203.0.113.7,203.0.113.8 lost.example=?
""",
    "policies": """\
NAMESPACE  POLICY NAME  ACTION           SCOPE              RULES  ATTACHED  HITS  FROM
shop       db-allow     ALLOW (dry run)  WORKLOAD_SELECTOR  1      2         7     AuthorizationPolicy

MISSING POLICY  NAMED BY
shop/late       1 workloads
""",
    "connections": """\
ID  AGE  DIR  SRC  DST  SERVICE  PROTO  PATH  TLS-PEER  POLICY  TX  RX  RTT
0-42  1h2m  outbound  shop/web:40000  [fd00::9]:5432  db.shop.svc.cluster.local  HBONE  tunnel  \
cluster.local/ns/shop/sa/db  shop/db-allow  1023 B  12.1 MiB  0.2ms
""",
}


def _cells(table: str) -> list[list[str]]:
    """Columns are apart by two spaces at least; how many, test_table.py says."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]


@pytest.mark.parametrize("name", _ANSWERS)
def test_tables(agent: dict[str, Any], call: Call, name: str) -> None:
    agent[f"/{name}"] = _ANSWERS[name]
    status, out, err = call(name)
    assert (status, err) == (0, "")
    assert _cells(out) == _cells(_TABLES[name])


@pytest.mark.parametrize("name", _ANSWERS)
def test_json_and_yaml_are_the_whole_answer(agent: dict[str, Any], call: Call, name: str) -> None:
    agent[f"/{name}"] = _ANSWERS[name]
    whole = {"schema": "nodeagent/v1", **_ANSWERS[name]}
    assert json.loads(call(name, "-o", "json")[1]) == whole
    assert yaml.safe_load(call(name, "-o", "yaml")[1]) == whole


def test_a_pipe_gets_whole_names(agent: dict[str, Any], call: Call) -> None:
    long = "n" * 300
    agent["/workloads"] = {"workloads": [{**_ANSWERS["workloads"]["workloads"][0], "name": long}]}
    assert long in call("workloads", "--no-headers")[1]


def test_nothing_to_list(agent: dict[str, Any], call: Call) -> None:
    agent["/pods"] = {"pods": []}
    assert call("pods")[1].split() == [
        "NAMESPACE", "POD", "IP", "NETNS", "CAPTURED", "REASON", "MODE", "IDENTITY", "DEVICE", "HITS",
        "DIRECT",
    ]  # fmt: skip
    assert call("pods", "--no-headers")[1] == ""


_CERTIFICATE = {
    "name": "spiffe://cluster.local/ns/shop/sa/web",
    "type": "Leaf",
    "state": "Available",
    "valid": True,
    "serial": "0a1b",
    "not_after": "2126-01-02T00:00:00Z",
    "not_before": "2026-01-01T00:00:00Z",
    "expires_in_seconds": 86399,
    "rotates": "",
    "last_error": "",
}


def test_certificates(agent: dict[str, Any], call: Call) -> None:
    agent["/certs"] = {"certificates": [_CERTIFICATE]}
    headers, row = _cells(call("certs")[1])
    assert dict(zip(headers, row, strict=True)) == {
        "CERTIFICATE NAME": "spiffe://cluster.local/ns/shop/sa/web",
        "TYPE": "Leaf",
        "STATUS": "Available",
        "VALID CERT": "true",
        "SERIAL NUMBER": "0a1b",
        "NOT AFTER": "2126-01-02T00:00:00Z",
        "NOT BEFORE": "2026-01-01T00:00:00Z",
        "EXPIRES-IN": "23h59m",
        "ROTATION": "-",
        "LAST-ERROR": "-",
    }


_STATUS = {
    "node": "node-a",
    "version": "1.2.3",
    "state": "ok",
    "since": "2026-01-01T00:00:00Z",
    "summary": "1/1 pods captured",
    "components": [{"component": "xds", "state": "ok", "since": "", "detail": "following istiod"}],
    "workers": [
        {"slot": 0, "pid": 101, "state": "ready", "since": "", "restarts": 0, "connections": 2, "generation": 5}
    ],
    "kernel": [{"reason": "STEERED", "packets": 9, "words": "sent to the proxy", "drop": False}],
}


def test_status(agent: dict[str, Any], call: Call) -> None:
    agent["/status"] = _STATUS
    status, out, _ = call("status")
    assert status == 0
    assert _cells(out) == [
        ["COMPONENT", "STATE", "SINCE", "DETAIL"],
        ["xds", "ok", "-", "following istiod"],
        [],
        ["WORKER", "PID", "STATE", "SINCE", "RESTARTS", "CONNECTIONS", "GENERATION"],
        ["0", "101", "ready", "-", "0", "2", "5"],
        [],
        ["KERNEL", "PACKETS", "MEANING"],
        ["STEERED", "9", "sent to the proxy"],
    ]


def test_brief_status(agent: dict[str, Any], call: Call) -> None:
    agent["/status"] = _STATUS
    assert call("status", "--brief") == (0, "ok node-a: 1/1 pods captured\n", "")


@pytest.mark.parametrize("options", [(), ("--brief",), ("-o", "json")])
@pytest.mark.parametrize("state", ["degraded", "failed"])
def test_an_ill_node_is_a_problem(agent: dict[str, Any], call: Call, state: str, options: tuple[str, ...]) -> None:
    component = {"component": "xds", "state": state, "since": "", "detail": "refused"}
    agent["/status"] = {**_STATUS, "state": state, "components": [component]}
    status, out, err = call("status", *options)
    assert (status, err) == (1, "")
    assert state in out
    assert "refused" in out


_POLICY = {
    "namespace": "shop",
    "name": "db-allow",
    "action": "ALLOW",
    "scope": "WORKLOAD_SELECTOR",
    "origin": "AuthorizationPolicy",
    "headline": "Allows connections to the workloads that it selects",
    "rules_in_words": ["when the client is td/ns/shop/sa/web"],
    "hits": 7,
    "last_hit": "2026-01-01T00:00:00Z",
    "cautions": ["rule 1 is odd"],
    "attached_to": ["shop/db-0", "shop/db-1"],
}


def test_one_policy_in_words(agent: dict[str, Any], call: Call, asked: list[tuple[str, dict[str, str]]]) -> None:
    agent["/policies"] = {"policy": _POLICY}
    assert call("policies", "shop/db-allow")[1] == (
        "shop/db-allow  ALLOW  WORKLOAD_SELECTOR  from AuthorizationPolicy\n"
        "  Allows connections to the workloads that it selects\n"
        "  rule 1: when the client is td/ns/shop/sa/web\n"
        "  caution: rule 1 is odd\n"
        "  attached to shop/db-0, shop/db-1\n"
        "  decided 7 connections that are over, the last at 2026-01-01T00:00:00Z\n"
    )
    assert asked == [("/policies", {"name": "shop/db-allow"})]
    assert json.loads(call("policies", "show", "shop/db-allow", "-o", "json")[1])["policy"] == _POLICY


@pytest.mark.parametrize("arguments", [("show",), ("shop/a", "shop/b"), ("tell", "shop/a"), ("show", "a", "b")])
def test_what_is_no_policys_name(call: Call, arguments: tuple[str, ...]) -> None:
    assert call("policies", *arguments)[0] == 2


def test_a_policy_that_is_not_there(agent: dict[str, Any], call: Call) -> None:
    agent["/policies"] = ConfigError("no policy 'shop/x' has arrived at this node", check="look")
    assert call("policies", "shop/x")[0] == 2


def test_version_without_an_agent(agent: dict[str, Any], call: Call) -> None:
    del agent
    status, out, err = call("version")
    assert (status, err) == (0, "")
    assert out == (
        f"command  {VERSION}  programs {programs_hash()}  nodeagent/v1\n"
        "agent    unknown: no agent answers at /run/x: No such file or directory\n"
    )
    assert json.loads(call("version", "-o", "json")[1]) == {
        "schema": "nodeagent/v1",
        "command": VERSION,
        "agent": "",
        "programs": programs_hash(),
        "agent_programs": "",
    }


def test_version_of_another_agent(agent: dict[str, Any], call: Call) -> None:
    agent["/version"] = {"version": "9.9"}
    status, out, err = call("version")
    assert status == 0
    assert out.endswith("agent    9.9  programs unknown\n")
    assert "another version" in err


def test_an_agent_of_the_same_version_with_other_programs(agent: dict[str, Any], call: Call) -> None:
    agent["/version"] = {"version": VERSION, "programs": programs_hash()}
    assert call("version")[2] == ""
    agent["/version"]["programs"] = "a/b"
    assert "another version" in call("version")[2]


def test_a_connection_is_killed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered: list[tuple[str, dict[str, str]]] = []
    flow = json.loads(call("flows", "--file", DUMP, "-o", "json")[1])["flows"][0] | {"reason": "operator_killed"}

    def order(_self: AdminClient, route: str, *, takes_seconds: float = 0.0, **query: str) -> Any:
        ordered.append((route, query))
        assert takes_seconds == queries.KILL_SECONDS
        return {"schema": "nodeagent/v1", "killed": [flow]}

    monkeypatch.setattr(AdminClient, "order", order)
    status, out, err = call("connections", "--kill", "7-9")
    assert (status, err) == (0, "")
    assert "operator_killed" in out.splitlines()[1]
    validate(json.loads(call("connections", "--kill", "7-9", "-o", "json")[1]), "Killed")
    assert ordered == [("/connections/kill", {"id": "7-9"})] * 2


@pytest.mark.parametrize(
    ("arguments", "orders"),
    [
        ((), []),
        (("debug",), [{"level": "debug", "seconds": "600"}]),
        (("debug", "--for", "2h"), [{"level": "debug", "seconds": "7200"}]),
        (("warning", "--for", "0s"), [{"level": "warning", "seconds": "0"}]),
        (("--reset",), [{}]),
    ],
)
def test_log_levels(
    agent: dict[str, Any],
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    orders: list[dict[str, str]],
) -> None:
    ordered: list[dict[str, str]] = []
    monkeypatch.setattr(AdminClient, "order", lambda _self, _route, **query: ordered.append(query))
    agent["/log"] = {"logs": [{"part": "agent", "level": "debug", "until": ""}]}
    status, out, _ = call("log", *arguments)
    assert (status, ordered) == (0, orders)
    assert _cells(out) == [["PART", "LEVEL", "UNTIL"], ["agent", "debug", "-"]]


@pytest.mark.parametrize("arguments", [("loud",), ("debug", "--reset"), ("debug", "--for", "long")])
def test_wrong_log_levels(agent: dict[str, Any], call: Call, arguments: tuple[str, ...]) -> None:
    assert call("log", *arguments)[0] == 2
