# SPDX-License-Identifier: Apache-2.0
"""Two tunnels joined on loopback: streams, PING, GOAWAY, and how each ends. The layers below are tested beside it."""

from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.errors import PeerError
from nodeagent.hbone.frames import ErrorCode
from nodeagent.model.reason import Reason
from nodeagent.proxy.kernel_channel import LAST_RECORD
from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.tls.traffic_key import RECORDS_PER_KEY
from tests.unit.proxy.joined import CLIENT, EMULATED, SERVER, Issue, Joined

pytestmark = pytest.mark.usefixtures("hot_path")


def test_both_owners_learn_who_the_other_is(joined: Joined) -> None:
    joined.establish()
    assert joined.client_owner.peer == joined.client.peer == SERVER
    assert joined.server_owner.peer == joined.server.peer == CLIENT
    assert joined.client.can_open
    assert not joined.server.can_open


def test_a_tunnel_is_replaced_before_its_key_is_worn_and_cut_before_it_is_unsafe(
    authority: Callable[[], Issue], clock: Any, emulation: Callable[[], None]
) -> None:
    emulation()
    pipe = SecretsPipe()
    joined = Joined(authority(), clock, pipe, EMULATED)
    joined.establish()
    near, far = joined.stream()
    keys = joined.near.keys  # type: ignore[attr-defined]
    for first, is_cut in ((RECORDS_PER_KEY, False), (LAST_RECORD, True)):
        joined.until(lambda: joined.client._unanswered == 0)
        # Both ends count alike, as if so many had passed.
        keys[1].sequence = joined.far.keys[2].sequence = first  # type: ignore[attr-defined]
        joined.clock.seconds += 10.1
        joined.loop.turn(0)
        assert not joined.client.can_open
        assert (joined.client_owner.end is not None) is is_cut
        if not is_cut:
            joined.send(near, b"goes on")
            joined.until(lambda: bytes(far.received) == b"goes on")
    assert joined.client_owner.end is not None
    assert joined.client_owner.end[0] is Reason.TLS_KEY_WORN
    joined.server.fail(Reason.DRAINED, "")
    pipe.close()


def test_payload_arrives_in_both_directions(joined: Joined) -> None:
    joined.establish()
    near, far = joined.stream()
    joined.send(near, b"question")
    joined.send(far, b"answer")
    joined.until(lambda: bytes(far.received) == b"question" and bytes(near.received) == b"answer")


def test_a_tunnel_moves_when_it_has_caught_up(joined: Joined) -> None:
    """What was read is in nobody's socket any more."""
    joined.establish()
    joined.until(lambda: joined.server.can_move or not joined.server.is_portable)
    for n in range(500):
        joined.client.connection.ping(n.to_bytes(8, "big"))
    joined.client.flush_later()
    could: list[bool] = []
    while not could or joined.server._is_behind:
        joined.loop.turn(1)
        if joined.server._is_behind:
            could.append(joined.server.can_move)
    assert len(could) > 1
    assert not any(could)
    assert joined.server.can_move == joined.server.is_portable


def test_an_owner_may_refuse_a_peer(joined: Joined) -> None:
    joined.server_owner.refusal = PeerError("not you", reason=Reason.TLS_WRONG_TRUST_DOMAIN)
    joined.start()
    joined.until(lambda: joined.server_owner.end is not None and joined.client_owner.end is not None)
    assert joined.server_owner.end == (Reason.TLS_WRONG_TRUST_DOMAIN, "not you")


def test_a_silent_peer_is_given_up(joined: Joined) -> None:
    """Its kernel acknowledges everything; nobody answers PING."""
    joined.establish()
    near, _ = joined.stream()
    joined.loop.forget(joined.far.fileno())
    if joined.server._timer is not None:
        joined.server._timer.cancel()
    for _ in range(2):
        joined.clock.seconds += 10.1
        joined.loop.turn(0)
        assert joined.client_owner.end is None
    joined.clock.seconds += 10.1
    joined.loop.turn(0)
    assert joined.client_owner.end == (Reason.PING_TIMEOUT, "tunnel: the peer is silent")
    assert near.heard == [200, Reason.PING_TIMEOUT]


def test_a_peer_that_answers_ping_stays(joined: Joined) -> None:
    joined.establish()
    for _ in range(5):
        joined.clock.seconds += 10.1
        for _ in range(5):
            joined.loop.turn(0.005)
    assert joined.client.is_open
    assert joined.server.is_open


