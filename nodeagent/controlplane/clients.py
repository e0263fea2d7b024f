# SPDX-License-Identifier: Apache-2.0
"""Who is connected: a limit on the streams of all and of each node, and what `nodeagent proxies` shows of them.

A node may have several streams: an agent and its successor, one that is lost and not yet known to be. Beyond its limit
the newest wins, because it is the one that is alive; the oldest is ended and may come again. Beyond the limit of all,
the newcomer is refused: those who are served stay served.
"""

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from nodeagent.controlplane.answers import Refusal, Sent, State
from nodeagent.controlplane.delta import DeltaStream, TypeStatus

MAX_CLIENTS = 10_000
"""Twice the nodes that Kubernetes supports."""
MAX_CLIENTS_OF_NODE = 8
_SHOWN_NAMES = 20
"""Of a refusal's resources; how many there are in all is told, too."""

_NOTHING_ASKED = TypeStatus("", State.NOT_SENT, False, 0, 0, None, None, None, (), 0)  # noqa: FBT003 - is_whole


class TooManyClients(Exception):
    """Its text is for the client."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Client:
    stream: DeltaStream
    peer: str
    """As gRPC writes it: `ipv4:10.0.0.1:4711`."""
    connected_at: dt.datetime
    end: Callable[[str], None]
    """Ends the stream from our side; the words are for the client."""
    node_ids: list[str] = dataclasses.field(default_factory=list)
    """What it calls itself, once it has said so; believed in nothing."""


class Clients:
    def __init__(self, limit: int = MAX_CLIENTS, limit_of_node: int = MAX_CLIENTS_OF_NODE) -> None:
        self.limit, self.limit_of_node = limit, limit_of_node
        self._clients: dict[str, list[Client]] = {}
        """By node, oldest first."""
        self.count = 0
        self.refused = 0
        self.replaced = 0

    @contextlib.contextmanager
    def admitted(self, client: Client) -> Iterator[None]:
        """While its stream is open. Raises TooManyClients."""
        node = client.stream.node
        of_node = self._clients.get(node, [])
        if len(of_node) >= self.limit_of_node:
            self.replaced += 1
            of_node[0].end(f"replaced: node {node} has opened more than {self.limit_of_node} streams")
            self._leave(of_node[0])
        if self.count >= self.limit:
            self.refused += 1
            raise TooManyClients(f"{self.limit} clients are connected already")
        self._clients.setdefault(node, []).append(client)
        self.count += 1
        try:
            yield
        finally:
            self._leave(client)

    def end_all(self, words: str) -> None:
        for client in self:
            client.end(words)

    def __iter__(self) -> Iterator[Client]:
        """By node, the oldest first."""
        for node in sorted(self._clients):
            yield from self._clients[node]

    def _leave(self, client: Client) -> None:
        """Once or twice: one that was replaced has left before it ended."""
        of_node = self._clients.get(client.stream.node, [])
        if client in of_node:
            of_node.remove(client)
            self.count -= 1
            if not of_node:
                del self._clients[client.stream.node]


def show_clients(clients: Clients, *, now: float, wall: dt.datetime) -> dict[str, object]:
    """The answer of `/proxies`: a row for each client and type. `now` is monotonic, `wall` the time of day."""
    rows = [
        _show_client(client, wall) | _show_type(status, now)
        for client in clients
        for status in client.stream.status() or (_NOTHING_ASKED,)
    ]
    return {"proxies": rows, "clients": clients.count, "refused": clients.refused, "replaced": clients.replaced}


def _show_client(client: Client, wall: dt.datetime) -> dict[str, object]:
    return {
        "node": client.stream.node,
        "id": client.node_ids[0] if client.node_ids else "",
        "address": unquote(client.peer.partition(":")[2]),
        "connected": client.connected_at.isoformat(timespec="seconds"),
        "connected_seconds": round((wall - client.connected_at).total_seconds(), 1),
    }


def _show_type(status: TypeStatus, now: float) -> dict[str, object]:
    return {
        "type": status.type_url.rpartition("/")[2],
        "state": status.state.value,
        "asks_for": "everything" if status.is_whole else "names",
        "resources": status.held,
        "sent": _show_sent(status.sent),
        "acknowledged": _show_sent(status.accepted),
        "unanswered": status.unanswered,
        "unanswered_seconds": round(now - status.waits_since, 3) if status.waits_since is not None else 0.0,
        "refusals": [_show_refusal(refusal) for refusal in status.refusals],
        "refused": status.refused,
    }


def _show_sent(sent: Sent | None) -> dict[str, str]:
    return {"nonce": sent.nonce if sent else "", "version": sent.version if sent else ""}


def _show_refusal(refusal: Refusal) -> dict[str, object]:
    return {
        "nonce": refusal.nonce,
        "version": refusal.version,
        "error": refusal.message,
        "resources": sorted(refusal.names)[:_SHOWN_NAMES],
        "resource_count": len(refusal.names),
    }
