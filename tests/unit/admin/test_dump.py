# SPDX-License-Identifier: Apache-2.0
"""What is asked of a dump is answered as the agent would have: byte for byte, by the same code."""

import asyncio
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodeagent.admin.dump import DumpedAgent, dump, whole_history
from nodeagent.admin.dump import state_of as state_of_dump
from nodeagent.admin.explain import Question, explain
from nodeagent.admin.routes import make_routes
from nodeagent.admin.schema import SCHEMA
from nodeagent.admin.state import AgentState, OpenConnection
from nodeagent.errors import AgentUnreachable, ConfigError
from nodeagent.model.address import Cidr, Ip
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.record import ConnectionRecord, PolicyHits
from nodeagent.model.security import Revocations
from nodeagent.model.workload import Service, Vip
from nodeagent.routing.route import Target
from nodeagent.telemetry import flow_history
from nodeagent.telemetry.flow_history import FlowHistory

StateOf = Callable[..., AgentState]

QUESTIONS: list[tuple[str, dict[str, str]]] = [
    ("/version", {}),
    ("/status", {}),
    ("/pods", {}),
    ("/workloads", {}),
    ("/services", {}),
    ("/policies", {}),
    ("/policies", {"name": "shop/db-allow"}),
    ("/certs", {}),
    ("/connections", {}),
    ("/edges", {}),
    ("/explain", {"source": "shop/web", "destination": "shop/db", "port": "5432"}),
    ("/explain", {"source": "batch/job", "destination": "shop/db", "port": "5432"}),
]


@pytest.fixture
def history(connection: OpenConnection) -> FlowHistory:
    made = FlowHistory()
    for number in range(5):
        made.ended(msgspec.structs.replace(connection.record, id=number, reason="closed", seconds=1.5))
    return made


@pytest.fixture
def state(state_of: StateOf) -> AgentState:
    return state_of(policy_hits={"shop/db-allow": PolicyHits(2, 1.0)}, rejected=("shop/x: odd",))


@pytest.fixture
def written(tmp_path: Path, state: AgentState, connection: OpenConnection, history: FlowHistory) -> Path:
    document = {"schema": SCHEMA, **dump(state, [connection], asyncio.run(whole_history(history)))}
    path = tmp_path / "dump.json"
    path.write_bytes(msgspec.json.encode(document))
    return path


@pytest.mark.parametrize(("route", "query"), QUESTIONS)
def test_the_answer_is_the_agents(
    written: Path,
    state: AgentState,
    connection: OpenConnection,
    history: FlowHistory,
    route: str,
    query: dict[str, str],
) -> None:
    async def connections() -> list[OpenConnection]:
        return [connection]

    async def answer() -> Any:
        return await make_routes(lambda: state, connections, history)[route](query)

    live = json.loads(msgspec.json.encode({"schema": SCHEMA, **asyncio.run(answer())}))
    assert DumpedAgent(str(written)).fetch(route, **query) == live


def test_flows(written: Path) -> None:
    agent = DumpedAgent(str(written))
    assert len(agent.fetch("/flows")["flows"]) == 5
    last = agent.fetch("/flows", last="2")
    assert [last["has_more"], last["lost"], len(last["flows"])] == [False, 0, 2]
    assert agent.fetch("/flows", after=last["cursor"])["flows"] == []


def test_the_whole_history_is_more_than_a_page(history: FlowHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_history, "PAGE", 2)
    records: list[ConnectionRecord] = asyncio.run(whole_history(history))
    assert [record.id for record in records] == [0, 1, 2, 3, 4]


def test_a_dump_again_is_the_same(written: Path) -> None:
    assert DumpedAgent(str(written)).fetch("/dump") == json.loads(written.read_bytes())


def test_standard_input(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written.read_bytes())))
    assert DumpedAgent("-").fetch("/version")["version"] == "1.2.3"


def test_it_takes_no_orders_and_answers_what_routes_do(written: Path) -> None:
    agent = DumpedAgent(str(written))
    with pytest.raises(ConfigError, match="takes no orders"):
        agent.order("/certs/renew")
    with pytest.raises(ConfigError, match="does not answer /nothing"):
        agent.fetch("/nothing")
    with pytest.raises(ConfigError, match="no policy 'shop/none'"):
        agent.fetch("/policies", name="shop/none")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "No such file", id="no file"),
        pytest.param(b"", "not what `nodeagent dump` writes", id="empty"),
        pytest.param(b"[]", "not what `nodeagent dump` writes", id="a list"),
        pytest.param(b'{"schema": "nodeagent/v1", "pods": []}', "not what `nodeagent dump` writes", id="an answer"),
        pytest.param(b"\xff\xfe{}", "not what `nodeagent dump` writes", id="no text"),
    ],
)
def test_what_is_no_dump(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        DumpedAgent(str(path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document.update(kind="pods"), "is no dump"),
        (lambda document: document.update(schema="nodeagent/v2"), "is no dump of nodeagent/v1"),
        (lambda document: document["state"].pop("node"), "of another release"),
        (lambda document: document["state"].update(pods="many"), "of another release"),
    ],
)
def test_another_releases_dump(written: Path, change: Callable[[Any], None], words: str) -> None:
    document = json.loads(written.read_bytes())
    change(document)
    written.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=words):
        DumpedAgent(str(written))


def test_a_newer_releases_field_is_left_out(written: Path) -> None:
    document = json.loads(written.read_bytes())
    document["state"]["mood"] = "fine"
    del document["state"]["policy_hits"]
    written.write_text(json.dumps(document))
    assert DumpedAgent(str(written)).fetch("/policies")["policies"][0]["hits"] == 0


def _answer(state: AgentState) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode({"schema": "nodeagent/v1", **dump(state, [], [])}))
    return found


def test_a_state_that_was_an_answer_in_between_says_the_same(state_of: StateOf, mesh: Mesh) -> None:
    block = Service(name="b", namespace="shop", hostname="b", vips=(Vip("", block=Cidr.parse("2001:db8::/32")),))
    mesh.apply(Changes(services=(block,), extensions=(Revocations(source="s", certificates=frozenset({b"x" * 32})),)))
    state = state_of(drawn=frozenset({Target(Ip("10.96.0.5"), 5432)}), rejected=("no",))
    found = state_of_dump(_answer(state))
    assert found.mesh.everything() == state.mesh.everything()
    for name in ("node", "now", "pods", "certificates", "drawn", "rejected", "workers", "kernel"):
        assert getattr(found, name) == getattr(state, name)
    question = Question(source="web", destination="db", port=5432)
    assert explain(found, question) == explain(state, question)


@pytest.mark.parametrize("damage", [{"state": {"pods": [{"pod": "x"}]}}, {"mesh": 3}, {"schema": "nodeagent/v9"}])
def test_what_cannot_be_read_is_an_agent_of_another_release(state_of: StateOf, damage: dict[str, Any]) -> None:
    with pytest.raises(AgentUnreachable, match="cannot be read"):
        state_of_dump(_answer(state_of()) | damage)


def test_a_member_that_every_agent_has(state_of: StateOf) -> None:
    answer = _answer(state_of())
    del answer["state"]["node"]
    with pytest.raises(AgentUnreachable, match="cannot be read"):
        state_of_dump(answer)
