# SPDX-License-Identifier: Apache-2.0
"""A whole tunnel as subject: its socket, the streams that it carries, and a socket pair for each as application.

TLS is left out (records.py has it), so an input takes a millisecond. Afterwards there is no descriptor, no watcher, no
open guard and no defect.
"""

import contextlib
import random
import socket
from collections import Counter

from nodeagent.hbone.events import Request
from nodeagent.hbone.limits import Role
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction
from nodeagent.proxy.guard import OpenConnections
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import Closed, Opened
from nodeagent.proxy.stream import StreamRelay
from nodeagent.proxy.tunnel import Tunnel
from nodeagent.tls.channel import RecordChannel
from tests.fuzz.mutate import cut, mutate
from tests.fuzz.sessions import SESSIONS
from tests.fuzz.subject import Input, make_calls
from tests.open_files import open_files

_PEER = Identity("cluster.local", "shop", "web")
_SMALL_BUFFER = 4608
"""The least that the kernel gives: sockets block soon."""
_TURNS = 3


class Tunnels:
    name = "tunnels"

    def __init__(self) -> None:
        self._loop = Loop()
        self._donors = [session for sessions in SESSIONS.values() for session in sessions]

    def make(self, rng: random.Random) -> Input:
        said = mutate(rng, rng.choice(SESSIONS[Role.SERVER]), self._donors)
        return Input(self.name, tuple(cut(rng, b"".join(said))[:40]), make_calls(rng) or b"\0")

    def run(self, given: Input) -> None:
        before = open_files()
        serving = Serving(self._loop)
        try:
            for n, piece in enumerate(given.pieces):
                serving.send(piece)
                serving.call(given.call(n))
                serving.turn()
        finally:
            serving.end()
        assert self._loop.bugs == 0, "a defect was caught by the loop; its log line says where"
        assert self._loop.watched == 0
        assert len(serving.connections) == 0
        assert not open_files() - before


