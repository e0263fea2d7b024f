# SPDX-License-Identifier: Apache-2.0
"""What istioctl and Kiali ask a ztunnel over loopback, and who is refused."""

import asyncio
import json
from collections.abc import Callable

import pytest

from nodeagent.admin.compatible import CompatibleServer
from nodeagent.admin.config_dump import Subject
from nodeagent.admin.state import AgentState
from nodeagent.config import Config
from nodeagent.errors import ConfigError
from nodeagent.logs.levels import LogLevels


class Levels:
    """Takes notes; `loud` cannot be."""

    def __init__(self) -> None:
        self.current = LogLevels("info")
        self.changes: list[tuple[str, bool]] = []

    def change(self, text: str, *, is_reset: bool = False) -> LogLevels:
        if text == "loud":
            raise ConfigError("'loud' is no level of the log", check="Levels are few.")
        self.changes.append((text, is_reset))
        self.current = LogLevels(text or "info")
        return self.current


@pytest.fixture
def levels() -> Levels:
    return Levels()


Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(held_port: int, levels: Levels, state_of: Callable[..., AgentState]) -> Ask:
    """Status and body of a request."""

    async def look() -> Subject:
        return Subject.of(state_of(), (), Config(node="node-a"))

    def asked(target: str, *headers: str) -> tuple[int, str]:
        async def talk() -> bytes:
            server = CompatibleServer(f"127.0.0.1:{held_port}", levels, look)
            server.listen()
            assert server.address is not None
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                running = group.create_task(server.run())
                reader, writer = await asyncio.open_connection(*server.address)
                writer.write("\r\n".join([f"{target} HTTP/1.1", *(headers or ("Host: localhost",)), "\r\n"]).encode())
                answer = await reader.read()
                writer.close()
                running.cancel()
            assert server.bugs == 0
            return answer

        head, _, body = asyncio.run(talk()).partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    return asked


def test_a_dump_is_json(ask: Ask) -> None:
    status, body = ask("GET /config_dump")
    assert status == 200
    assert [one["name"] for one in json.loads(body)["services"]] == ["db", "empty"]


@pytest.mark.parametrize(
    ("target", "changes", "told"),
    [
        ("GET /logging", [], "info"),
        ("POST /logging", [], "info"),
        ("POST /logging?level=debug", [("debug", False)], "debug"),
        ("POST /logging?level=xds:debug,info", [("xds:debug,info", False)], "xds:debug,info"),
        pytest.param("POST /logging?level=info&reset", [("info", True)], "info", id="as istioctl resets"),
        ("POST /logging?reset", [("", True)], "info"),
    ],
)
def test_levels(ask: Ask, levels: Levels, target: str, changes: list[tuple[str, bool]], told: str) -> None:
    assert ask(target) == (200, f"current log level is {told}\n")
    assert levels.changes == changes


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("POST /logging?level=loud", 400, "'loud' is no level"),
        ("GET /logging?level=debug", 405, "by POST"),
        ("POST /config_dump", 405, "only GET"),
        ("POST /quitquitquit", 404, "/config_dump and /logging"),
    ],
)
def test_what_is_not_served(ask: Ask, levels: Levels, target: str, status: int, words: str) -> None:
    found, body = ask(target)
    assert found == status
    assert words in body
    assert levels.changes == []


@pytest.mark.parametrize("host", ["localhost:15000", "127.0.0.1:15000", "[::1]:15000", "127.0.0.1", "[::1]"])
def test_a_tool_on_this_node_is_served(ask: Ask, host: str) -> None:
    assert ask("GET /logging", f"Host: {host}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(("Host: rebound.example:15000",), id="a name that was made to mean loopback"),
        pytest.param(("Host: 10.0.0.1:15000",), id="another address"),
        pytest.param(("Host: localhost", "Origin: https://example.com"), id="a page from elsewhere"),
    ],
)
def test_a_browser_is_refused(ask: Ask, levels: Levels, headers: tuple[str, ...]) -> None:
    status, _ = ask("POST /logging?level=debug", *headers)
    assert status == 403
    assert levels.changes == []
