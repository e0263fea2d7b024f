# SPDX-License-Identifier: Apache-2.0
"""The compiled hot path: that it is used, that it says what the Python says, and that it ends as that does.

What it does with honest tunnels is in test_stream.py and in the tests of tunnel.py and its layers, which run with it
and without; hostile ones are in tests/fuzz/hot_path.py.
"""

import contextlib
import hashlib
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodeagent.hbone import flood, frames
from nodeagent.hbone.events import Request
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Role
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction
from nodeagent.proxy import lane, stream, tunnel_receiving
from nodeagent.proxy.guard import OpenConnections
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import Closed, Opened
from nodeagent.proxy.sockets import prepare
from nodeagent.proxy.stream import StreamRelay
from nodeagent.proxy.tunnel import Tunnel
from nodeagent.tls import key_schedule, opener, record, traffic_key
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.sealer import Sealer
from nodeagent.tls.traffic_key import RECORDS_PER_KEY, TrafficKey

_SECRETS = bytes(32), bytes(range(32))
_PEER = Identity("cluster.local", "shop", "web")


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    prepare(ours)
    prepare(theirs)
    return ours, theirs


class End:
    """A tunnel's end with relays, whose other sockets are the test's."""

    def __init__(self, loop: Loop, sock: socket.socket, role: Role, first_record: int) -> None:
        writing, reading = (TrafficKey(Cipher.AES_128_GCM, secret, first_record) for secret in _SECRETS)
        if role is Role.SERVER:
            writing, reading = reading, writing
        self.loop, self.role = loop, role
        self.told: list[Opened | Closed] = []
        self.connections = OpenConnections(self.told.append, lambda: loop.now, lambda: 0.0)
        self.outside: dict[int, socket.socket] = {}
        self.end: Reason | None = None
        self.tunnel = Tunnel(loop, sock, RecordChannel(writing, reading, is_server=role is Role.SERVER), role, self, 60)
        self.tunnel.peer = _PEER

    kernel_records = KernelRecords(None, Counter())

    def charge(self, _seconds: float) -> float:
        """What rests is timed, and nothing here is."""
        return 0.0

    def rest(self) -> float:
        return 0.0

    def join(self, stream_id: int) -> None:
        guard = self.connections.begin(Direction.OUTBOUND, (Ip("10.0.0.1"), 1), (Ip("10.0.0.2"), 2))
        ours, self.outside[stream_id] = _pair()
        is_outbound = self.role is Role.CLIENT
        self.tunnel.adopt(
            stream_id, StreamRelay(self.loop, self.tunnel, stream_id, ours, guard, is_outbound=is_outbound)
        )

    def open(self) -> int:
        stream_id = self.tunnel.open(ConnectRequest("10.0.0.2:80"), _Nobody())  # type: ignore[arg-type]
        assert stream_id
        return stream_id

    def established(self, _tunnel: Tunnel, _peer: Identity) -> None:
        """There is no handshake here."""

    def requested(self, joined: Tunnel, request: Request) -> None:
        joined.connection.respond(request.stream_id, 200)
        self.join(request.stream_id)
        joined.flush_later()

    def refused(self, _tunnel: Tunnel, _streams: int) -> None:
        raise AssertionError

    def changed(self, _tunnel: Tunnel) -> None:
        """Streams ended."""

    def ended(self, _tunnel: Tunnel, reason: Reason, _error: str) -> None:
        self.end = reason


class _Nobody:
    """Of a stream that waits for its answer."""

    def responded(self, _response: object) -> None:
        """The test joins it."""


class Line:
    """A client's and a server's end, and `count` streams."""

    def __init__(self, count: int, first_record: int = 0) -> None:
        self.loop = Loop()
        near, far = _pair()
        self.near, self.far = (
            End(self.loop, sock, role, first_record) for sock, role in ((near, Role.CLIENT), (far, Role.SERVER))
        )
        self.ids = [self.near.open() for _ in range(count)]
        self.until(lambda: len(self.far.outside) == count)
        self.until(lambda: all(one.is_answered for one in self.near.tunnel.connection._streams.values()))
        for stream_id in self.ids:
            self.near.join(stream_id)

    def until(self, holds: Any) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "it never came"
            self.loop.turn(0.01)

    def close(self) -> None:
        for end in (self.near, self.far):
            end.tunnel.fail(Reason.DRAINED, "")
            for sock in end.outside.values():
                sock.close()
        self.loop.turn(0)