class Serving:
    """Owner of the tunnel, applications behind it, and the peer's end of its socket."""

    def __init__(self, loop: Loop, channel: RecordChannel | None = None) -> None:
        """`channel`: behind a handshake; without, a handshake and records that leave every byte as it is."""
        self._loop, self._reports = loop, list[Opened | Closed]()
        self.connections = OpenConnections(self._reports.append, lambda: loop.now, lambda: 0.0)
        self._ours, self._peer = _pair()
        self._begun = 0
        self._applications: list[socket.socket] = []
        self.heard: list[bytearray] = []
        """What each application has read."""
        self.peer_heard = bytearray()
        self.end_reason: Reason | None = None
        self.end_error = ""
        begin = channel or _InPlainText()
        self.tunnel = Tunnel(loop, self._ours, begin, Role.SERVER, self, 60)  # type: ignore[arg-type]
        if channel is not None:
            self.tunnel.peer = _PEER

    # ---- the peer and the applications -----------------------------------------------------------------------------

    def send(self, piece: bytes) -> None:
        """As much as the worker takes while it turns."""
        view = memoryview(piece)
        for _ in range(_TURNS + len(piece) // _SMALL_BUFFER):
            if not view or self.end_reason is not None:
                return
            with contextlib.suppress(OSError):  # it blocks, or the worker has closed it
                view = view[self._peer.send(view) :]
            self.turn()

    def call(self, code: int) -> None:
        if code & 1:
            self.peer_heard += _read(self._peer, 1 << 16)
        if not self._applications:
            return
        number = code >> 4 & 7 if code >> 4 & 7 < len(self._applications) else len(self._applications) - 1
        application = self._applications[number]
        with contextlib.suppress(OSError):
            match code >> 1 & 7:
                case 1:
                    self.heard[number] += _read(application, 1 << 16)
                case 2:
                    application.send(bytes(3000))
                case 3:
                    application.shutdown(socket.SHUT_WR)
                case 4:
                    application.close()
                case 5:
                    self.heard[number] += _read(application, 10)
                case 6:
                    self.tunnel.drain()
                case _:
                    pass

    def turn(self) -> None:
        self._loop.turn(0)

    def end(self) -> None:
        """The peer goes first, or the tunnel is given up; then the applications."""
        with contextlib.suppress(OSError):  # what is left unread makes a reset of its end
            self.peer_heard += self._peer.recv(1 << 16, socket.MSG_PEEK)
        self._peer.close()
        for _ in range(_TURNS):
            self.turn()
        self.tunnel.fail(Reason.DRAINED, "")
        for number, application in enumerate(self._applications):
            while said := _read(application, 1 << 16):
                self.heard[number] += said
            application.close()
        for _ in range(_TURNS):
            self.turn()
        assert self.end_reason is not None
        records = {report.record.id for report in self.closed}
        assert len(records) == len(self.closed) == self._begun, "one record for each stream"

    @property
    def closed(self) -> list[Closed]:
        return [report for report in self._reports if isinstance(report, Closed)]

    # ---- TunnelOwner -----------------------------------------------------------------------------------------------

    kernel_records = KernelRecords(None, Counter())

    def established(self, tunnel: Tunnel, peer: Identity) -> None:
        """Anybody may come."""

    def requested(self, tunnel: Tunnel, request: Request) -> None:
        if request.problem:
            tunnel.refuse(request.stream_id, 400)
            return
        self._begun += 1
        guard = self.connections.begin(Direction.INBOUND, (Ip("10.0.0.1"), 1), (Ip("10.0.0.2"), 2))
        ours, theirs = _pair()
        self._applications.append(theirs)
        self.heard.append(bytearray())
        tunnel.connection.respond(request.stream_id, 200)
        relay = StreamRelay(self._loop, tunnel, request.stream_id, ours, guard, is_outbound=False)
        tunnel.adopt(request.stream_id, relay)
        guard.established()

    def refused(self, tunnel: Tunnel, streams: int) -> None:
        """Counted elsewhere."""

    def changed(self, tunnel: Tunnel) -> None:
        tunnel.close_if_drained()

    def charge(self, _seconds: float) -> float:
        """What rests is timed, and nothing here is."""
        return 0.0

    def rest(self) -> float:
        return 0.0

    def ended(self, _tunnel: Tunnel, reason: Reason, error: str) -> None:
        assert self.end_reason is None
        assert reason is not Reason.BUG
        self.end_reason, self.end_error = reason, error


class _InPlainText:
    """Handshake and channel that leave every byte as it is."""

    unsent = memoryview(b"")
    has_control = has_more = is_closed = False

    def __init__(self) -> None:
        self._arrived = memoryview(b"")

    def received(self, ciphertext: memoryview) -> None:
        self._arrived, self.has_more = ciphertext, True

    def keep(self) -> None:
        self._arrived = memoryview(bytes(self._arrived))

    def shake_hands(self) -> "_InPlainText":
        return self

    def peer_identity(self) -> Identity:
        return _PEER

    def open_into(self, buffer: memoryview) -> int:
        size = len(self._arrived)
        buffer[:size] = self._arrived
        self._arrived, self.has_more = memoryview(b""), False
        return size

    def seal(self, plain: memoryview) -> int:
        if not self.unsent:
            self.unsent = memoryview(bytes(plain))
            return len(plain)
        return 0

    def sent(self, size: int) -> None:
        self.unsent = self.unsent[size:]

    def blocked(self) -> None:
        """It keeps what it has."""

    def close(self) -> None:
        """There is nothing to say."""

    def forget(self) -> None:
        self.unsent = memoryview(b"")


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.settimeout(0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL_BUFFER)
    return ours, theirs


def _read(sock: socket.socket, size: int) -> bytes:
    with contextlib.suppress(OSError):
        return sock.recv(size)
    return b""
