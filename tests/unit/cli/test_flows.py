# SPDX-License-Identifier: Apache-2.0
"""`nodeagent flows`: pages, filters, files, and following through a restart of the agent."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.cli.main import run
from nodeagent.errors import AgentUnreachable
from tests.unit.cli.test_flow_filter import FLOW

Call = Callable[..., tuple[int, str, str]]


def _flow(number: int, **changes: Any) -> dict[str, Any]:
    more = {"seconds": number / 1000, "sent_bytes": number, "received_bytes": 0, "error": "", "check": ""}
    return FLOW | more | changes


def _page(*flows: dict[str, Any], cursor: str = "run-1", has_more: bool = False, lost: int = 0) -> dict[str, Any]:
    return {"schema": "nodeagent/v1", "flows": list(flows), "cursor": cursor, "has_more": has_more, "lost": lost}


class Script:
    """Answers one question after the other; then somebody presses Ctrl-C."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[dict[str, str]] = []

    def fetch(self, route: str, **query: str) -> Any:
        assert route == "/flows"
        self.asked.append(query)
        if not self.answers:
            raise KeyboardInterrupt
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    monkeypatch.setattr(AdminClient, "fetch", lambda _self, route, **query: script.fetch(route, **query))
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    return script


def _sent(out: str) -> list[str]:
    """The column TX."""
    return [line.split()[9] for line in out.splitlines() if not line.startswith("TIME")]


def test_the_table(script: Script, call: Call) -> None:
    script.answers = [_page(_flow(7))]
    status, out, err = call("flows")
    assert (status, err) == (0, "")
    assert [cell.strip() for cell in out.splitlines()[0].split("  ") if cell] == [
        "TIME", "DIR", "SRC", "DST", "SERVICE", "VERDICT", "REASON", "POLICY", "PATH", "TX", "RX", "DUR"
    ]  # fmt: skip
    assert out.splitlines()[1].split() == [
        "13:45:41.750", "outbound", "shop/web-7f:40000", "data/db-0:5432", "db.data.svc.cluster.local", "denied",
        "policy_not_allowed", "data/db-allow", "tunnel", "7", "B", "0", "B", "0.007s",
    ]  # fmt: skip
    assert script.asked == [{"last": "20"}]


def test_all_pages_are_read(script: Script, call: Call) -> None:
    script.answers = [_page(_flow(1), _flow(2), cursor="run-2", has_more=True), _page(_flow(3), cursor="run-3")]
    assert _sent(call("flows", "--last", "1000")[1]) == ["1", "2", "3"]
    assert script.asked == [{"last": "1000"}, {"after": "run-2"}]


def test_the_last_of_those_that_match(script: Script, call: Call) -> None:
    script.answers = [_page(_flow(1), _flow(2), _flow(3), _flow(4, verdict="allowed"))]
    assert _sent(call("flows", "--last", "2", "--verdict", "denied")[1]) == ["2", "3"]
    assert script.asked == [{}], "what matches may be older than the last two"


def test_since_is_not_cut_to_the_usual_number(script: Script, call: Call) -> None:
    script.answers = [_page(*(_flow(number, ended="2999-01-01T00:00:00.000000Z") for number in range(30)), _flow(99))]
    assert len(_sent(call("flows", "--since", "5m")[1])) == 30


def test_lines_and_documents(script: Script, call: Call) -> None:
    script.answers = [_page(_flow(1), _flow(2))]
    lines = [json.loads(line) for line in call("flows", "-o", "jsonl")[1].splitlines()]
    assert [(line["schema"], line["kind"], line["sent_bytes"]) for line in lines] == [
        ("nodeagent/v1", "flows", 1),
        ("nodeagent/v1", "flows", 2),
    ]
    script.answers = [_page(_flow(1), _flow(2))]
    assert json.loads(call("flows", "-o", "json")[1]) == {"schema": "nodeagent/v1", "flows": [_flow(1), _flow(2)]}


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_a_file_is_read_as_an_agent_would_answer(script: Script, call: Call, tmp_path: Path, form: str) -> None:
    script.answers = [_page(*(_flow(number) for number in range(30)))]
    file = tmp_path / "flows"
    file.write_text(call("flows", "--last", "30", "-o", form)[1])
    asked = len(script.asked)
    assert len(_sent(call("flows", "--input", str(file))[1])) == 30
    assert _sent(call("flows", "--input", str(file), "--last", "1", "--from", "shop/")[1]) == ["29"]
    assert call("flows", "--input", str(file), "--from", "other/", "--no-headers") == (0, "", "")
    assert len(script.asked) == asked


@pytest.mark.parametrize("text", ["no json\n", "[]\n", '{"flows": 7}\n', '{"a": 1}\n', '"x"\n', "\xff\n"])
def test_a_file_of_something_else(call: Call, tmp_path: Path, text: str) -> None:
    file = tmp_path / "flows.jsonl"
    file.write_bytes((json.dumps(_flow(1)) + "\n\n").encode() + text.encode("latin-1"))
    status, out, err = call("flows", "--input", str(file))
    assert (status, out) == (2, "")
    assert "flows.jsonl:3: not a flow" in err


def test_wrong_use(call: Call, tmp_path: Path) -> None:
    (tmp_path / "flows").write_text("")
    assert call("flows", "-f", "--input", str(tmp_path / "flows"))[0] == 2
    assert call("flows", "--input", str(tmp_path / "other"))[0] == 2
    assert call("flows", "--since", "soon")[0] == 2
    assert call("flows", "--port", "0")[0] == 2


def test_following_outlives_the_agent(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    away = AgentUnreachable("no agent answers at /run/x")
    script.answers = [
        _page(_flow(1), cursor="run-1"),
        _page(cursor="run-1"),
        away,
        away,
        _page(_flow(12345), cursor="new-5", lost=3),
        _page(_flow(2), _flow(3, verdict="allowed"), cursor="new-7"),
    ]
    status = run(["flows", "--follow", "--verdict", "denied"])
    out, err = capsys.readouterr()
    assert status == 130
    assert _sent(out) == ["1", "12.1", "2"]
    assert out.count("TIME") == 1
    assert err.splitlines()[:2] == [
        "no agent answers at /run/x; waiting for it",
        "3 flows were more than the agent keeps, and are not shown",
    ]
    wait = {"wait": "5"}
    assert script.asked == [{}, *({"after": "run-1"} | wait,) * 4, {"after": "new-5"} | wait, {"after": "new-7"} | wait]


def test_following_begins_only_with_an_agent(script: Script, call: Call) -> None:
    script.answers = [AgentUnreachable("no agent answers at /run/x")]
    assert call("flows", "-f")[0] == 3


def test_lines_that_come_later_stand_below_the_former(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.answers = [_page(_flow(1)), _page(_flow(2, policy="")), _page(_flow(3))]
    run(["flows", "-f", "--no-headers"])
    lines = capsys.readouterr().out.splitlines()
    assert len({line.index("tunnel") for line in lines}) == 1