def test_streams_end_with_the_tunnel(joined: Joined) -> None:
    joined.establish()
    near, far = joined.stream()
    joined.client.fail(Reason.POD_REMOVED, "")
    joined.until(lambda: joined.server_owner.end is not None)
    assert near.heard == [200, Reason.POD_REMOVED]
    assert far.heard == [Reason.PEER_LOST]


def test_streams_are_told_in_portions_that_the_peer_has_ended_their_tunnel(joined: Joined) -> None:
    """Who is not told yet reads no more for it, and may go by itself."""
    joined.establish()
    streams = [joined.stream()[1] for _ in range(50)]
    joined.client.fail(Reason.DRAINED, "")
    joined.until(lambda: joined.server_owner.end is not None)
    assert joined.server_owner.end is not None
    assert joined.server_owner.end[0] is Reason.PEER_LOST
    assert joined.server.is_blocked
    told = [sum(stream.heard == [Reason.PEER_LOST] for stream in streams)]
    joined.server.stall(streams[-2])
    joined.server.reset(streams[-1].id, ErrorCode.CANCEL)
    for _ in range(2):
        joined.loop.turn(0)
        told.append(sum(stream.heard == [Reason.PEER_LOST] for stream in streams))
    assert told == [20, 40, 49]
    assert streams[-1].heard == []
    assert not joined.server._stalled, "a circle would wait for the collector"


def test_streams_are_told_at_once_of_an_end_that_is_ours(joined: Joined) -> None:
    """Not a byte of a peer that is revoked reaches an application afterwards."""
    joined.establish()
    streams = [joined.stream()[1] for _ in range(50)]
    joined.server.fail(Reason.CERTIFICATE_REVOKED, "")
    assert all(stream.heard == [Reason.CERTIFICATE_REVOKED] for stream in streams)


def test_a_reset_stream_leaves_its_neighbour(joined: Joined) -> None:
    joined.establish()
    near, far = joined.stream()
    _, neighbour = other = joined.stream()
    joined.client.reset(near.id, ErrorCode.CONNECT_ERROR)
    joined.until(lambda: far.heard == [ErrorCode.CONNECT_ERROR])
    joined.send(other[0], b"still here")
    joined.until(lambda: bytes(neighbour.received) == b"still here")


def test_a_stream_whose_user_breaks_ends_alone(joined: Joined, caplog: pytest.LogCaptureFixture) -> None:
    joined.establish()
    near, far = joined.stream()
    healthy_near, healthy_far = joined.stream()
    far.breaks = True
    joined.send(near, b"x")
    joined.send(healthy_near, b"y")
    joined.until(lambda: near.heard[-1] is ErrorCode.INTERNAL_ERROR)
    joined.until(lambda: bytes(healthy_far.received) == b"y")
    assert joined.loop.bugs == 1
    assert "ZeroDivisionError" in caplog.text


def test_a_draining_server_lets_its_streams_end_and_closes(joined: Joined) -> None:
    joined.establish()
    near, far = joined.stream()
    joined.server.drain()
    joined.until(lambda: not joined.client.can_open)
    joined.send(near, b"goes on")
    joined.until(lambda: bytes(far.received) == b"goes on")
    for stream in (near, far):
        assert stream.tunnel is not None
        stream.tunnel.connection.end(stream.id)
        stream.tunnel.flush_later()
    joined.until(lambda: far.heard == ["ended"] and near.heard == [200, "ended"])
    for stream in (near, far):
        assert stream.tunnel is not None
        stream.tunnel.release(stream.id)
    joined.until(lambda: joined.server_owner.end is not None and joined.client_owner.end is not None)
    assert joined.server_owner.end == joined.client_owner.end == (Reason.CLOSED, "")


def test_a_draining_server_without_streams_closes_after_one_round_trip(joined: Joined) -> None:
    joined.establish()
    joined.server.drain()
    assert joined.server.is_open
    joined.until(lambda: joined.server_owner.end is not None and joined.client_owner.end is not None)
    assert joined.server_owner.end == (Reason.CLOSED, "")


def test_a_closed_tunnel_is_no_error_for_its_peer(joined: Joined) -> None:
    joined.establish()
    joined.client.close()
    joined.until(lambda: joined.server_owner.end is not None)
    assert joined.server_owner.end == joined.client_owner.end == (Reason.CLOSED, "")


def test_a_defect_in_the_tunnel_ends_its_streams_as_such(joined: Joined) -> None:
    joined.establish()
    near, _ = joined.stream()
    joined.client.crashed()
    assert near.heard == [200, Reason.BUG]
