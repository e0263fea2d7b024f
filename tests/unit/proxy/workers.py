# SPDX-License-Identifier: Apache-2.0
"""Workers without processes: each the parts of one, with a loop of its own, all on loopback and in this thread.

A `Chain` is a client's socket, a worker, a tunnel, another worker, and the application's socket.
"""

import contextlib
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from nodeagent.hbone.events import Response
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.model.workload import TunnelProtocol, Workload
from nodeagent.proxy.arrival import Arrival
from nodeagent.proxy.authorizer import Authorizer
from nodeagent.proxy.departure import Departure
from nodeagent.proxy.guard import ConnectionGuard, OpenConnections
from nodeagent.proxy.holds import Holds
from nodeagent.proxy.inbound import Inbound
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import Certificate, Closed, HandedOver, Opened, WorkerConfig
from nodeagent.proxy.pool import Pool, PoolKey
from nodeagent.proxy.relay import SocketRelay
from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.proxy.shared import Shared
from nodeagent.proxy.sockets import prepare
from nodeagent.proxy.state import State
from nodeagent.proxy.stream import StreamRelay
from nodeagent.proxy.tunnel import Tunnel

HERE = Ip("127.0.0.1")
_NARROW_BYTES = 20_000
POD = Identity("cluster.local", "a", "pod")
Issue = Callable[..., tuple[str, str]]


