# SPDX-License-Identifier: Apache-2.0
"""Every path answers with JSON; a query is read strictly."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import msgspec
import pytest

from nodeagent.admin.hops import TraceQuestion
from nodeagent.admin.routes import make_lasting, make_orders, make_routes, parse_question
from nodeagent.admin.state import AgentState, OpenConnection, ProbedNode, ReplacedWorker
from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.telemetry.flow_history import FlowHistory

StateOf = Callable[..., AgentState]


@pytest.mark.parametrize(
    ("path", "query", "member"),
    [
        ("/version", {}, "version"),
        ("/status", {}, "components"),
        ("/pods", {}, "pods"),
        ("/workloads", {}, "workloads"),
        ("/services", {}, "services"),
        ("/policies", {}, "policies"),
        ("/policies", {"name": "shop/db-allow"}, "policy"),
        ("/certs", {}, "certificates"),
        ("/connections", {}, "connections"),
        ("/flows", {}, "flows"),
        ("/flows", {"last": "1"}, "flows"),
        ("/flows", {"after": "former-0", "wait": "60"}, "flows"),
        ("/explain", {"source": "web", "destination": "db", "port": "5432"}, "verdict"),
        ("/dump", {}, "mesh"),
    ],
)
def test_every_route_answers(
    state_of: StateOf, connection: OpenConnection, path: str, query: dict[str, str], member: str
) -> None:
    async def fetch() -> Sequence[OpenConnection]:
        return [connection]

    async def ask() -> Any:
        history = FlowHistory()
        history.ended(connection.record)
        return await make_routes(state_of, fetch, history)[path](query)

    answer = msgspec.json.decode(msgspec.json.encode(asyncio.run(ask())))
    assert answer[member]


@pytest.mark.parametrize("query", [{"last": "-1"}, {"last": "all"}, {"after": "x"}, {"after": "a-1", "wait": "soon"}])
def test_questions_about_flows_are_read_strictly(state_of: StateOf, query: dict[str, str]) -> None:
    async def fetch() -> Sequence[OpenConnection]:
        return []

    async def ask() -> Any:
        return await make_routes(state_of, fetch, FlowHistory())["/flows"](query)

    with pytest.raises(ConfigError):
        asyncio.run(ask())


REPLACED = ReplacedWorker(slot=0, former_pid=1, pid=2, handed_over=3, drained=4, cut=5, left=6, seconds=7.5)


def _order(query: dict[str, str], route: str = "/workers/replace") -> Any:
    async def order() -> Any:
        return await ORDERS[route](query)

    return asyncio.run(order())


TRIED = ProbedNode(
    here="node-a",
    node="node-b",
    source="shop/web",
    destination="shop/db",
    address=Ip("10.0.0.2"),
    connect_seconds=0.0012345678,
    handshake_seconds=0.0,
    round_trip_seconds=0.0,
    reason=Reason.TLS_TIMEOUT,
    error="nothing within 5 s",
)
PROBED: list[tuple[list[str], float]] = []


async def _probe(nodes: Collection[str], seconds: float) -> list[ProbedNode]:
    PROBED.append((list(nodes), seconds))
    return [TRIED]


def test_tunnels_are_tried() -> None:
    PROBED.clear()
    (row,) = _order({}, "/probe")["probes"]
    assert (row["ok"], row["reason"], row["check"]) == (False, "tls_timeout", Reason.TLS_TIMEOUT.check)
    assert (row["from_node"], row["to_node"], row["connect_seconds"]) == ("node-a", "node-b", 0.001235)
    _order({"to": "node-b,node-c", "seconds": "99"}, "/probe")
    assert PROBED == [([], 5.0), (["node-b", "node-c"], 30.0)]


async def _kill(name: str) -> ConnectionRecord:
    assert name == "7-9"
    return ENDED


LEVELS: list[tuple[str, bool, float]] = []
ENDED = ConnectionRecord(
    id=(7 << 32) + 9,
    direction=Direction.OUTBOUND,
    started=1.0,
    source_ip=Ip("10.0.0.1"),
    source_port=1,
    original_ip=Ip("10.0.0.2"),
    original_port=2,
    reason="operator_killed",
)


def test_a_connection_is_killed() -> None:
    (killed,) = _order({"id": "7-9"}, "/connections/kill")["killed"]
    assert (killed["id"], killed["verdict"], killed["reason"]) == ("7-9", "allowed", "operator_killed")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"level": "debug", "seconds": "60"}, ("debug", False, 60.0)),
        ({"level": "info"}, ("info", False, 0.0)),
        ({}, ("", True, 0.0)),
    ],
)
def test_the_log_level_is_changed(query: dict[str, str], expected: tuple[str, bool, float]) -> None:
    LEVELS.clear()
    assert _order(query, "/log") == {}
    assert [expected] == LEVELS


async def _replace(slot: int | None, wait_seconds: float) -> Sequence[ReplacedWorker]:
    assert (slot, wait_seconds) in {(None, 0.0), (0, 2.5)}
    return [REPLACED]


class _Levels:
    def change(self, text: str, *, is_reset: bool = False, seconds: float = 0.0) -> None:
        LEVELS.append((text, is_reset, seconds))


ENDS: list[str] = []
ORDERS = make_orders(lambda: 0, _replace, _kill, _Levels(), _probe, lambda: ENDS.append("trace"))


@pytest.mark.parametrize("query", [{}, {"slot": "0", "wait": "2.5"}])
def test_workers_are_replaced(query: dict[str, str]) -> None:
    assert _order(query) == {"replaced": [dataclasses.asdict(REPLACED)]}


POD = {"namespace": "shop", "name": "web", "netns": "/run/netns/x"}


@pytest.mark.parametrize(("more", "expected"), [({}, ""), ({"uid": "7"}, "7")])
def test_a_pod_may_start(more: dict[str, str], expected: str) -> None:
    async def start(namespace: str, name: str, uid: str, netns: str) -> str:
        assert (namespace, name, uid, netns) == ("shop", "web", expected, "/run/netns/x")
        return "OPTED_OUT"

    orders = make_orders(lambda: 0, _replace, _kill, _Levels(), _probe, lambda: None, start)
    assert asyncio.run(orders["/pods/start"](POD | more)) == {"not_captured": "OPTED_OUT"}  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is named by"):
        asyncio.run(orders["/pods/start"]({**POD, "name": ""}))  # type: ignore[arg-type]


def test_an_agent_without_kubernetes_lets_no_pod_start() -> None:
    with pytest.raises(ConfigError, match="takes its pods from a file"):
        _order(POD, "/pods/start")


@pytest.mark.parametrize("query", [{"slot": "x"}, {"slot": "-1"}, {"wait": "x"}, {"wait": "-1"}, {"wait": "inf"}])
def test_orders_that_are_malformed(query: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is not a"):
        _order(query)


def test_a_trace_is_ended() -> None:
    assert asyncio.run(_awaited(ORDERS["/trace/end"]({}))) == {}
    assert ENDS == ["trace"]


def test_a_trace_begins_as_it_is_asked_for() -> None:
    asked: list[TraceQuestion] = []

    class Tracing:
        async def begin(self, question: TraceQuestion) -> Any:
            asked.append(question)
            return "documents"

    route = make_lasting(Tracing())["/trace"]
    query = {"pod": "shop/web", "peers": "api:80,:15008", "seconds": "2.5", "most": "7", "every": "true"}
    assert asyncio.run(_awaited(route(query))) == "documents"
    assert asked == [TraceQuestion(pod="shop/web", peers=("api:80", ":15008"), seconds=2.5, most=7, is_every=True)]


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def test_a_question() -> None:
    question = parse_question(
        {"source": "a", "destination": "b", "port": "80", "identity": "td/ns/n/sa/s", "plaintext": "true"}
    )
    assert question.identity == Identity("td", "n", "s")
    assert question.is_plaintext
    assert question.port == 80


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": ""}, "needs a source"),
        ({"port": "0"}, "'0' is not a port"),
        ({"port": "65536"}, "is not a port"),
        ({"port": "http"}, "is not a port"),
        ({"identity": "shop/web"}, "--identity"),
    ],
)
def test_questions_that_are_malformed(change: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_question({"source": "a", "destination": "b", "port": "80"} | change)