@pytest.fixture
def make_line() -> Iterator[Callable[..., Line]]:
    """Afterwards nothing is watched, and no defect was met."""
    with contextlib.ExitStack() as stack:
        lines: list[Line] = []

        def make(count: int, first_record: int = 0) -> Line:
            lines.append(stack.enter_context(contextlib.closing(Line(count, first_record))))
            return lines[-1]

        yield make
    assert [(line.loop.watched, line.loop.bugs) for line in lines] == [(0, 0)] * len(lines)


class Flow:
    """Bytes one way: what is to be said at one socket, and what the other has heard of it."""

    def __init__(self, source: socket.socket, target: socket.socket, said: bytes) -> None:
        self.source, self.target, self.size = source, target, len(said)
        self._left, self._wanted = memoryview(said), hashlib.sha256(said).digest()
        self._heard, self.is_over, self._is_shut = hashlib.sha256(), False, False

    def step(self, rng: random.Random) -> None:
        try:
            if self._left:
                self._left = self._left[self.source.send(self._left[: rng.choice((1, 900, 1024, 70_000, 1 << 20))]) :]
            elif not self._is_shut:
                self._is_shut = True
                self.source.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        try:
            heard = self.target.recv(rng.choice((10, 4096, 1 << 20)))
            self._heard.update(heard)
            self.is_over = not heard
        except BlockingIOError:
            pass

    def check(self) -> None:
        assert self._heard.digest() == self._wanted