class Worker:
    """All pods of the test are one, at 127.0.0.1."""

    def __init__(self, config: WorkerConfig, pair: tuple[str, str], number: int = 0) -> None:
        """`pair`: files with key and chain, and with the roots."""
        self.loop = Loop()
        self.emitted: list[Opened | Closed] = []
        self.handed_over: list[HandedOver] = []
        self.state = State(self.loop, config, lambda _answer: None)
        pod = Workload(
            uid="pod",
            name="pod",
            namespace="a",
            addresses=(HERE,),
            protocol=TunnelProtocol.HBONE,
            trust_domain="cluster.local",
            service_account="pod",
            workload_name="pod",
        )
        self.state.mesh.apply(Changes(workloads=(pod,)))
        self.state.local, self.state.is_complete = frozenset({HERE}), True
        descriptors = [os.open(path, os.O_RDONLY) for path in pair]
        self.state.certificates.add(Certificate(POD, "1", time.time() + 3600), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self.connections = OpenConnections(self.emitted.append, lambda: self.loop.now, time.time, number * 1000)
        self.secrets = SecretsPipe()
        counters: Counter[str] = Counter()
        records = KernelRecords(None, counters)
        self.shared = Shared(self.loop, self.state, self.connections, Holds(self.loop), self.secrets, records, counters)
        self.authorizer = Authorizer(self.loop, self.state, self.connections)
        self.inbound, self.pool = Inbound(self.shared, self.authorizer), Pool(self.shared)

    @property
    def closed(self) -> list[ConnectionRecord]:
        return [one.record for one in self.emitted if isinstance(one, Closed)]

    def depart(self, sock: socket.socket) -> Departure:
        return Departure(self.shared, self.inbound, self.pool, sock, self.handed_over.append)

    def arrive(self, sock: socket.socket) -> Arrival:
        return Arrival(self.shared, self.authorizer, self.inbound, self.pool, sock)

    def end(self) -> None:
        """Whatever is left is cut."""
        for guard in self.connections.all():
            guard.cut(Reason.DRAINED)
        for accepted in tuple(self.inbound.tunnels):
            accepted.fail(Reason.DRAINED, "")
        for dialled in (*self.pool.all(), *self.pool.retired):
            dialled.fail(Reason.DRAINED, "")
        self.loop.turn(0)
        self.secrets.close()


class Client:
    """A Passenger and then the user of its stream: a client's socket that goes by the tunnel."""

    def __init__(self, worker: Worker, sock: socket.socket, guard: ConnectionGuard, authority: str) -> None:
        self._worker, self._socket, self._guard, self._authority = worker, sock, guard, authority
        self._tunnel: Tunnel | None = None
        self.stream_id = 0
        self.is_joined = False

    def tunnel_ready(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.stream_id = tunnel.open(ConnectRequest(self._authority), self) or 0
        assert self.stream_id

    def responded(self, response: Response) -> None:
        assert response.status == 200
        assert self._tunnel is not None
        relay = StreamRelay(
            self._worker.loop, self._tunnel, self.stream_id, self._socket, self._guard, is_outbound=True
        )
        self._tunnel.adopt(self.stream_id, relay)
        self._guard.established()
        self.is_joined = True

    def tunnel_failed(self, reason: Reason, error: str) -> None:
        raise AssertionError(reason, error)

    tunnel_cut = gone = tunnel_failed

    def payload(self, views: list[memoryview], _is_last: bool = False) -> None:  # noqa: FBT001, FBT002
        raise AssertionError(views)

    def was_reset(self, code: int) -> None:
        raise AssertionError(code)

    def ended(self) -> None:
        raise AssertionError

    can_send = can_flush = crashed = ended


def joined_by_tcp() -> tuple[socket.socket, socket.socket]:
    """The proxy's end, and the other."""
    with socket.create_server((HERE, 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    prepare(ours)
    theirs.settimeout(0)
    return ours, theirs


class Talk:
    """The two ends of one connection through the chain, and what each has said and heard."""

    def __init__(self, near: socket.socket, far: socket.socket, seed: int) -> None:
        self.sockets = near, far
        self._random = random.Random(seed)
        self.said = [bytearray(), bytearray()]
        self.heard = [bytearray(), bytearray()]
        self.has_ended = [False, False]
        self.hears_end = [False, False]

    def say(self, side: int, size: int) -> None:
        """As much of it as the socket takes."""
        if self.has_ended[side]:
            return
        payload = self._random.randbytes(size)
        with contextlib.suppress(BlockingIOError):
            self.said[side] += payload[: self.sockets[side].send(payload)]

    def finish(self, side: int) -> None:
        if not self.has_ended[side]:
            self.has_ended[side] = True
            self.sockets[side].shutdown(socket.SHUT_WR)

    def listen(self, side: int, size: int = 1 << 20) -> None:
        with contextlib.suppress(BlockingIOError):
            said = self.sockets[side].recv(size)
            self.heard[side] += said
            self.hears_end[side] = not said

    def is_whole(self) -> bool:
        """Everything that was said was heard, and the ends."""
        for side in (0, 1):
            self.listen(side)
        return self.heard == self.said[::-1] and self.hears_end == self.has_ended[::-1]


class Chain:
    def __init__(self, config: WorkerConfig, issue: Issue) -> None:
        self._config = config
        self._pair = issue(str(POD))
        assert Path(self._pair[0]).exists()
        self.everyone: list[Worker] = []
        self.near, self.far = self.worker(), self.worker()
        self.arrivals: list[Arrival] = []
        self.departures: list[Departure] = []
        self._door = socket.create_server((HERE, 0))
        self._application = socket.create_server((HERE, 0))
        self._sockets: list[socket.socket] = [self._door, self._application]

    def worker(self) -> Worker:
        self.everyone.append(Worker(self._config, self._pair, len(self.everyone)))
        return self.everyone[-1]

    @property
    def ended(self) -> list[ConnectionRecord]:
        """The records of all workers."""
        return [record for worker in self.everyone for record in worker.closed]

    def turn(self) -> None:
        for worker in self.everyone:
            worker.loop.turn(0)

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "it never came"
            self.turn()

    def key(self) -> PoolKey:
        return PoolKey(HERE, POD, HERE, self._door.getsockname()[1], frozenset({POD}))

    def ask(self) -> tuple[Client, socket.socket]:
        """A client on its way, and its socket."""
        ours, theirs = joined_by_tcp()
        self._sockets.append(theirs)
        host, port = self._application.getsockname()
        guard = self.near.connections.begin(Direction.OUTBOUND, (HERE, 1), (HERE, port))
        client = Client(self.near, ours, guard, f"{host}:{port}")
        self.near.pool.request(self.key(), client)
        return client, theirs

    def accept_tunnel(self) -> None:
        """The far worker's."""
        self._door.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            sock, (_, port) = self._door.accept()
            prepare(sock)
            self.far.inbound.accepted(sock, (HERE, port))

    def talk(self, seed: int = 0) -> Talk:
        client, theirs = self.ask()
        self._application.settimeout(0)
        accepted: list[socket.socket] = []

        def is_joined() -> bool:
            self.accept_tunnel()
            with contextlib.suppress(BlockingIOError):
                accepted.append(self._application.accept()[0])
                accepted[0].settimeout(0)
                self._sockets += accepted
            return client.is_joined and bool(accepted)

        self.until(is_joined)
        return Talk(theirs, accepted[0], seed)

    def narrow(self) -> None:
        """Small buffers in the kernel, so that sockets block and everything is cut anywhere."""
        descriptors = [fd for worker in (self.near, self.far) for fd in worker.loop._watchers]
        for descriptor in (*descriptors, *(sock.fileno() for sock in self._sockets)):
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    sock.setsockopt(socket.SOL_SOCKET, option, _NARROW_BYTES)

    def pair(self, seed: int = 0) -> tuple[Talk, SocketRelay]:
        """A connection past the tunnel, at the near worker."""
        near, client = joined_by_tcp()
        far, server = joined_by_tcp()
        self._sockets += [client, server]
        guard = self.near.connections.begin(Direction.OUTBOUND, (HERE, 1), (HERE, 2))
        relay = SocketRelay(self.near.loop, near, far, guard)
        guard.established()
        return Talk(client, server, seed), relay

    def replace(self, side: str) -> tuple[Worker, Departure]:
        """Begins to; the successor is in its place."""
        former, successor = getattr(self, side), self.worker()
        setattr(self, side, successor)
        one, other = socket.socketpair()
        self.arrivals.append(successor.arrive(other))
        self.departures.append(former.depart(one))
        return former, self.departures[-1]

    def close(self) -> None:
        for departure in self.departures:
            departure.close()
        self.until(lambda: all(arrival.is_over for arrival in self.arrivals))
        for worker in self.everyone:
            worker.end()
        for sock in self._sockets:
            sock.close()
        assert [worker.loop.bugs for worker in self.everyone] == [0] * len(self.everyone)
