# SPDX-License-Identifier: Apache-2.0
"""All that an agent knows at one moment as one document, and an agent that answers from such a document.

It is what the views are made from, not what they show: so each question that only looks is answered by the same code
from a file as it was by the living agent, `explain` included. Its inside is that of the release that wrote it. There is
no key and no token in it, since none is in AgentState.
"""

import asyncio
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from nodeagent.admin.client import AdminClient
from nodeagent.admin.schema import SCHEMA
from nodeagent.admin.state import AgentState, FlowSource, OpenConnection
from nodeagent.errors import AgentUnreachable, ConfigError
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.record import ConnectionRecord, FlowPage

KIND = "dump"


class _Document(msgspec.Struct):
    schema: str
    kind: str
    generation: int
    state: dict[str, msgspec.Raw]
    """AgentState but its mesh; a field that the reader's release does not know is left out."""
    mesh: Changes
    connections: list[OpenConnection]
    flows: list[ConnectionRecord]


def dump(
    state: AgentState, connections: Sequence[OpenConnection], flows: Sequence[ConnectionRecord]
) -> dict[str, object]:
    """`flows` in the order in which they ended."""
    names = [field.name for field in dataclasses.fields(state) if field.name != "mesh"]
    return {
        "kind": KIND,
        "generation": state.mesh.generation,
        "state": {name: getattr(state, name) for name in names},
        "mesh": state.mesh.everything(),
        "connections": list(connections),
        "flows": list(flows),
    }


def state_of(answer: Mapping[str, object]) -> AgentState:
    """Of the /dump of an agent: a command can then ask of it what the agent was never asked.

    Raises AgentUnreachable for an agent of another release.
    """
    try:
        return _state(_decode(json.dumps(answer).encode()))
    except _Unreadable as error:
        raise AgentUnreachable(
            f"the agent's state cannot be read here: {error}", check="Is the agent of the same release as this command?"
        ) from error


async def whole_history(history: FlowSource) -> list[ConnectionRecord]:
    page = history.newest()
    records = list(page.records)
    while page.has_more:
        page = await history.follow(page.cursor, 0.0)
        records += page.records
    return records


class DumpedAgent(AdminClient):
    """Answers what its agent would have answered then."""

    is_live = False

    def __init__(self, path: str) -> None:
        """`path` of the file; `-` is standard input. Raises ConfigError."""
        super().__init__(path)
        self._document = _read(path)
        try:
            self._state = _state(self._document)
        except _Unreadable as error:
            raise ConfigError(f"--file {path}: the state in it is of another release: {error}") from error

    def fetch(self, route: str, **query: str) -> dict[str, Any]:
        """Raises ConfigError, or the error that the agent would have met."""
        from nodeagent.admin.routes import make_routes

        async def connections() -> list[OpenConnection]:
            return self._document.connections

        routes = make_routes(lambda: self._state, connections, _Ended(self._document.flows))
        if route not in routes:
            raise ConfigError(f"a dump does not answer {route}", check="Ask the agent itself: leave out --file.")

        async def answer() -> Mapping[str, object]:
            return await routes[route](query)

        body: dict[str, Any] = json.loads(msgspec.json.encode({"schema": SCHEMA, **asyncio.run(answer())}))
        return body

    def order(self, route: str, *, takes_seconds: float = 0.0, **query: str) -> dict[str, Any]:
        del takes_seconds, query
        raise ConfigError(f"a dump takes no orders ({route})", check="Leave out --file.")


class _Ended:
    """A FlowSource of what was over."""

    def __init__(self, records: Sequence[ConnectionRecord]) -> None:
        self._records = tuple(records)

    def newest(self, count: int | None = None) -> FlowPage:
        kept = len(self._records) if count is None else min(count, len(self._records))
        return FlowPage(self._records[len(self._records) - kept :], "dump-0", has_more=False, lost=0)

    def newest_first(self) -> Iterator[ConnectionRecord]:
        return reversed(self._records)

    async def follow(self, cursor: str, wait_seconds: float) -> FlowPage:
        del cursor, wait_seconds
        return FlowPage((), "dump-0", has_more=False, lost=0)


def _read(path: str) -> _Document:
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"--file {path}: {error.strerror}") from error
    try:
        return _decode(content)
    except _Unreadable as error:
        raise ConfigError(
            f"--file {path}: not what `nodeagent dump` writes: {error}",
            check="Is it whole, and of this release? The command of the release that wrote it reads it.",
        ) from error


class _Unreadable(Exception):
    """Why it is no dump of this release."""


def _decode(content: bytes) -> _Document:
    """Raises _Unreadable."""
    try:
        document = msgspec.json.decode(content, type=_Document)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _Unreadable(error) from error
    if (document.schema, document.kind) != (SCHEMA, KIND):
        raise _Unreadable(f"{document.kind} of {document.schema} is no dump of {SCHEMA}")
    return document


def _state(document: _Document) -> AgentState:
    """Raises _Unreadable."""
    hints = get_type_hints(AgentState)
    try:
        fields = {
            name: msgspec.json.decode(raw, type=hints[name]) for name, raw in document.state.items() if name in hints
        }
        mesh = Mesh(fields.get("node"), fields.get("network", ""))
        mesh.apply(document.mesh)
        mesh.generation = document.generation
        return AgentState(mesh=mesh, **fields)
    except (msgspec.MsgspecError, TypeError) as error:  # TypeError: a field is missing that every agent has
        raise _Unreadable(error) from error
