# SPDX-License-Identifier: Apache-2.0
"""The admin socket of an agent or a control plane: JSON over HTTP/1.1 at a Unix socket that only root may open.

GET only looks; the few things that can be ordered are POSTs, without a body. One that lasts is answered by a document a
line for as long as somebody reads them, and ends then.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from nodeagent.admin.http import Answer, HttpServer, Request, Response, Stream
from nodeagent.admin.schema import SCHEMA, error_body
from nodeagent.admin.sockets import file_number, open_unix, remove_own
from nodeagent.errors import ConfigError, NodeagentError

Route: TypeAlias = Callable[[Mapping[str, str]], Awaitable[Mapping[str, object]]]
"""From the query's fields to the members of the answer. A NodeagentError becomes the command's own error."""


class Documents(Protocol):
    """What an order that lasts has to tell; ends by itself, or when it is closed."""

    def __aiter__(self) -> AsyncIterator[Mapping[str, object]]: ...

    async def aclose(self) -> None:
        """Called once, whether or not any was asked for."""


LastingOrder: TypeAlias = Callable[[Mapping[str, str]], Awaitable[Documents]]


class AdminServer:
    def __init__(
        self,
        path: str,
        routes: Mapping[str, Route],
        orders: Mapping[str, Route] | None = None,
        lasting: Mapping[str, LastingOrder] | None = None,
        *,
        whose: str = "agent",
    ) -> None:
        """`routes` (GET), `orders` and `lasting` (POST) by path, such as `/status`.

        `whose` socket this is, for its errors.
        """
        self._path, self._whose = path, whose
        self._lasting = dict(lasting or {})
        self._routes = {"GET": dict(routes), "POST": dict(orders or {})}
        self._server = HttpServer(functools.partial(open_unix, path), self._respond)
        self._file: tuple[int, int] | None = None

    @property
    def bugs(self) -> int:
        return self._server.bugs

    def listen(self) -> None:
        self._server.listen()
        self._file = file_number(Path(self._path))

    async def run(self) -> None:
        """Until cancelled; then the socket's file goes, unless a successor has put its own there."""
        self.listen()
        try:
            await self._server.run()
        finally:
            remove_own(Path(self._path), self._file)

    async def _respond(self, request: Request) -> Answer:
        route = self._routes[request.method].get(request.path)
        lasting = self._lasting.get(request.path) if request.method == "POST" else None
        if route is None and lasting is None:
            words = f"this {self._whose} has no {request.path}"
            check = f"Is the {self._whose} of another release than this command? `nodeagent version` tells."
            return _json(404, error_body(ConfigError(words, check=check)))
        try:
            if lasting is not None:
                return Stream(_Lines(await lasting(request.query)), "application/x-ndjson")
            assert route is not None
            return _json(200, {"schema": SCHEMA, **await route(request.query)})
        except NodeagentError as error:
            return _json(400 if isinstance(error, ConfigError) else 503, error_body(error))


class _Lines:
    """Each document with the schema; an error that ends them is the last."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._next = aiter(documents)
        self._has_failed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._has_failed:
            raise StopAsyncIteration
        try:
            document: Mapping[str, object] = {"schema": SCHEMA, **await anext(self._next)}
        except NodeagentError as error:
            self._has_failed, document = True, error_body(error)
        return msgspec.json.encode(document) + b"\n"

    async def aclose(self) -> None:
        await self._documents.aclose()


def _json(status: int, body: Mapping[str, object]) -> Response:
    return Response(status, msgspec.json.encode(body) + b"\n")
