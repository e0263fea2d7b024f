# SPDX-License-Identifier: Apache-2.0
"""`nodeagent trace`: hops as they come, a command and its end, and what stands in the way."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.cli import trace as module
from nodeagent.errors import ConfigError
from nodeagent.kernel import netns

Call = Callable[..., tuple[int, str, str]]
BEGUN = {"begun": {"namespace": "shop", "pod": "web", "netns": "/run/netns/web"}}
END = {"end": {"why": "time", "hops": 2, "alike": 3, "lost": 0}}
SYN = {
    "time": "2026-08-20T13:45:53.250000Z",
    "place": "from_pod",
    "device": "veth3",
    "what": "SYN",
    "bytes": 0,
    "source": {"namespace": "shop", "workload": "web", "address": "10.0.0.1:40000"},
    "destination": {"namespace": "", "workload": "", "address": "10.0.0.2:80"},
    "outcome": "STEERED",
    "verdict": "redirect",
    "next": "at_proxy",
    "words": "steered to the proxy",
    "policy": "",
    "check": "",
    "id": "",
}
DENIED = SYN | {
    "place": "proxy",
    "device": "",
    "what": "outbound",
    "outcome": "policy_denied",
    "verdict": "denied",
    "next": "nowhere",
    "words": "refused; decided by shop/no-web",
    "policy": "shop/no-web",
    "check": "A DENY policy matches.",
    "id": "7-1",
}
HOPS = {"hops": [SYN, DENIED]}


class Agent:
    def __init__(self) -> None:
        self.documents: list[Any] = [BEGUN, HOPS, {}, END]
        self.asked: list[dict[str, str]] = []
        self.has_been_told_to_end = False
        self.was_left = 0

    def follow(self, route: str, *, takes_seconds: float, **query: str) -> Iterator[dict[str, Any]]:
        assert (route, takes_seconds >= 60) == ("/trace", True)
        self.asked.append(query)
        try:
            for document in self.documents:
                if isinstance(document, Exception):
                    raise document
                yield {"schema": "nodeagent/v1", **document}
                while document == {} and not self.has_been_told_to_end:
                    yield {"schema": "nodeagent/v1"}
        finally:
            self.was_left += 1

    def order(self, route: str) -> dict[str, Any]:
        assert route == "/trace/end"
        self.has_been_told_to_end = True
        return {}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    made = Agent()
    monkeypatch.setattr(AdminClient, "follow", lambda _self, route, **query: made.follow(route, **query))
    monkeypatch.setattr(AdminClient, "order", lambda _self, route: made.order(route))
    monkeypatch.setattr(module, "AFTER_SECONDS", 0.0)
    return made


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Namespaces in which something was begun."""
    seen: list[str] = []

    @contextlib.contextmanager
    def enter(path: str) -> Iterator[None]:
        seen.append(path)
        yield

    monkeypatch.setattr(netns, "enter_netns", enter)
    return seen


def test_the_table(agent: Agent, call: Call) -> None:
    agent.has_been_told_to_end = True
    status, out, err = call("trace", "--pod", "shop/web")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["TIME", "PLACE", "WHAT", "SRC", "DST", "VERDICT", "OUTCOME", "NEXT", "MEANING"],
        [
            "13:45:53.250000", "from_pod", "veth3", "SYN", "shop/web:40000", "10.0.0.2:80", "redirect", "STEERED",
            "at_proxy", "steered", "to", "the", "proxy",
        ],
        [
            "13:45:53.250000", "proxy", "outbound", "shop/web:40000", "10.0.0.2:80", "denied", "policy_denied",
            "nowhere", "refused;", "decided", "by", "shop/no-web.", "A", "DENY", "policy", "matches.",
        ],
    ]  # fmt: skip
    assert err.splitlines() == [
        "tracing shop/web",
        "the trace has ended: its time is up. 2 hops, and 3 packets like these.",
    ]
    assert agent.asked == [{"pod": "shop/web", "peers": "", "most": "1000", "seconds": "10", "every": "false"}]
    assert agent.was_left == 1


