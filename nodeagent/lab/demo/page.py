# SPDX-License-Identifier: Apache-2.0
"""The page of both nodes at the machine's own loopback, which a browser reaches; the nodes' namespaces it does not.

It is served by the demo itself, in a thread of its own, and asks the agents by their admin sockets, so it goes on while
one of them is killed, and shows that.
"""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from nodeagent.admin.client import AdminClient
from nodeagent.admin.page.server import PageServer
from nodeagent.errors import PortInUse
from nodeagent.lab.demo.stage import NODES, Stage
from nodeagent.lab.namespaces import RUN_DIR, Node

FIRST_PORT = 15080
_PORTS = 20
"""Tried from the first on: other demos may run on this machine."""
_ANSWER_SECONDS = 5.0


@contextlib.contextmanager
def shown(stage: Stage) -> Iterator[str]:
    """Where it is, until the block ends. Raises PortInUse when all ports are taken."""
    server = _listen(stage)
    assert server.address is not None
    ip, port = server.address
    begun, loop, task = threading.Event(), asyncio.new_event_loop(), list[asyncio.Task[None]]()

    def serve() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner, contextlib.suppress(asyncio.CancelledError):
            runner.run(run())

    async def run() -> None:
        current = asyncio.current_task()
        assert current is not None
        task.append(current)
        begun.set()
        await server.run()

    thread = threading.Thread(target=serve, name="page", daemon=True)
    thread.start()
    begun.wait()
    try:
        yield f"http://{ip}:{port}"
    finally:
        loop.call_soon_threadsafe(task[0].cancel)
        thread.join()


def _listen(stage: Stage) -> PageServer:
    asks = {name: functools.partial(_ask, stage.lab.nodes[name]) for name in NODES}
    for port in range(FIRST_PORT, FIRST_PORT + _PORTS):
        server = PageServer(f"127.0.0.1:{port}", asks)
        try:
            server.listen()
        except PortInUse:
            continue
        return server
    raise PortInUse(f"no port from {FIRST_PORT} to {FIRST_PORT + _PORTS - 1} is free for the page of the demo")


async def _ask(node: Node, route: str, query: Mapping[str, str]) -> Mapping[str, Any]:
    """In a thread, since the socket lies in the node's mount namespace. Raises NodeagentError."""
    client = AdminClient(str(RUN_DIR / "admin.sock"), _ANSWER_SECONDS)
    return await asyncio.to_thread(node.call, functools.partial(client.fetch, route, **query))