@pytest.mark.parametrize("first_record", [0, RECORDS_PER_KEY - 300], ids=["", "over a change of keys"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("hot_path")
def test_streams_both_ways_arrive_whole(make_line: Callable[..., Line], seed: int, first_record: int) -> None:
    rng, line = random.Random(seed), make_line(5, first_record)
    flows = []
    for stream_id in line.ids:
        ends = line.near.outside[stream_id], line.far.outside[stream_id]
        for source, target in (ends, ends[::-1]):
            flows.append(Flow(source, target, rng.randbytes(rng.choice((0, 1, 3000, 100_000, 3_000_000)))))
    if first_record:
        ends = line_of_bulk(line)
        flows += [Flow(*ends, rng.randbytes(8_000_000)), Flow(*ends[::-1], b"")]
    deadline = time.monotonic() + 60
    while not all(flow.is_over for flow in flows):
        assert time.monotonic() < deadline, "it never came"
        for flow in flows:
            if not flow.is_over:
                flow.step(rng)
        line.loop.turn(0)
    for flow in flows:
        flow.check()
    line.until(lambda: not line.near.tunnel.streams and not line.far.tunnel.streams)
    records = [[told.record for told in end.told if isinstance(told, Closed)] for end in (line.near, line.far)]
    assert {one.reason for one in (*records[0], *records[1])} == {Reason.CLOSED.value}
    near, far = ((sum(one.sent_bytes for one in side), sum(one.received_bytes for one in side)) for side in records)
    assert near == far
    assert sum(near) == sum(flow.size for flow in flows)


def line_of_bulk(line: Line) -> tuple[socket.socket, socket.socket]:
    """One more stream, of which a key's last records are made."""
    stream_id = line.near.open()
    line.until(lambda: stream_id in line.far.outside)
    line.until(lambda: line.near.tunnel.connection._streams[stream_id].is_answered)
    line.near.join(stream_id)
    return line.near.outside[stream_id], line.far.outside[stream_id]


def test_it_carries_what_is_plain(monkeypatch: pytest.MonkeyPatch, make_line: Callable[..., Line]) -> None:
    """Else it would be equal because it does nothing."""
    assert lane.compiled is not None
    done: Counter[str] = Counter()
    line = make_line(1)

    class Counting:
        def __getattr__(self, name: str) -> Any:
            def count(subject: object) -> int:
                result: int = getattr(compiled, name)(subject)
                done[name] += result > 0
                return result

            return count

    compiled = lane.compiled
    monkeypatch.setattr(lane, "compiled", Counting())
    source, target = line.near.outside[1], line.far.outside[1]

    def carry() -> None:
        source.send(b"x" * 1024)
        line.until(lambda: _has_bytes(target))
        assert target.recv(2048) == b"x" * 1024

    carry()  # the process's first buffers are Python's to make
    done.clear()
    for _ in range(10):
        carry()
    assert done["read_stream"] == done["flush"] == 10
    assert done["receive"] >= 10


def _has_bytes(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


@pytest.mark.usefixtures("hot_path")
def test_a_turn_opens_no_more_for_a_record_that_is_not_plain(make_line: Callable[..., Line]) -> None:
    line = make_line(1)
    sealer, out = Sealer(TrafficKey(Cipher.AES_128_GCM, _SECRETS[0])), memoryview(bytearray(1 << 20))
    sealer._key.sequence = line.near.tunnel._channel._writing.sequence  # type: ignore[union-attr]
    frame, at = frames.pack_frame(frames.DATA, 0, 1, b"x"), 0
    for _ in range(200):
        at = sealer.seal_into(memoryview(2 * frame), out, at)[1]
    at = sealer.control_into(record.APPLICATION_DATA, frame + b"\x17\0\0", out, at)  # padded: type and zeros behind it
    for _ in range(200):
        at = sealer.seal_into(memoryview(2 * frame), out, at)[1]
    line.loop.turn(0)
    sock = line.near.tunnel._socket
    assert sock is not None
    assert sock.send(out[:at]) == at
    before = line.far.tunnel.connection._state.inbound.left
    line.until(lambda: line.far.tunnel.connection._state.inbound.left < before)
    assert before - line.far.tunnel.connection._state.inbound.left <= tunnel_receiving.TURN_WORK
    del sock


@pytest.mark.usefixtures("hot_path")
def test_what_is_wrong_with_one_stream_alone_breaks_that_one(make_line: Callable[..., Line]) -> None:
    line = make_line(2)
    relay = line.far.tunnel.streams[1]
    assert isinstance(relay, StreamRelay)
    guard, relay._guard = relay._guard, None  # type: ignore[assignment]
    for stream_id in (1, 3):
        line.near.outside[stream_id].send(b"hello")
    line.until(lambda: line.loop.bugs > 0 and _has_bytes(line.far.outside[3]))
    assert line.far.tunnel.is_open
    relay._guard = guard
    line.loop.bugs = 0


def test_a_broken_user_of_a_stream_breaks_alone(
    make_line: Callable[..., Line], caplog: pytest.LogCaptureFixture
) -> None:
    line = make_line(2)

    class Broken:
        def payload(self, _views: object, _is_last: bool) -> None:  # noqa: FBT001
            raise ZeroDivisionError

        def crashed(self) -> None:
            line.far.tunnel.reset(1, frames.ErrorCode.INTERNAL_ERROR)

    relay = line.far.tunnel.streams[1]
    line.far.tunnel.adopt(1, Broken())  # type: ignore[arg-type]
    for stream_id in (1, 3):
        line.near.outside[stream_id].send(b"hello")
    line.until(lambda: _has_bytes(line.far.outside[3]))
    assert line.far.outside[3].recv(10) == b"hello"
    assert "a defect of nodeagent" in caplog.text
    assert line.loop.bugs == 1
    line.loop.bugs = 0
    relay.gone(Reason.DRAINED, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, getattr(record, name))
            for name in ("HEADER_BYTES", "TAG_BYTES", "OVERHEAD", "RECORD_BYTES", "LONGEST")
        ),
        ("SEALED_BYTES", record.SEALED_BYTES),
        ("APPLICATION_DATA", record.APPLICATION_DATA),
        ("IV_BYTES", key_schedule.IV_BYTES),
        ("MOST_RECORDS", opener.MOST_RECORDS),
        ("RECORDS_PER_KEY", traffic_key.RECORDS_PER_KEY),
        ("FRAME_HEADER_BYTES", frames.HEADER_BYTES),
        *((name, getattr(frames, name)) for name in ("DATA", "END_STREAM", "DEFAULT_FRAME")),
        ("PER_SENT_FRAME", flood.PER_SENT_FRAME),
        ("READ_BYTES", stream.READ_BYTES),
        ("TURN_WORK", tunnel_receiving.TURN_WORK),
        ("BLOCKED", lane.BLOCKED),
    ],
)
def test_it_has_the_numbers_of_the_python(name: str, value: int) -> None:
    assert getattr(lane.compiled, name) == value


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "compiled", lane.compiled)
    assert lane.is_compiled()
    lane.switch_off()
    assert not lane.is_compiled()


def test_a_build_that_cannot_be_loaded_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nodeagent.proxy._lane", None)
    monkeypatch.delattr("nodeagent.proxy._lane", raising=False)
    assert lane._load() is None
