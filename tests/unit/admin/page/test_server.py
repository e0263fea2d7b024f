# SPDX-License-Identifier: Apache-2.0
"""What a browser is given, what anybody else is refused, and that viewers are few and none of them keeps a place."""

import asyncio
import contextlib
import itertools
import json
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from nodeagent.admin import http
from nodeagent.admin.page import feed as feeds
from nodeagent.admin.page.guard import HEADERS
from nodeagent.admin.page.server import MAX_VIEWERS, PageServer
from nodeagent.errors import AgentUnreachable, ConfigError

PATIENCE_SECONDS = 60
MOST_BYTES = 100 * 1024
HOST = "localhost"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LOOK_SECONDS", 0.01)


async def _node(route: str, query: Mapping[str, str]) -> Mapping[str, Any]:
    match route:
        case "/explain" if query.get("source") == "nobody":
            raise ConfigError("nothing called nobody", check="Did you mean somebody?")
        case "/explain" if query.get("source") == "away":
            raise AgentUnreachable("no agent answers")
        case "/explain":
            return {"verdict": "ALLOWED", "asked": dict(query)}
        case "/status":
            return {"since": "", "generation": 1, "in_kernel": 0, "workers": []}
        case "/flows":
            return {"flows": [], "cursor": "x-0", "has_more": False, "lost": 0}
        case _:
            return {route.removeprefix("/"): [], "certificates": []}


def _with(path: Path, play: Callable[[PageServer], Awaitable[None]]) -> None:
    async def both() -> None:
        server = PageServer(str(path), {"node-a": _node, "node-b": _node})
        server.listen()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(server.run())
            await asyncio.sleep(0)  # a task that is cancelled before it has begun does nothing at all
            async with asyncio.timeout(PATIENCE_SECONDS):
                await play(server)
            running.cancel()
        assert server.bugs == 0

    asyncio.run(both())


async def _until(is_so: Callable[[], bool]) -> None:
    for _ in itertools.count():
        if is_so():
            return
        await asyncio.sleep(0.01)


async def _open(path: Path, target: str, *lines: str, method: str = "GET") -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, str(path))
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *(lines or (f"Host: {HOST}",)), "", ""])
    await loop.sock_sendall(client, head.encode())
    return client


async def _get(path: Path, target: str, *lines: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    with await _open(path, target, *lines, method=method) as client:
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while some := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
                received += some
    head, _, body = received.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    return int(first.split(" ")[1]), dict(line.split(": ", 1) for line in rest), body


async def _event(client: socket.socket) -> dict[str, Any]:
    received = b""
    while b"\n\n" not in received.partition(b"\r\n\r\n")[2]:
        some = await asyncio.get_running_loop().sock_recv(client, 1 << 16)
        assert some, received
        received += some
    found: dict[str, Any] = json.loads(received.partition(b"data: ")[2].partition(b"\n\n")[0])
    return found


def test_the_page_is_whole_small_and_asks_for_nothing_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "page.sock"

    async def play(_server: PageServer) -> None:
        size = 0
        for target, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
            status, headers, body = await _get(path, target)
            assert status == 200
            assert headers["Content-Type"].startswith(kind)
            assert headers.items() >= dict(HEADERS).items()
            size += len(body)
            text = body.decode()
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), "an address of elsewhere"
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
            assert " style=" not in text
            assert not re.search(r"<script(?! src)|\son[a-z]+=", text)
        assert size <= MOST_BYTES

    _with(path, play)


@pytest.mark.parametrize(
    ("target", "lines", "method", "status"),
    [
        ("/", ["Host: attacker.example"], "GET", 403),
        ("/", [], "GET", 200),
        ("/events", ["Host: localhost", "Origin: http://attacker.example"], "GET", 403),
        ("/explain", ["Host: localhost", "Sec-Fetch-Site: cross-site"], "GET", 403),
        ("/", [f"Host: {HOST}"], "POST", 405),
        ("/nowhere", [f"Host: {HOST}"], "GET", 404),
        ("/status", [f"Host: {HOST}"], "GET", 404),
        ("/../page.js", [f"Host: {HOST}"], "GET", 404),
        ("/events?node=node-c", [f"Host: {HOST}"], "GET", 404),
        ("/explain?node=%0d%0aX:y", [f"Host: {HOST}"], "GET", 404),
    ],
)
def test_what_is_answered(tmp_path: Path, target: str, lines: list[str], method: str, status: int) -> None:
    path = tmp_path / "page.sock"

    async def play(_server: PageServer) -> None:
        found, headers, _ = await _get(path, target, *lines, method=method)
        assert found == status
        assert "X" not in headers

    _with(path, play)


def test_questions_go_to_the_node_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "page.sock"

    async def play(_server: PageServer) -> None:
        assert json.loads((await _get(path, "/nodes"))[2])["nodes"] == ["node-a", "node-b"]
        asked = json.loads((await _get(path, "/explain?node=node-b&source=web&port=1"))[2])
        assert asked["asked"] == {"source": "web", "port": "1"}
        status, _, body = await _get(path, "/explain?source=nobody")
        assert (status, json.loads(body)["check"]) == (400, "Did you mean somebody?")
        assert (await _get(path, "/explain?source=away"))[0] == 503

    _with(path, play)


def test_viewers_are_few_and_a_place_is_free_again_when_one_leaves(tmp_path: Path) -> None:
    path = tmp_path / "page.sock"

    async def play(server: PageServer) -> None:
        with contextlib.ExitStack() as viewers:
            clients = [viewers.enter_context(await _open(path, "/events")) for _ in range(MAX_VIEWERS)]
            for client in clients:
                assert (await _event(client))["status"]["generation"] == 1
            status, _, body = await _get(path, "/events")
            assert (status, b"viewers look already" in body) == (503, True)
            assert (await _get(path, "/"))[0] == 200
        await _until(lambda: not server._viewers)  # their ends are noticed at the next piece
        with await _open(path, "/events") as client:
            await _event(client)

    _with(path, play)


def test_a_viewer_who_reads_nothing_is_let_go_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.sock"
    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(feeds, "_encode", lambda _body: b"x" * 10_000_000)  # more than the sockets hold

    async def play(server: PageServer) -> None:
        with await _open(path, "/events"):
            await _until(lambda: server._viewers == 1)
            assert (await _get(path, "/nodes"))[0] == 200
            await _until(lambda: server._viewers == 0)

    _with(path, play)


def test_it_listens_at_loopback_only(tmp_path: Path) -> None:
    for address in ("0.0.0.0:15080", "[::]:15080", "192.0.2.1:80", "page.sock", "127.0.0.1"):
        with pytest.raises(ConfigError, match="--page"):
            PageServer(address, {"node-a": _node})


def test_its_socket_is_its_owners_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "page.sock"

    async def play(server: PageServer) -> None:
        assert server.address is None
        assert path.stat().st_mode & 0o777 == 0o600

    _with(path, play)
    assert not path.exists()
