# SPDX-License-Identifier: Apache-2.0
"""Two tunnels joined on loopback, with owners and users of streams that write down what they hear."""

import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.errors import PeerError
from nodeagent.hbone.events import Request, Response
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Role
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.kernel_tls import load_module
from nodeagent.proxy.kernel_trial import KernelTls, try_kernel_tls
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.proxy.sockets import prepare
from nodeagent.proxy.tls import Handshake, make_context
from nodeagent.proxy.tunnel import Tunnel
from nodeagent.tls.key_schedule import Cipher
from tests.unit.proxy.emulated import EmulatedSocket

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
        self.charges: list[float] = []
        self.rest_seconds = 0.0

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

    def charge(self, seconds: float) -> float:
        self.charges.append(seconds)
        return self.rest_seconds

    def rest(self) -> float:
        return self.rest_seconds

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
