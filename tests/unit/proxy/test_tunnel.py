# SPDX-License-Identifier: Apache-2.0
"""Two tunnels joined on loopback: handshake, streams, windows, PING, GOAWAY, and how each ends."""

import itertools
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodeagent.errors import PeerError
from nodeagent.hbone.events import Request, Response
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Role
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy.backlog import HELD
from nodeagent.proxy.kernel_channel import LAST_RECORD
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.kernel_tls import load_module, send_record
from nodeagent.proxy.kernel_trial import KernelTls, try_kernel_tls
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.proxy.sockets import prepare
from nodeagent.proxy.tls import Handshake, make_context
from nodeagent.proxy.tunnel import TURN_WORK, Tunnel
from nodeagent.tls.alert import Alert
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.handshake import key_update
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.record import HANDSHAKE
from nodeagent.tls.traffic_key import RECORDS_PER_KEY
from tests.unit.proxy.emulated import EmulatedSocket

pytestmark = pytest.mark.usefixtures("hot_path")

CLIENT, SERVER = Identity("cluster.local", "a", "client"), Identity("cluster.local", "a", "server")
Issue = Callable[..., tuple[str, str]]


class Stream:
    """A user of a stream that writes down what it hears and credits everything at once."""

    def __init__(self, tunnel: Tunnel | None = None) -> None:
        self.tunnel, self.id = tunnel, 0
        self.heard: list[object] = []
        self.received = bytearray()
        self.breaks = False

    def responded(self, response: Response) -> None:
        self.heard.append(response.status)

    def payload(self, views: list[memoryview], _is_last: bool = False) -> None:  # noqa: FBT001, FBT002
        if self.breaks:
            raise ZeroDivisionError
        for view in views:
            self.received += view
        if self.tunnel is not None:
            self.tunnel.connection.delivered(self.id, sum(map(len, views)))
            self.tunnel.flush_later()

    def ended(self) -> None:
        self.heard.append("ended")

    def was_reset(self, code: int) -> None:
        self.heard.append(ErrorCode(code))

    def can_send(self) -> None:
        self.heard.append("can send")

    def can_flush(self) -> None:
        self.heard.append("can flush")

    def gone(self, reason: Reason, _error: str) -> None:
        self.heard.append(reason)

    def crashed(self) -> None:
        self.heard.append("crashed")
        if self.tunnel is not None:
            self.tunnel.reset(self.id, ErrorCode.INTERNAL_ERROR)


class Owner:
    def __init__(self, kernel_records: KernelRecords | None = None) -> None:
        self.kernel_records = kernel_records or KernelRecords(None, Counter())
        self.peer: Identity | None = None
        self.refusal: PeerError | None = None
        self.streams: list[Stream] = []
        self.end: tuple[Reason, str] | None = None
        self.refused_streams = 0

    def established(self, _tunnel: Tunnel, peer: Identity) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.peer = peer

    def requested(self, tunnel: Tunnel, request: Request) -> None:
        stream = Stream(tunnel)
        stream.id = request.stream_id
        self.streams.append(stream)
        tunnel.adopt(request.stream_id, stream)
        tunnel.connection.respond(request.stream_id, 200)

    def refused(self, _tunnel: Tunnel, streams: int) -> None:
        self.refused_streams += streams

    def changed(self, tunnel: Tunnel) -> None:
        tunnel.close_if_drained()

    def ended(self, _tunnel: Tunnel, reason: Reason, error: str) -> None:
        assert self.end is None
        self.end = (reason, error)


