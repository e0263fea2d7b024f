# SPDX-License-Identifier: Apache-2.0
"""Who is admitted and who has to go; and what is shown of them."""

import contextlib
import datetime as dt
from typing import Any, cast

import pytest

from nodeagent.controlplane.clients import Client, Clients, TooManyClients, show_clients
from nodeagent.controlplane.delta import DeltaStream
from nodeagent.controlplane.snapshot import ADDRESS, Snapshot
from nodeagent.proto import xds_pb2

SINCE = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def client(node: str, ended: list[str] | None = None, peer: str = "ipv4:10.0.0.1:4711") -> Client:
    return Client(DeltaStream(node), peer, SINCE, (ended if ended is not None else []).append)


def shown(clients: Clients, now: float) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], show_clients(clients, now=now, wall=SINCE + dt.timedelta(seconds=7.5))["proxies"])


def test_a_client_is_listed_while_its_stream_is_open() -> None:
    clients = Clients()
    with clients.admitted(client("node-b")), clients.admitted(client("node-a")), clients.admitted(client("node-b")):
        assert [one.stream.node for one in clients] == ["node-a", "node-b", "node-b"]
        assert clients.count == 3
    assert (list(clients), clients.count) == ([], 0)


def test_the_oldest_of_a_node_makes_room_for_the_newest() -> None:
    clients = Clients(limit=3, limit_of_node=2)
    said: list[str] = []
    oldest, second, newest = client("node-a", said), client("node-a"), client("node-a")
    with clients.admitted(oldest), clients.admitted(second), clients.admitted(newest):
        assert list(clients) == [second, newest]
        assert (clients.count, clients.replaced) == (2, 1)
        assert said == ["replaced: node node-a has opened more than 2 streams"]
    assert clients.count == 0


def test_all_can_be_told_that_it_is_over() -> None:
    clients = Clients()
    said: list[str] = []
    with clients.admitted(client("node-a", said)), clients.admitted(client("node-b", said)):
        clients.end_all("over")
    assert said == ["over", "over"]


def test_a_full_house_stays_served_and_refuses_newcomers() -> None:
    clients = Clients(limit=2)
    with contextlib.ExitStack() as stack:
        for node in ("node-a", "node-b"):
            stack.enter_context(clients.admitted(client(node)))
        with pytest.raises(TooManyClients, match="2 clients"), clients.admitted(client("node-c")):
            pytest.fail("it was admitted")
        assert (clients.count, clients.refused) == (2, 1)
        assert [one.stream.node for one in clients] == ["node-a", "node-b"]


def test_each_client_and_type_is_a_row() -> None:
    clients = Clients()
    served, silent = client("node-a", peer="ipv6:%5Bfd00::1%5D:4711"), client("node-b")
    served.node_ids.append("ztunnel~10.0.0.1~a.b~c")
    served.stream.received(xds_pb2.DeltaDiscoveryRequest(type_url=ADDRESS))
    (response,) = served.stream.due(Snapshot(7), now=100.0)
    with clients.admitted(served), clients.admitted(silent):
        first, second = shown(clients, 102.5)
    assert first == {
        "node": "node-a",
        "id": "ztunnel~10.0.0.1~a.b~c",
        "address": "[fd00::1]:4711",
        "connected": "2026-01-01T12:00:00+00:00",
        "connected_seconds": 7.5,
        "type": "istio.workload.Address",
        "state": "STALE",
        "asks_for": "everything",
        "resources": 0,
        "sent": {"nonce": response.nonce, "version": "7"},
        "acknowledged": {"nonce": "", "version": ""},
        "unanswered": 1,
        "unanswered_seconds": 2.5,
        "refusals": [],
        "refused": 0,
    }
    assert (second["node"], second["type"], second["state"]) == ("node-b", "", "NOT SENT")


def test_a_refusal_names_what_is_refused() -> None:
    served = client("node-a")
    request = xds_pb2.DeltaDiscoveryRequest(type_url=ADDRESS, resource_names_subscribe=["*"])
    request.initial_resource_versions.update({f"gone-{number:02}": "1" for number in range(30)})
    served.stream.received(request)
    (response,) = served.stream.due(Snapshot(1), now=0.0)
    answer = xds_pb2.DeltaDiscoveryRequest(type_url=ADDRESS, response_nonce=response.nonce)
    answer.error_detail.message = "I keep them"
    served.stream.received(answer)
    clients = Clients()
    with clients.admitted(served):
        (row,) = shown(clients, 0.0)
    (refusal,) = row["refusals"]
    assert (row["state"], refusal["error"], refusal["resource_count"]) == ("NACKED", "I keep them", 30)
    assert refusal["resources"] == [f"gone-{number:02}" for number in range(20)]
