# SPDX-License-Identifier: Apache-2.0
"""Metrics and readiness over loopback TCP, and what happens when a port is taken."""

import asyncio
import json
import re
from collections.abc import Callable, Sequence

import pytest

from nodeagent.admin.http import HttpServer
from nodeagent.admin.probes import ReadyServer, StatsServer
from nodeagent.admin.sockets import open_tcp
from nodeagent.errors import PortInUse


@pytest.fixture
def address(held_port: int) -> str:
    return f"127.0.0.1:{held_port}"


def _get(server: HttpServer, path: str, accept: str = "") -> tuple[int, str, bytes]:
    """Status, head and body."""

    async def ask() -> bytes:
        server.listen()
        assert server.address is not None
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(server.run())
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            running.cancel()
        return answer

    head, _, body = asyncio.run(ask()).partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


def _render(accept: str) -> tuple[bytes, str]:
    return f"asked for {accept}\n".encode(), "text/plain; version=1.0.0"


@pytest.mark.parametrize("path", ["/metrics", "/stats/prometheus"])
def test_metrics(address: str, path: str) -> None:
    status, head, body = _get(StatsServer(address, _render), path, "application/openmetrics-text")
    assert (status, body) == (200, b"asked for application/openmetrics-text\n")
    assert "Content-Type: text/plain; version=1.0.0" in head


@pytest.mark.parametrize(
    ("reasons", "status"), [([], 200), (["no mesh state yet", "pod shop/web is not captured"], 503)]
)
def test_readiness(address: str, reasons: Sequence[str], status: int) -> None:
    found, _, body = _get(ReadyServer(address, lambda: reasons), "/healthz/ready")
    assert found == status
    assert json.loads(body) == {"schema": "nodeagent/v1", "ready": not reasons, "reasons": list(reasons)}


def test_an_agent_that_is_not_ready_lives(address: str) -> None:
    assert _get(ReadyServer(address, lambda: ["the mesh is not known"]), "/healthz/live")[0] == 200


@pytest.mark.parametrize(
    "make",
    [lambda address: StatsServer(address, _render), lambda address: ReadyServer(address, list)],
)
def test_nothing_else_is_served(address: str, make: Callable[[str], HttpServer]) -> None:
    assert _get(make(address), "/config_dump")[0] == 404


def test_a_taken_port_is_told(address: str) -> None:
    with open_tcp(address), pytest.raises(PortInUse, match=re.escape(address)) as caught:
        ReadyServer(address, list).listen()
    assert caught.value.exit_code == 5
    assert "ss -ltnp" in caught.value.check
