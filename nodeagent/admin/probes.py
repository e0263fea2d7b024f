# SPDX-License-Identifier: Apache-2.0
"""The two TCP listeners: /metrics for scrapers, /healthz/ready (where ztunnel has it) and /healthz/live for kubelets.

Readiness asks only what this node can do for new connections. It never depends on the control plane's being there at
this moment: an outage there must not restart data planes. That the agent lives asks nothing but its loop.
"""

import functools
from collections.abc import Callable, Sequence

import msgspec

from nodeagent.admin.http import BadRequest, HttpServer, Request, Response
from nodeagent.admin.schema import SCHEMA
from nodeagent.admin.sockets import open_tcp


class StatsServer(HttpServer):
    """`render(accept)` gives body and Content-Type for an Accept header."""

    def __init__(self, address: str, render: Callable[[str], tuple[bytes, str]]) -> None:
        """`address` as in `--stats-address`, not empty."""
        super().__init__(functools.partial(open_tcp, address), self._metrics)
        self._render = render

    async def _metrics(self, request: Request) -> Response:
        _expect(request, "/metrics", "/stats/prometheus")
        body, content_type = self._render(request.headers.get("accept", ""))
        return Response(200, body, content_type)


class ReadyServer(HttpServer):
    """`obstacles()` names what keeps the agent from being ready, a sentence each; none: it is."""

    def __init__(self, address: str, obstacles: Callable[[], Sequence[str]]) -> None:
        """`address` as in `--ready-address`, not empty."""
        super().__init__(functools.partial(open_tcp, address), self._ready)
        self._obstacles = obstacles

    async def _ready(self, request: Request) -> Response:
        _expect(request, "/healthz/ready", "/healthz/live")
        if request.path == "/healthz/live":
            return Response(200, msgspec.json.encode({"schema": SCHEMA, "live": True}) + b"\n")
        reasons = list(self._obstacles())
        body = {"schema": SCHEMA, "ready": not reasons, "reasons": reasons}
        return Response(503 if reasons else 200, msgspec.json.encode(body) + b"\n")


def _expect(request: Request, *paths: str) -> None:
    if request.method != "GET":
        raise BadRequest(405, "only GET is served")
    if request.path not in paths:
        raise BadRequest(404, f"only {' and '.join(paths)} here")
