# SPDX-License-Identifier: Apache-2.0
"""What becomes of a connection, by the code that carries it: the kernel's table of verdicts and the worker's own
connections (outbound, stream, plain text), up to the socket that they would dial.

Only what is beyond the decision is replaced: dialling, the pool of tunnels, certificates. A tunnel's CONNECT is handed
to the worker of the node that it reaches.
"""

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import pytest

from nodeagent.agent.enrolment import EnrolledPod, LocalPods, decide_enrolment
from nodeagent.agent.verdicts import find_members
from nodeagent.hbone.events import Request
from nodeagent.model.address import Ip, join_host_port
from nodeagent.model.mesh import Mesh
from nodeagent.model.pod import LocalPod
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.model.workload import TunnelProtocol, Workload
from nodeagent.policy.verdict_table import OTHER_PORTS, verdict_table
from nodeagent.proxy import inbound_stream, outbound, plaintext
from nodeagent.proxy.authorizer import Authorizer
from nodeagent.proxy.guard import ConnectionGuard, OpenConnections
from nodeagent.proxy.holds import Holds
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import WorkerConfig
from nodeagent.proxy.pool import PoolKey
from nodeagent.proxy.shared import Shared
from nodeagent.proxy.state import State
from nodeagent.routing.route import PROXY_PORTS, Target

_CLIENT_PORT = 40000
_HBONE = 15008


class Decided(NamedTuple):
    verdict: str
    """As explain has them."""
    reason: str = ""
    policy: str = ""
    endpoint: str = ""
    """`ip:port` that would be dialled in the end; empty where nobody came so far."""
    by: str = "worker"


class _Dial:
    """In place of the worker's: notes where it would have gone."""

    dialled: tuple[Ip, int] | None = None

    def __init__(self, _loop: Loop, _source: Any, destination: tuple[Ip, int], _seconds: float, _dialler: Any) -> None:
        _Dial.dialled = destination

    def cancel(self) -> None:
        """Nothing was begun."""


class _Pool:
    """In place of the worker's: notes which tunnel was asked for."""

    key: PoolKey | None = None

    def request(self, key: PoolKey, _passenger: Any) -> None:
        self.key = key

    def withdraw(self, _key: PoolKey, _passenger: Any) -> None:
        self.key = None


class _AnyCertificate:
    def client_context(self, _identity: Any) -> None:
        """There is one."""


class _Tunnel:
    def __init__(self, peer: Any) -> None:
        self.peer = peer

    def refuse(self, _stream: int, _status: int) -> None:
        """Its record says why."""


class Worker:
    """Of one node."""

    def __init__(self, loop: Loop, config: WorkerConfig, mesh: Mesh, local: frozenset[Ip]) -> None:
        state = State(loop, config, lambda _answer: None)
        state.mesh, state.local = mesh, local
        state.certificates = cast("Any", _AnyCertificate())
        connections = OpenConnections(lambda _report: None, lambda: 0.0, lambda: 0.0)
        nothing = cast("Any", None)
        self.shared = Shared(loop, state, connections, Holds(loop), nothing, nothing, Counter())
        self.authorizer = Authorizer(loop, state, connections)
        self.outbound = outbound.Outbound(self.shared, self.authorizer)
        self.pool = _Pool()
        self.outbound.pool = cast("Any", self.pool)
        self.plaintext = plaintext.Plaintext(self.shared, self.authorizer)

    def dials(self, source: Ip, target: Target) -> tuple[Decided, PoolKey | None, str]:
        """What becomes of it here; a tunnel, and the authority that is asked of it, if it goes on by one."""
        with self._accepted(Direction.OUTBOUND, source, target) as (sock, guard):
            connection = outbound.OutboundConnection(self.outbound, sock, guard)
            connection.begin()
            request = connection._request
            decided = self._outcome(guard.record, is_judged=guard.facts is not None)
            key, self.pool.key = self.pool.key, None
            connection.refuse(Reason.CLOSED)
            return decided, key, request.authority if key is not None and request is not None else ""

    def takes_plaintext(self, source: Ip, target: Target) -> Decided:
        with self._accepted(Direction.INBOUND, source, target) as (sock, guard):
            connection = plaintext.PlaintextConnection(self.plaintext, sock, guard)
            connection.begin()
            decided = self._outcome(guard.record, is_judged=guard.facts is not None)
            connection.refuse(Reason.CLOSED)
            return decided

    def takes_stream(self, source: Ip, reached: Ip, peer: Any, authority: str) -> Decided:
        guard = self._begin(Direction.INBOUND, source, Target(reached, _HBONE))
        tunnel = cast("Any", _Tunnel(peer))
        stream = inbound_stream.InboundStream(self.shared, self.authorizer, tunnel, Request(1, authority), guard)
        stream.begin()
        decided = self._outcome(guard.record, is_judged=guard.facts is not None)
        stream._close(Reason.CLOSED, "")
        return decided

    @contextlib.contextmanager
    def _accepted(
        self, direction: Direction, source: Ip, target: Target
    ) -> Iterator[tuple[socket.socket, ConnectionGuard]]:
        ours, theirs = socket.socketpair()
        with theirs:
            yield ours, self._begin(direction, source, target)

    def _begin(self, direction: Direction, source: Ip, target: Target) -> ConnectionGuard:
        _Dial.dialled, self.pool.key = None, None
        return self.shared.connections.begin(direction, (source, _CLIENT_PORT), (target.ip, target.port))

    def _outcome(self, record: ConnectionRecord, *, is_judged: bool) -> Decided:
        at = join_host_port(record.destination_ip, record.destination_port) if record.destination_ip else ""
        if record.reason:
            is_denied = record.reason in {Reason.POLICY_DENIED.value, Reason.POLICY_NOT_ALLOWED.value}
            return Decided("DENIED" if is_denied else "REFUSED", record.reason, record.policy, at)
        if _Dial.dialled is not None:
            return Decided("ALLOWED" if is_judged else "PASSES", "", record.policy, join_host_port(*_Dial.dialled))
        return Decided("PENDING", Reason.POLICY_PENDING.value, "", at)


