# SPDX-License-Identifier: Apache-2.0
"""The admin listener that istioctl and Kiali expect of a ztunnel: /config_dump and /logging, on loopback.

Whoever can connect to loopback of this node may look, and may say what is logged; nothing else can be ordered here.
Browsers are refused: a page from elsewhere must not reach it in a user's name, by its address or by a name of its own.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Protocol

from nodeagent.admin.config_dump import Subject, config_dump
from nodeagent.admin.http import BadRequest, HttpServer, Request, Response
from nodeagent.admin.page.guard import is_loopback
from nodeagent.admin.sockets import open_tcp
from nodeagent.errors import ConfigError
from nodeagent.logs.levels import LogLevels

_TEXT = "text/plain; charset=utf-8"
_USAGE = "POST /logging?level=LEVEL or ?level=SCOPE:LEVEL,SCOPE:LEVEL to change, ?reset to go back, neither to look"


class LevelSetting(Protocol):
    """The one place where levels are changed."""

    current: LogLevels

    def change(self, text: str, *, is_reset: bool = False) -> LogLevels:
        """What is in force then. Raises ConfigError, and nothing has changed."""
        ...


class CompatibleServer(HttpServer):
    def __init__(self, address: str, levels: LevelSetting, look: Callable[[], Awaitable[Subject]]) -> None:
        """`address` as in `--admin-address`, not empty."""
        super().__init__(functools.partial(open_tcp, address), self._answered)
        self._levels, self._look = levels, look

    async def _answered(self, request: Request) -> Response:
        _refuse_browsers(request)
        match request.path:
            case "/config_dump" if request.method == "GET":
                # In a large mesh it takes long, and the agent has other things to do.
                body = await asyncio.to_thread(config_dump, await self._look())
                return Response(200, body)
            case "/logging":
                return Response(200, self._logging(request).encode(), _TEXT)
            case "/config_dump":
                raise BadRequest(405, "only GET is served")
            case _:
                raise BadRequest(404, "only /config_dump and /logging here")

    def _logging(self, request: Request) -> str:
        """As ztunnel: POST with `level` changes, with `reset` goes back before that; without either it only tells."""
        level, is_reset = request.query.get("level", ""), "reset" in request.query
        if request.method == "POST" and (level or is_reset):
            try:
                self._levels.change(level, is_reset=is_reset)
            except ConfigError as error:
                raise BadRequest(400, f"{error}. {error.check}\nusage: {_USAGE}") from error
        elif level or is_reset:
            raise BadRequest(405, f"levels are changed by POST\nusage: {_USAGE}")
        return f"current log level is {self._levels.current}\n"


def _refuse_browsers(request: Request) -> None:
    host = request.headers.get("host", "")
    if "origin" in request.headers or not (host == "" or is_loopback(host)):  # HTTP/1.0 names none
        raise BadRequest(
            403, f"asked for as {host!r}: this listener is for tools on this node, by its loopback address"
        )