class Joined:
    def __init__(self, issue: Issue, clock: Any, pipe: SecretsPipe | None, found: KernelTls | None = None) -> None:
        """`found`: of the kernel's TLS, which is wanted then."""
        self.loop, self.clock, self.pipe = Loop(clock), clock, pipe
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.near = socket.create_connection(listener.getsockname())
            self.far, _ = listener.accept()
        if found is EMULATED:
            self.near, self.far = EmulatedSocket(self.near), EmulatedSocket(self.far)
        for sock in (self.near, self.far):
            prepare(sock)
        self._contexts = [make_context(*issue(str(CLIENT)), is_server=False)]
        self._contexts.append(make_context(*issue(str(SERVER)), is_server=True))
        self.counters: Counter[str] = Counter()
        self.client_owner, self.server_owner = (Owner(KernelRecords(found, self.counters)) for _ in range(2))

    def start(self) -> None:
        """The server first, so that nothing is missed."""
        handshake = Handshake(self._contexts[1], is_server=True, pipe=self.pipe)
        self.server = Tunnel(self.loop, self.far, handshake, Role.SERVER, self.server_owner, 5)
        handshake = Handshake(self._contexts[0], is_server=False, pipe=self.pipe)
        self.client = Tunnel(self.loop, self.near, handshake, Role.CLIENT, self.client_owner, 5)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "it never came"
            self.loop.turn(0.01)

    def establish(self) -> None:
        self.start()
        self.until(lambda: self.client_owner.peer is not None and self.server_owner.peer is not None)

    def stream(self) -> tuple[Stream, Stream]:
        """One at each end, answered."""
        near = Stream(self.client)
        near.id = self.client.open(ConnectRequest("10.0.0.2:80"), near) or 0
        assert near.id
        count = len(self.server_owner.streams)
        self.until(lambda: near.heard == [200] and len(self.server_owner.streams) == count + 1)
        return near, self.server_owner.streams[-1]

    def send(self, stream: Stream, payload: bytes) -> None:
        assert stream.tunnel is not None
        connection = stream.tunnel.connection
        [view] = connection.reserve(stream.id, len(payload))
        view[:] = payload
        connection.commit(stream.id, len(payload))
        stream.tunnel.flush_later()


EMULATED = KernelTls(frozenset(Cipher))
KERNEL = "records by the kernel"
RECORDS = ["our records", "records by OpenSSL", "emulated kernel", pytest.param(KERNEL, marks=pytest.mark.vm)]


def kernel_tls() -> KernelTls:
    """Skips where there is none."""
    load_module()
    found = try_kernel_tls()
    if not found.works:
        pytest.skip(f"this kernel's TLS {found}")
    return found


@pytest.fixture(params=RECORDS)
def joined(
    request: pytest.FixtureRequest,
    authority: Callable[[], Issue],
    clock: Any,
    emulation: Callable[[], None],
) -> Iterator[Joined]:
    pipe, found = SecretsPipe(), None
    if request.param == "emulated kernel":
        emulation()
        found = EMULATED
    elif request.param == KERNEL:
        found = kernel_tls()
    made = Joined(authority(), clock, pipe if request.param != "records by OpenSSL" else None, found)
    yield made
    pipe.close()
    assert made.counters["kernel_tls_failed"] == 0
    for tunnel in (made.client, made.server):
        tunnel.fail(Reason.DRAINED, "")
    assert made.client_owner.end is not None
    assert made.server_owner.end is not None
    assert made.loop.watched == 0


def test_both_owners_learn_who_the_other_is(joined: Joined) -> None:
    joined.establish()
    assert joined.client_owner.peer == joined.client.peer == SERVER
    assert joined.server_owner.peer == joined.server.peer == CLIENT
    assert joined.client.can_open
    assert not joined.server.can_open


def test_records_move_into_the_kernel_where_it_can(joined: Joined, request: pytest.FixtureRequest) -> None:
    joined.establish()
    joined.stream()
    is_kernel = "kernel" in request.node.callspec.params["joined"]
    assert [tunnel._kernel is not None for tunnel in (joined.client, joined.server)] == [is_kernel] * 2
    assert joined.counters == ({"kernel_tls_tunnels": 2} if is_kernel else {})


