# SPDX-License-Identifier: Apache-2.0
"""What two applications see of a connection that an Envoy and a worker of ours carry, in either role.

`way:` is Envoy as HBONE client and our worker as server, `gate:` our worker as client and Envoy as server; what follows
names how that Envoy is set up, see conftest.py.
"""

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from nodeagent.model.reason import Reason
from tests.interop.conftest import Passage, Peers
from tests.interop.traffic import Echo, converse, exchange, fill, read_exactly, read_to_end, reset

pytestmark = pytest.mark.interop

BULK = 64 << 20
BOTH = pytest.mark.parametrize("passage", ["way:wide", "gate:wide"], indirect=True)
ALL_WINDOWS = pytest.mark.parametrize("passage", ["way:wide", "way:narrow", "gate:wide", "gate:narrow"], indirect=True)
WHO = pytest.mark.parametrize("who", ["client", "application"])


@pytest.mark.parametrize(
    "passage",
    [
        *("way:wide", "way:wide6", "way:narrow", "way:large-frames"),
        *("gate:wide", "gate:wide6", "gate:narrow", "gate:large-frames"),
    ],
    indirect=True,
)
def test_bulk_both_ways_at_once_arrives_unchanged(passage: Passage) -> None:
    with passage.listen() as listener, passage.join(listener) as (client, application):
        exchange(client, application, BULK)
    [record] = passage.worker.ended()
    assert (record.reason, record.sent_bytes, record.received_bytes) == (Reason.CLOSED.value, BULK, BULK)


@BOTH
def test_a_hundred_connections_one_after_the_other_share_a_tunnel(passage: Passage) -> None:
    with passage.listen() as listener, Echo(listener):
        _say_and_close(passage)
        before = passage.tunnels()
        for _ in range(100):
            _say_and_close(passage)
    assert [record.reason for record in passage.worker.ended(101)] == [Reason.CLOSED.value] * 101
    assert passage.tunnels() == before > 0


@pytest.mark.parametrize("passage", ["way:rotating", "gate:rotating"], indirect=True)
def test_envoy_changes_the_tunnel_every_seven_streams_and_none_is_lost(passage: Passage) -> None:
    before = passage.tunnels()
    with passage.listen() as listener, Echo(listener):
        for _ in range(100):
            _say_and_close(passage)
    assert [record.reason for record in passage.worker.ended(100)] == [Reason.CLOSED.value] * 100
    assert passage.tunnels() - before >= 100 // 7


def _say_and_close(passage: Passage) -> None:
    with passage.connect() as client:
        converse(client)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b""


@pytest.mark.parametrize(
    ("passage", "most_tunnels"),
    [("way:wide", 1), ("way:narrow", 1), ("gate:wide", 1), ("gate:narrow", 1), ("gate:few", 5)],
    indirect=["passage"],
)
def test_fifty_connections_at_once(passage: Passage, most_tunnels: int) -> None:
    before = passage.tunnels()
    with contextlib.ExitStack() as stack:
        stack.enter_context(Echo(stack.enter_context(passage.listen())))
        clients = [stack.enter_context(passage.connect()) for _ in range(50)]
        for client in clients:
            converse(client)
        assert len(passage.worker.connections()) == 50
        with ThreadPoolExecutor(50) as pool:
            for conversation in [pool.submit(converse, client, rounds=20, size=16 << 10) for client in clients]:
                conversation.result()
    size = 1000 + 20 * (16 << 10)
    for record in passage.worker.ended(50):
        assert (record.reason, record.sent_bytes, record.received_bytes) == (Reason.CLOSED.value, size, size)
    assert passage.tunnels() - before <= most_tunnels


@ALL_WINDOWS
@WHO
def test_a_reader_that_rests_holds_up_nobody_else(passage: Passage, who: str) -> None:
    with passage.listen() as listener, passage.join(listener) as (client, application):
        fill(application if who == "client" else client)
        with passage.join(listener) as (another, its_application):
            exchange(another, its_application, 1 << 20)


@ALL_WINDOWS
@WHO
def test_streams_that_are_reset_with_full_windows_leave_the_tunnel_its_own(passage: Passage, who: str) -> None:
    with passage.listen() as listener, passage.join(listener) as (first, its_application):
        before = passage.tunnels()
        for _ in range(2):
            with contextlib.ExitStack() as stack:
                pairs = [stack.enter_context(passage.join(listener)) for _ in range(5)]  # more than the tunnel's window
                fill(*(sock for pair in pairs for sock in pair))
                for client, application in pairs:
                    reset(client if who == "client" else application)
        exchange(first, its_application, 1 << 20)
    assert passage.tunnels() == before


@pytest.mark.parametrize(
    ("passage", "who"),
    [("way:wide", "client"), ("way:wide", "application"), ("gate:wide", "client")],
    indirect=["passage"],
)
def test_who_has_said_everything_still_hears_everything(passage: Passage, who: str) -> None:
    with passage.listen() as listener, passage.join(listener) as (client, application):
        first, second = (client, application) if who == "client" else (application, client)
        first.sendall(b"all I have")
        first.shutdown(socket.SHUT_WR)
        assert read_to_end(second) == b"all I have"
        second.sendall(bytes(100_000))
        second.shutdown(socket.SHUT_WR)
        assert read_to_end(first) == bytes(100_000)
    [record] = passage.worker.ended()
    assert record.reason == Reason.CLOSED.value


@pytest.mark.parametrize("passage", ["gate:wide"], indirect=True)
def test_envoy_as_server_ends_both_directions_when_its_application_ends_one(passage: Passage) -> None:
    """Envoy cannot keep a CONNECT open that its application has half-closed: it ends the stream and resets it with
    NO_ERROR (RFC 9113 §8.1). What the application said must arrive whole, and as an orderly end."""
    with passage.listen() as listener, passage.join(listener) as (client, application):
        application.sendall(bytes(1 << 20))
        application.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == bytes(1 << 20)
        assert read_to_end(application) == b""
    [record] = passage.worker.ended()
    assert (record.reason, record.received_bytes) == (Reason.CLOSED.value, 1 << 20)


@pytest.mark.parametrize(
    ("passage", "who"),
    [("way:wide", "client"), ("way:wide", "application"), ("gate:wide", "application")],
    indirect=["passage"],
)
def test_a_reset_arrives_as_a_reset(passage: Passage, who: str) -> None:
    with passage.listen() as listener, passage.join(listener) as (client, application):
        client.sendall(b"x")
        assert read_exactly(application, 1) == b"x"
        first, second = (client, application) if who == "client" else (application, client)
        reset(first)
        with pytest.raises(ConnectionResetError):
            read_to_end(second)
    [record] = passage.worker.ended()
    assert record.reason == Reason.RESET.value


def test_a_client_that_resets_is_a_reset_stream_to_envoy_as_server(peers: Peers) -> None:
    """Envoy ends its application's connection then, if not with a reset of its own."""
    before = peers.envoy.stats()["http2.rx_reset"]
    passage = peers.through_gate("wide")
    with passage.listen() as listener, passage.join(listener) as (client, application):
        client.sendall(b"x")
        assert read_exactly(application, 1) == b"x"
        reset(client)
        assert read_to_end(application) == b""
    assert peers.envoy.stats()["http2.rx_reset"] == before + 1
    [record] = passage.worker.ended()
    assert record.reason == Reason.RESET.value
