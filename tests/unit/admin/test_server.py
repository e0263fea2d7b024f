# SPDX-License-Identifier: Apache-2.0
"""The admin socket and its client, together over a real socket: answers, errors, and what stands in the way."""

import asyncio
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.admin.schema import SCHEMA
from nodeagent.admin.server import AdminServer, Route
from nodeagent.errors import (
    AgentUnreachable,
    ConfigError,
    KernelError,
    MissingPrivilege,
    NodeagentError,
    NotPossible,
    ProblemFound,
)
from nodeagent.lab.demo.claims import eventually

PATIENCE_SECONDS = 60.0


def _raising(error: Exception) -> Route:
    async def answer(_query: Mapping[str, str]) -> Mapping[str, object]:
        raise error

    return answer


async def _echo(query: Mapping[str, str]) -> Mapping[str, object]:
    return {"query": dict(query)}


class Counted:
    """Numbers up to the one that was asked for, then an error; how often it was closed."""

    closed: ClassVar[list[int]] = []

    def __init__(self, count: int) -> None:
        self._count, self._told = count, 0

    def __aiter__(self) -> AsyncIterator[Mapping[str, object]]:
        return self

    async def __anext__(self) -> Mapping[str, object]:
        await asyncio.sleep(0)
        if self._told == self._count:
            raise KernelError("the ring is gone", check="look")
        self._told += 1
        return {"number": self._told}

    async def aclose(self) -> None:
        self.closed.append(self._told)


async def _lasting(query: Mapping[str, str]) -> Counted:
    if "count" not in query:
        raise NotPossible("nobody counts", check="look")
    Counted.closed.clear()
    return Counted(int(query["count"]))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "admin.sock")


@pytest.fixture
def serve(path: str) -> Iterator[Callable[..., AdminServer]]:
    """Starts a server in a thread; it has a loop of its own, as the agent has."""
    stops: list[Callable[[], None]] = []

    def start(**routes: Route) -> AdminServer:
        asked = {f"/{name}": route for name, route in routes.items()}
        server = AdminServer(path, asked, {"/order": _echo}, {"/lasting": _lasting})
        server.listen()
        loop = asyncio.new_event_loop()
        task = loop.create_task(server.run())

        def run() -> None:
            with pytest.raises(asyncio.CancelledError):
                loop.run_until_complete(task)
            loop.close()

        thread = threading.Thread(target=run)
        thread.start()

        def stop() -> None:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()

        stops.append(stop)
        return server

    yield start
    for stop in stops:
        stop()


def test_an_answer_carries_the_schema(path: str, serve: Callable[..., AdminServer]) -> None:
    serve(echo=_echo)
    assert AdminClient(path).fetch("/echo", source="a/b", destination="ü&=") == {
        "schema": SCHEMA,
        "query": {"source": "a/b", "destination": "ü&="},
    }


def test_only_the_owner_may_open_the_socket(path: str, serve: Callable[..., AdminServer]) -> None:
    serve()
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("no policy 'x'", check="look"), ConfigError),
        (ProblemFound("broken", check="look"), ProblemFound),
        (KernelError("no map", check="look"), NotPossible),
        (MissingPrivilege("no", check="look"), MissingPrivilege),
    ],
)
def test_an_error_arrives_as_itself(
    path: str, serve: Callable[..., AdminServer], error: NodeagentError, kind: type[NodeagentError]
) -> None:
    serve(broken=_raising(error))
    with pytest.raises(kind) as caught:
        AdminClient(path).fetch("/broken")
    assert (str(caught.value), caught.value.check) == (str(error), "look")
    assert caught.value.exit_code == error.exit_code


def test_a_route_that_is_not_there(path: str, serve: Callable[..., AdminServer]) -> None:
    serve()
    with pytest.raises(ConfigError, match="this agent has no /flows") as caught:
        AdminClient(path).fetch("/flows")
    assert "another release" in caught.value.check


def test_a_bug_of_a_route_is_no_answer(path: str, serve: Callable[..., AdminServer]) -> None:
    server = serve(bug=_raising(RuntimeError("unexpected")), echo=_echo)
    with pytest.raises(AgentUnreachable, match="no nodeagent"):
        AdminClient(path).fetch("/bug")
    assert server.bugs == 1
    assert AdminClient(path).fetch("/echo")["query"] == {}


def test_a_socket_that_a_dead_agent_left(path: str, serve: Callable[..., AdminServer]) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(AgentUnreachable, match="Connection refused"):
        AdminClient(path).fetch("/status")
    serve(echo=_echo)
    assert AdminClient(path).fetch("/echo")["query"] == {}


def test_an_order_that_lasts_tells_as_it_goes_and_an_error_ends_it(
    path: str, serve: Callable[..., AdminServer]
) -> None:
    server = serve()
    documents = AdminClient(path).follow("/lasting", count="2")
    assert [next(documents), next(documents)] == [{"schema": SCHEMA, "number": number} for number in (1, 2)]
    with pytest.raises(NotPossible, match="the ring is gone") as caught:
        next(documents)
    assert caught.value.check == "look"
    eventually(lambda: Counted.closed == [2], PATIENCE_SECONDS, "it is closed once")
    assert server.bugs == 0


def test_one_that_nobody_reads_any_more_is_closed(path: str, serve: Callable[..., AdminServer]) -> None:
    server = serve()
    documents = AdminClient(path).follow("/lasting", count="1000000000")
    assert next(documents)["number"] == 1
    documents.close()
    eventually(lambda: len(Counted.closed) == 1, PATIENCE_SECONDS, "it is closed once")
    assert server.bugs == 0


def test_one_that_cannot_begin_is_an_error_as_any_other(path: str, serve: Callable[..., AdminServer]) -> None:
    serve()
    with pytest.raises(NotPossible, match="nobody counts"):
        next(AdminClient(path).follow("/lasting"))
    with pytest.raises(ConfigError, match="has no /nothing"):
        next(AdminClient(path).follow("/nothing"))
    with pytest.raises(ConfigError, match="has no /lasting"):
        AdminClient(path).fetch("/lasting")


def _run_briefly(server: AdminServer, while_running: Callable[[], None] = lambda: None) -> None:
    async def briefly() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            await asyncio.sleep(0)
            while_running()
            task.cancel()

    asyncio.run(briefly())


def test_the_file_goes_with_the_server(path: str) -> None:
    _run_briefly(AdminServer(path, {}))
    assert not os.path.lexists(path)


def test_a_successors_file_stays(path: str) -> None:
    successor = AdminServer(path, {})
    _run_briefly(AdminServer(path, {}), while_running=successor.listen)
    assert os.path.lexists(path)
    _run_briefly(successor)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="cannot listen"):
        AdminServer(str(tmp_path / "missing" / "admin.sock"), {}).listen()


def test_an_order_is_a_post_and_a_question_is_none(path: str, serve: Callable[..., AdminServer]) -> None:
    serve(status=_echo)

    assert AdminClient(path).order("/order") == {"schema": SCHEMA, "query": {}}
    assert AdminClient(path).order("/order", takes_seconds=1, slot="0") == {"schema": SCHEMA, "query": {"slot": "0"}}
    with pytest.raises(ConfigError, match="has no /order"):
        AdminClient(path).fetch("/order")
    with pytest.raises(ConfigError, match="has no /status"):
        AdminClient(path).order("/status")
