# SPDX-License-Identifier: Apache-2.0
"""What comes in by a tunnel: handshakes in turn, a turn's share of work, what is malformed, and last words."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.hbone.frames import DATA, PADDED, ErrorCode, pack_frame
from nodeagent.model.reason import Reason
from nodeagent.proxy.backlog import HELD
from nodeagent.proxy.kernel_tls import send_record
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.proxy.tunnel_receiving import TURN_WORK
from nodeagent.tls.alert import Alert
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.handshake import key_update
from nodeagent.tls.record import HANDSHAKE
from tests.unit.proxy.joined import EMULATED, Issue, Joined

pytestmark = pytest.mark.usefixtures("hot_path")


def test_handshakes_that_come_at_once_take_turns(authority: Callable[[], Issue], clock: Any) -> None:
    """Each step takes OpenSSL most of a millisecond."""
    pipe, issue = SecretsPipe(), authority()
    pairs = [Joined(issue, clock, pipe) for _ in range(5)]
    loop = Loop(clock)
    for pair in pairs:
        pair.loop = loop
        pair.start()
    established: list[int] = []
    while not all(pair.server_owner.peer and pair.client_owner.peer for pair in pairs):
        loop.turn(1)
        established.append(sum(pair.server_owner.peer is not None for pair in pairs))
    assert all(after - before <= 1 for before, after in itertools.pairwise(established))
    assert loop.slow_steps_deferred
    for pair in pairs:
        for tunnel in (pair.client, pair.server):
            tunnel.fail(Reason.DRAINED, "")
    pipe.close()


def test_a_handshake_has_a_deadline(joined: Joined) -> None:
    joined.start()
    joined.clock.seconds += 5.1
    joined.loop.turn(0)
    assert joined.client_owner.end == (Reason.TLS_TIMEOUT, "the handshake was not finished in time")


def test_what_comes_in_single_bytes_takes_many_turns_and_all_of_it_arrives(joined: Joined) -> None:
    """Whoever else is in the loop has a turn meanwhile. What follows is in its order, the end as well."""
    joined.establish()
    near, far = joined.stream()
    said = bytes(n % 251 for n in range(5000))
    for n in range(len(said)):
        joined.send(near, said[n : n + 1])
    joined.client.connection.end(near.id)
    grown, before = [], 0
    while "ended" not in far.heard:
        joined.loop.turn(1)
        grown.append(len(far.received) - before)
        before = len(far.received)
    assert bytes(far.received) == said
    assert max(grown) <= TURN_WORK
    assert joined.loop.turns_shared >= len(said) // TURN_WORK


def test_padded_single_bytes_are_charged_and_all_of_them_arrive(joined: Joined) -> None:
    joined.establish()
    near, far = joined.stream()
    joined.until(lambda: not joined.client.connection.has_pending)
    owner = joined.server_owner
    owner.charges.clear()
    frame = pack_frame(DATA, PADDED, near.id, b"\0x")
    joined.client.connection._outbox.append(frame * 1000)
    joined.client.flush_later()
    joined.until(lambda: len(far.received) == 1000)
    assert sum(owner.charges) == pytest.approx((1000 * 5 + len(owner.charges) * 40) * 0.5e-6)


def flood(joined: Joined) -> None:
    """PINGs for three turns and more."""
    for _ in range(300):
        joined.client.connection.ping(b"nodeping")
    joined.client.flush_later()


def begin_to_rest(joined: Joined) -> None:
    joined.establish()
    joined.stream()
    joined.server_owner.charges.clear()
    joined.server_owner.rest_seconds = 0.25
    flood(joined)
    joined.until(lambda: bool(joined.server_owner.charges))


def test_who_wastes_our_time_rests_as_long_as_its_owner_wants(joined: Joined) -> None:
    begin_to_rest(joined)
    owner = joined.server_owner
    for _ in range(3):
        for _ in range(5):
            joined.loop.turn(0)
        assert len(owner.charges) == 1
        assert joined.server._interest == 0, "the loop would be told again and again"
        joined.clock.seconds += 0.26
    owner.rest_seconds = 0
    near, far = joined.stream()
    joined.send(near, b"goes on")
    joined.until(lambda: bytes(far.received) == b"goes on")
    assert sum(owner.charges) == pytest.approx((300 * 5 + len(owner.charges) * 40) * 0.5e-6, rel=0.1)


def test_one_that_rests_is_still_seen_to_hang_up(joined: Joined) -> None:
    begin_to_rest(joined)
    joined.client.fail(Reason.DRAINED, "")
    joined.until(lambda: joined.server_owner.end is not None)
    assert joined.server_owner.end is not None
    assert joined.server_owner.end[0] is Reason.PEER_LOST
    joined.clock.seconds += 0.26
    joined.loop.turn(0)


def test_one_that_moves_reads_no_more_when_it_has_rested(joined: Joined) -> None:
    begin_to_rest(joined)
    joined.server.hold(is_held=True)
    joined.server_owner.rest_seconds = 0
    joined.clock.seconds += 0.26
    joined.loop.turn(0)
    assert joined.server._interest == 0
    joined.server.hold(is_held=False)
    near, far = joined.stream()
    joined.send(near, b"goes on")
    joined.until(lambda: bytes(far.received) == b"goes on")


def test_one_that_rests_is_not_silent(joined: Joined) -> None:
    begin_to_rest(joined)
    for _ in range(10):
        joined.clock.seconds += 10.1
        joined.loop.turn(0)
    assert joined.server_owner.end is None
    joined.server_owner.rest_seconds = 0


@pytest.mark.parametrize("size", [1, 3000])
def test_payload_and_what_answers_ours_is_no_waste(joined: Joined, size: int) -> None:
    joined.establish()
    near, far = joined.stream()
    joined.server_owner.charges.clear()
    for _ in range(3000):
        joined.send(near, b"x" * size)
        joined.send(far, b"y")
        joined.loop.turn(0)
    joined.until(lambda: len(far.received) == 3000 * size and len(near.received) == 3000)
    assert sum(joined.server_owner.charges) < 1e-4


def test_a_tunnel_that_ends_leaves_what_there_was_no_time_for(joined: Joined) -> None:
    joined.establish()
    near, far = joined.stream()
    for _ in range(5000):
        joined.send(near, b"x")
    joined.until(lambda: bool(far.received))
    joined.server.fail(Reason.DRAINED, "")
    joined.loop.turn(0)
    assert len(far.received) < 5000
    assert far.heard == [Reason.DRAINED]


@pytest.mark.parametrize(("size", "is_ended"), [(100_000, False), (600_000, True)])
def test_a_worker_that_holds_too_much_ends_the_tunnels_that_make_it(
    joined: Joined, monkeypatch: pytest.MonkeyPatch, size: int, *, is_ended: bool
) -> None:
    joined.establish()
    near, far = joined.stream()
    far.tunnel = None  # it credits nothing
    monkeypatch.setattr(HELD, "size", HELD.most + 1)
    near.tunnel = joined.client
    joined.send(near, bytes(size))
    joined.until(lambda: len(far.received) == size or joined.server_owner.end is not None)
    joined.loop.turn(0.01)
    if is_ended:
        joined.until(lambda: joined.server_owner.end is not None)
        assert joined.server_owner.end is not None
        assert joined.server_owner.end[0] is Reason.MEMORY_LIMIT
        assert far.heard == [Reason.MEMORY_LIMIT]
    else:
        assert joined.server_owner.end is None


def test_garbage_ends_the_tunnel_with_the_rule_that_it_broke(joined: Joined) -> None:
    joined.establish()
    near, far = joined.stream()
    garbage = memoryview(b"\x00\x00\x08\x06\x00\x00\x00\x00\x01" + b"x" * 8)  # PING on a stream
    if joined.client._kernel is not None:
        joined.client._kernel.send(garbage)
    if joined.client._sending is not None:
        joined.client._sending.seal(garbage)
    joined.client.flush()
    joined.until(lambda: joined.server_owner.end is not None and joined.client_owner.end is not None)
    assert joined.server_owner.end is not None
    assert joined.server_owner.end[0] is Reason.H2_FAILED
    assert far.heard == [Reason.H2_FAILED]
    assert near.heard[-1] in {Reason.PEER_LOST, ErrorCode.REFUSED_STREAM}


def test_a_peers_key_update_ends_a_tunnel_that_keeps_its_keys(
    authority: Callable[[], Issue], clock: Any, emulation: Callable[[], None]
) -> None:
    emulation()
    pipe = SecretsPipe()
    joined = Joined(authority(), clock, pipe, EMULATED)
    joined.establish()
    near, _ = joined.stream()
    assert joined.server._kernel is not None
    send_record(joined.far, HANDSHAKE, key_update(requested=True))
    joined.until(lambda: joined.client_owner.end is not None)
    assert joined.client_owner.end is not None
    assert joined.client_owner.end[0] is Reason.TLS_KEY_CHANGED
    assert near.heard == [200, Reason.TLS_KEY_CHANGED]
    joined.until(lambda: joined.server_owner.end is not None)
    pipe.close()


def test_a_peers_last_words_are_heard_when_nothing_can_be_sent_to_it(
    authority: Callable[[], Issue], clock: Any
) -> None:
    """It refuses our certificate and is gone, and what we have to say meets the reset before we have read why."""
    pipe = SecretsPipe()
    joined = Joined(authority(), clock, pipe)
    joined.establish()
    near, _ = joined.stream()
    channel = joined.server._channel
    assert isinstance(channel, RecordChannel)

    def meets_a_reset() -> None:
        """Behind the events of a turn, so that none has told of the alert."""
        channel._control.end(Alert.BAD_CERTIFICATE)
        joined.server.flush()
        joined.server.fail(Reason.DRAINED, "")
        joined.client.connection.ping(b"nodeping")
        joined.client.flush()

    joined.loop.at_end_of_turn(joined.client, meets_a_reset)
    joined.until(lambda: joined.client_owner.end is not None)
    assert joined.client_owner.end is not None
    reason, words = joined.client_owner.end
    assert reason is Reason.TLS_FAILED
    assert "bad certificate" in words
    assert near.heard == [200, Reason.TLS_FAILED]
    assert joined.loop.watched == 0
    pipe.close()