def test_what_is_asked_for(agent: Agent, call: Call) -> None:
    agent.has_been_told_to_end = True
    agent.documents[-1] = {"end": END["end"] | {"why": "count", "alike": 0, "lost": 5}}
    words = ("--pod", "web", "--peer", "db:80", "--peer", ":443", "--most", "2", "--seconds", "0.5", "--every")
    _, out, err = call("trace", *words, "--no-headers", "-o", "wide")
    assert agent.asked == [{"pod": "web", "peers": "db:80,:443", "most": "2", "seconds": "0.5", "every": "true"}]
    assert "10.0.0.1:40000" in out
    assert "so many hops were asked for. 2 hops." in err
    assert "5 packets were more than there was room for" in err


def test_documents(agent: Agent, call: Call) -> None:
    agent.has_been_told_to_end = True
    lines = [json.loads(line) for line in call("trace", "--pod", "web", "-o", "jsonl")[1].splitlines()]
    assert lines == [{"schema": "nodeagent/v1", "kind": "hops", **hop} for hop in (SYN, DENIED)]
    assert json.loads(call("trace", "--pod", "web", "-o", "json")[1]) == {
        "schema": "nodeagent/v1",
        **HOPS,
        **END,
        "command_status": None,
    }
    status, _, err = call("trace", "--pod", "web", "-o", "name")
    assert (status, "have no names" in err) == (2, True)


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3, 1)])
def test_a_command_ends_the_trace(agent: Agent, call: Call, entered: list[str], code: int, status: int) -> None:
    program = f"import sys; print('said'); sys.exit({code})"
    found, out, err = call("trace", "--pod", "web", "-o", "json", "--", sys.executable, "-c", program)
    assert (found, entered, agent.has_been_told_to_end) == (status, ["/run/netns/web"], True)
    assert json.loads(out)["command_status"] == code, "what the command says is no part of the answer"
    assert f"ended with status {code}" in err
    assert agent.asked[0]["seconds"] == "60"


def test_a_command_that_outlives_the_trace_is_ended(agent: Agent, call: Call, entered: list[str]) -> None:
    agent.documents = [BEGUN, END]
    found, _, err = call("trace", "--pod", "web", "--", "/bin/sleep", "600")
    assert (found, entered) == (1, ["/run/netns/web"])
    assert "/bin/sleep was ended by SIGTERM" in err


def test_one_that_does_not_heed_is_killed(
    agent: Agent, call: Call, entered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SIGNAL_SECONDS", 0.01)
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    agent.documents = [BEGUN, END]
    _, _, err = call("trace", "--pod", "web", "--", sys.executable, "-c", ignoring)
    assert "was ended by SIG" in err
    assert len(entered) == 1


def test_a_command_that_is_none(agent: Agent, call: Call, entered: list[str]) -> None:
    status, _, err = call("trace", "--pod", "web", "--", "/nonsuch")
    assert (status, "/nonsuch cannot be run: No such file" in err) == (2, True)
    assert (len(entered), agent.was_left) == (1, 1)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (PermissionError(1, "Operation not permitted"), 4, "Run it as root"),
        (FileNotFoundError(2, "No such file or directory"), 5, "on the pod's node"),
    ],
)
def test_a_namespace_that_cannot_be_entered(
    agent: Agent, call: Call, monkeypatch: pytest.MonkeyPatch, error: OSError, status: int, words: str
) -> None:
    def refuse(_path: str) -> None:
        raise error

    monkeypatch.setattr(netns, "enter_netns", refuse)
    found, _, err = call("trace", "--pod", "web", "--", "/bin/true")
    assert (found, words in err, "/run/netns/web cannot be entered" in err) == (status, True, True)
    assert agent.was_left == 1


def test_an_agent_that_refuses_and_one_that_goes(agent: Agent, call: Call) -> None:
    agent.documents = [ConfigError("no pod of this node is called 'web'")]
    assert call("trace", "--pod", "web")[0] == 2
    agent.documents = [BEGUN, HOPS]
    status, out, err = call("trace", "--pod", "web")
    assert (status, "SYN" in out) == (3, True)
    assert "the agent has ended the trace, or itself" in err


def test_wrong_use(agent: Agent, call: Call) -> None:
    assert call("trace")[0] == 2
    assert call("trace", "--pod", "web", "--seconds", "0")[0] == 2
    assert call("trace", "--pod", "web", "--most", "0")[0] == 2
    assert agent.asked == []
