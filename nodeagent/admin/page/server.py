# SPDX-License-Identifier: Apache-2.0
"""Serves the page at loopback or a Unix socket, to a few viewers at a time. It only ever asks; nothing can be ordered.

One server may show several nodes, as the demo's does: `?node=` says which, and without it is the first.
"""

import asyncio
import functools
import importlib.resources
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import msgspec

from nodeagent.admin.http import Answer, BadRequest, HttpServer, Request, Response, Stream
from nodeagent.admin.page.feed import Ask, Feed
from nodeagent.admin.page.guard import HEADERS, obstacle
from nodeagent.admin.schema import SCHEMA, error_body
from nodeagent.admin.sockets import file_number, open_tcp, open_unix, remove_own
from nodeagent.config import check_page_address
from nodeagent.errors import ConfigError, NodeagentError

MAX_VIEWERS = 8
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}


class PageServer(HttpServer):
    def __init__(self, address: str, nodes: Mapping[str, Ask]) -> None:
        """`address` as in `--page`, not empty; `nodes`, by name, each asked as its admin socket is.

        Raises ConfigError for an address that is not loopback.
        """
        check_page_address(address)
        self._path = Path(address) if Path(address).is_absolute() else None
        super().__init__(functools.partial(open_tcp if self._path is None else open_unix, address), self._serve_page)
        self._nodes = dict(nodes)
        self._feeds = {name: Feed(ask, self.met_bug) for name, ask in nodes.items()}
        self._viewers = 0
        self._file: tuple[int, int] | None = None
        self._files = {path: (_read(name), kind) for path, (name, kind) in _FILES.items()}

    def listen(self) -> None:
        super().listen()
        self._file = file_number(self._path) if self._path is not None else None

    async def run(self) -> None:
        self.listen()
        try:
            async with asyncio.TaskGroup() as group:
                for name, feed in self._feeds.items():
                    group.create_task(feed.run(), name=f"feed of {name}")
                group.create_task(super().run(), name="page")
        finally:
            if self._path is not None:
                remove_own(self._path, self._file)

    async def _serve_page(self, request: Request) -> Answer:
        refused = obstacle(request.headers)
        if refused:
            return _text(403, refused)
        if request.method != "GET":
            raise BadRequest(405, "this page only looks: GET is served")
        if request.path in self._files:
            body, kind = self._files[request.path]
            return Response(200, body, kind, HEADERS)
        match request.path:
            case "/nodes":
                return _json(200, {"nodes": list(self._nodes)})
            case "/events":
                return self._events(self._name(request))
            case "/explain":
                return await self._explain(self._nodes[self._name(request)], request.query)
            case _:
                return _text(404, "there is no such page")

    def _name(self, request: Request) -> str:
        name = request.query.get("node", next(iter(self._nodes)))
        if name not in self._nodes:
            raise BadRequest(404, f"no node {name[:64]!r} here")
        return name

    def _events(self, name: str) -> Answer:
        if self._viewers >= MAX_VIEWERS:
            return _text(503, f"{MAX_VIEWERS} viewers look already; close one of their tabs")
        self._viewers += 1
        return Stream(_Viewing(self._feeds[name], self._left), "text/event-stream", HEADERS)

    def _left(self) -> None:
        self._viewers -= 1

    async def _explain(self, ask: Ask, query: Mapping[str, str]) -> Response:
        try:
            answer = await ask("/explain", {name: value for name, value in query.items() if name != "node"})
        except NodeagentError as error:
            return _json(400 if isinstance(error, ConfigError) else 503, error_body(error))
        return _json(200, answer)


class _Viewing:
    """One viewer's events, and their place. A generator that was never begun would not give it back."""

    def __init__(self, feed: Feed, left: Callable[[], None]) -> None:
        self._events, self._left = feed.follow(), left

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._events

    async def aclose(self) -> None:
        await self._events.aclose()
        self._left()


def _read(name: str) -> bytes:
    return (importlib.resources.files("nodeagent.admin.page") / name).read_bytes()


def _text(status: int, words: str) -> Response:
    return Response(status, f"{words}\n".encode(), "text/plain; charset=utf-8", HEADERS)


def _json(status: int, body: Mapping[str, object]) -> Response:
    return Response(status, msgspec.json.encode({"schema": SCHEMA, **body}) + b"\n", headers=HEADERS)