@pytest.mark.parametrize("refuses", [31, 1, 2], ids=["no module", "no key to send with", "no key to receive with"])
def test_a_kernel_that_refuses_at_last(
    authority: Callable[[], Issue], clock: Any, emulation: Callable[[], None], refuses: int
) -> None:
    """It had passed its trial. With one key of two the socket is lost, and that is told; else the tunnel goes on."""
    emulation()
    pipe = SecretsPipe()
    joined = Joined(authority(), clock, pipe, EMULATED)
    joined.near._refuses = refuses  # type: ignore[attr-defined]
    joined.establish()
    if refuses == 2:
        joined.until(lambda: joined.client_owner.end is not None)
        reason, words = joined.client_owner.end or (None, "")
        assert reason is Reason.TLS_FAILED
        assert "one key of two" in words
    else:
        near, far = joined.stream()
        for _ in range(3):
            joined.send(near, b"question")
            joined.send(far, b"answer")
            joined.until(lambda: bytes(far.received) == b"question" and bytes(near.received) == b"answer")
            near.received.clear()
            far.received.clear()
        assert joined.client._kernel is None
        assert isinstance(joined.client._channel, RecordChannel)
    assert joined.counters["kernel_tls_failed"] == 1
    for tunnel in (joined.client, joined.server):
        tunnel.fail(Reason.DRAINED, "")
    pipe.close()


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


def test_payload_arrives_in_both_directions(joined: Joined) -> None:
    joined.establish()
    near, far = joined.stream()
    joined.send(near, b"question")
    joined.send(far, b"answer")
    joined.until(lambda: bytes(far.received) == b"question" and bytes(near.received) == b"answer")


def test_many_megabytes_cross_windows_and_blocked_sockets(joined: Joined) -> None:
    joined.establish()
    near, far = joined.stream()
    block, blocks = bytes(range(256)) * 128, 512  # 16 MiB: the windows are 4 and 16
    sent = 0
    while sent < blocks or len(far.received) < blocks * len(block):
        connection = joined.client.connection
        while sent < blocks and not joined.client.is_blocked and connection.room(near.id) >= len(block):
            views = connection.reserve(near.id, len(block))
            if sum(map(len, views)) < len(block):
                joined.client.flush()
                continue
            at = 0
            for view in views:
                view[:] = block[at : at + len(view)]
                at += len(view)
            connection.commit(near.id, len(block))
            joined.client.flush_later()
            sent += 1
        joined.loop.turn(0.01)
    assert far.received == block * blocks


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


def test_an_owner_may_refuse_a_peer(joined: Joined) -> None:
    joined.server_owner.refusal = PeerError("not you", reason=Reason.TLS_WRONG_TRUST_DOMAIN)
    joined.start()
    joined.until(lambda: joined.server_owner.end is not None and joined.client_owner.end is not None)
    assert joined.server_owner.end == (Reason.TLS_WRONG_TRUST_DOMAIN, "not you")


def test_a_handshake_has_a_deadline(joined: Joined) -> None:
    joined.start()
    joined.clock.seconds += 5.1
    joined.loop.turn(0)
    assert joined.client_owner.end == (Reason.TLS_TIMEOUT, "the handshake was not finished in time")


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


@pytest.mark.parametrize("who", ["the peer", "its user"])
def test_a_blocked_tunnel_forgets_streams_that_are_gone(joined: Joined, who: str) -> None:
    """A peer that does not read may still open and reset streams."""
    joined.establish()
    near, far = joined.stream()
    joined.server.is_blocked = True
    joined.server.stall(far)
    if who == "the peer":
        joined.client.reset(near.id, ErrorCode.CANCEL)
        joined.until(lambda: far.heard == [ErrorCode.CANCEL])
    else:
        joined.server.release(far.id)
    assert not joined.server._stalled
    joined.server.is_blocked = False


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


def test_a_defect_in_the_tunnel_ends_its_streams_as_such(joined: Joined) -> None:
    joined.establish()
    near, _ = joined.stream()
    joined.client.crashed()
    assert near.heard == [200, Reason.BUG]