class Nodes:
    """A mesh as all of its nodes have it."""

    def __init__(self, mesh: Mesh, nodes: Sequence[str], same_node: str, config: WorkerConfig, loop: Loop) -> None:
        self.mesh, self.same_node = mesh, same_node
        pods = [LocalPod(one.namespace, one.name, "/run/netns/x") for one in mesh.workloads.values()]
        self.enrolled = {
            node: decide_enrolment(mesh, node, LocalPods(tuple(_here(mesh, node, pods)))).enrolled for node in nodes
        }
        self.workers = {
            node: Worker(loop, config, mesh, frozenset(ip for pod in enrolled for ip in pod.workload.addresses))
            for node, enrolled in self.enrolled.items()
        }
        self._tables = {node: self._table(enrolled) for node, enrolled in self.enrolled.items()}

    def is_captured(self, workload: Workload | None) -> bool:
        return workload is not None and workload.node in self.workers and workload.protocol is TunnelProtocol.HBONE

    def connects(self, client: Workload, target: Target) -> Decided:
        """A captured pod does."""
        if target.ip in client.addresses:
            return Decided("PASSES", by="nobody")
        source = _of_family(client, target)
        if self._is_let_pass(client, target):
            return Decided("ALLOWED", "", "", join_host_port(*target_of(target)), "kernel")
        decided, key, authority = self.workers[client.node].dials(source, target)
        if key is None:
            return decided
        reached = self.mesh.workload_at("", key.ip)
        assert reached is not None
        return self.workers[reached.node].takes_stream(source, key.ip, key.identity, authority)

    def comes_in_plaintext(self, source: Ip, target: Target) -> Decided:
        """To an address of a pod, from somebody who is not captured."""
        reached = self.mesh.workload_at("", target.ip)
        if reached is None or not self.is_captured(reached):
            return Decided("PASSES", by="nobody")
        if target.port == _HBONE:  # its listener ends what is no TLS
            return Decided("REFUSED", Reason.TLS_NOT_TLS.value)
        return self.workers[reached.node].takes_plaintext(source, target)

    def _is_let_pass(self, client: Workload, target: Target) -> bool:
        numbers, rows = self._tables[client.node]
        reached = self.mesh.workload_at("", target.ip)
        if self.same_node != "kernel" or reached is None or reached.uid not in numbers:
            return False
        to = numbers[reached.uid]
        bits, is_pending = rows.get((to, target.port)) or rows.get((to, OTHER_PORTS)) or (0, False)
        return not is_pending and bool(bits >> numbers[client.uid] & 1)

    def _table(self, enrolled: Sequence[EnrolledPod]) -> tuple[dict[str, int], dict[tuple[int, int], tuple[int, bool]]]:
        owners = {(pod.pod.namespace, pod.pod.name, pod.pod.netns): number for number, pod in enumerate(enrolled)}
        members = list(find_members(self.mesh, enrolled, owners, ()))
        rows = verdict_table(members, PROXY_PORTS)
        numbers = {pod.workload.uid: number for number, pod in enumerate(enrolled)}
        return numbers, {(row.destination, row.port): (row.sources, row.is_pending) for row in rows}


def target_of(target: Target) -> tuple[Ip, int]:
    return target.ip, target.port


def _here(mesh: Mesh, node: str, pods: Sequence[LocalPod]) -> list[LocalPod]:
    here = {(one.namespace, one.name) for one in mesh.workloads_on(node)}
    return [pod for pod in pods if (pod.namespace, pod.name) in here]


def _of_family(client: Workload, target: Target) -> Ip:
    return next(ip for ip in client.addresses if (":" in ip) == (":" in target.ip))


@contextlib.contextmanager
def nothing_is_dialled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (outbound, plaintext, inbound_stream):
            patch.setattr(module, "Dial", _Dial)
        yield
