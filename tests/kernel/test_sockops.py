# SPDX-License-Identifier: Apache-2.0
"""Direct connections as their client's socket reports them: opening and end, once each, with bytes that are exact."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import codings
from nodeagent.kernel.codings import FlowReport, ReportState
from nodeagent.kernel.flow_table import FlowTable
from nodeagent.kernel.maps import Table
from nodeagent.kernel.netns import OWN_NETNS, enter_netns, netns_cookie
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.sock_destroy import End, destroy_sockets
from nodeagent.kernel.sock_diag import read_sockets
from nodeagent.lab.demo.claims import eventually
from nodeagent.policy.verdict_table import VerdictRow
from tests.kernel.conftest import PATIENCE_SECONDS, Family, Node, Pod
from tests.kernel.namespaces import make_namespace, run
from tests.kernel.pods_cgroup import PodsCgroup, pods_cgroup

pytestmark = pytest.mark.kernel

PORT, CLOSED_PORT, STEERED_PORT, SILENT_PORT = 7100, 7101, 7102, 7103
RING_ROOM = 1 << 20
RECORD_BYTES = 8 + 96
ROOM = 65536


class Watched:
    """Pods a and b, a allowed to reach b directly but on one port, and what is reported of it."""

    def __init__(self, node: Node, cgroup: PodsCgroup) -> None:
        self.node, self.cgroup = node, cgroup
        maps = Pins(node.bpffs).maps
        self.table = FlowTable(maps)
        self.rows = Table(maps, "flow_reports", codings.of_number("=Q"), codings.of_flow_report())

    def reports(self) -> list[FlowReport]:
        return self.table.events(1 << 20)

    def wait_for(self, count: int) -> list[FlowReport]:
        """So many reports, and no more."""
        found: list[FlowReport] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(found) < count:
            assert time.monotonic() < deadline, found
            found += self.reports()
        assert len(found) == count, found
        return found

    def rows_of_ended(self) -> dict[int, FlowReport]:
        """What is left in the table, by cookie, once no connection is open: the last packets may still be under way."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            left = self.table.rows()
            if all(report.ended for report in left):
                return {report.cookie: report for report in left}
            assert time.monotonic() < deadline, left

    @contextlib.contextmanager
    def connected(self, ip: str, family: int = 0, port: int = PORT) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Client and server ends of one connection."""
        with (
            self.node.b.listen(port) as listener,
            self.cgroup.dial(self.node.a.netns, ip, port, family) as client,
        ):
            server, _ = listener.accept()
            with server:
                server.settimeout(PATIENCE_SECONDS)
                yield client, server

    def close(self) -> None:
        self.table.close()
        self.rows.close()


@pytest.fixture(scope="module")
def enrolled(node: Node) -> Iterator[Watched]:
    with pods_cgroup() as cgroup:
        node.cgroup = cgroup.setting
        node.steering = node.make_steering()
        node.enrol(node.a, node.b)
        number_a, number_b = node.number(node.a), node.number(node.b)
        node.steering.put_verdicts([VerdictRow(number_b, STEERED_PORT, 0), VerdictRow(number_b, 0, 1 << number_a)])
        made = Watched(node, cgroup)
        yield made
        made.close()
        node.steering.remove()


@pytest.fixture
def watched(enrolled: Watched) -> Watched:
    def is_over() -> bool:
        enrolled.reports()
        return enrolled.table.rows() == []

    eventually(is_over, PATIENCE_SECONDS, "the connections of the test before are told")
    return enrolled


def _send(sender: socket.socket, receiver: socket.socket, count: int) -> None:
    """All of it, and read as well."""
    sending = threading.Thread(target=sender.sendall, args=(b"x" * count,))
    sending.start()
    _read(receiver, count)
    sending.join()


def _read(receiver: socket.socket, count: int) -> None:
    while count:
        got = len(receiver.recv(min(count, 1 << 16)))
        assert got
        count -= got


def _client_closes(client: socket.socket, server: socket.socket) -> None:
    client.close()
    assert server.recv(1) == b""
    server.close()


def _server_closes(client: socket.socket, server: socket.socket) -> None:
    server.close()
    assert client.recv(1) == b""
    client.close()


def _half_closes(client: socket.socket, server: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.close()
    assert client.recv(1) == b""
    client.close()


def _server_resets(client: socket.socket, server: socket.socket) -> None:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def _client_resets(client: socket.socket, server: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(1)


@pytest.mark.parametrize(
    ("close", "state"),
    [
        pytest.param(_client_closes, ReportState.CLOSED, id="the client closes"),
        pytest.param(_server_closes, ReportState.CLOSED, id="the server closes"),
        pytest.param(_half_closes, ReportState.CLOSED, id="a half-close"),
        pytest.param(_server_resets, ReportState.RESET, id="the server resets"),
        pytest.param(_client_resets, ReportState.RESET, id="the client resets"),
    ],
)
@pytest.mark.parametrize(("sent", "received"), [(0, 0), (1, 0), (0, 1), (70_000, 1_300_001)])
def test_a_connection_is_told_twice_with_exact_bytes(
    watched: Watched,
    family: Family,
    close: Callable[[socket.socket, socket.socket], None],
    state: ReportState,
    sent: int,
    received: int,
) -> None:
    before = time.monotonic_ns()
    with watched.connected(family.neighbour) as (client, server):
        port = client.getsockname()[1]
        _send(client, server, sent)
        _send(server, client, received)
        (opening,) = watched.wait_for(1)
        close(client, server)
        (ending,) = watched.wait_for(1)
    assert (opening.client, opening.client_port) == (family.pod, port)
    assert (opening.server, opening.server_port) == (family.neighbour, PORT)
    assert (opening.state, opening.ended) == (ReportState.OPEN, 0)
    assert before < opening.started < ending.ended < time.monotonic_ns()
    assert ending[:3] == opening[:3]
    assert (ReportState(ending.state), ending.sent, ending.received) == (state, sent, received)
    assert 0 < ending.round_trip_us < 5_000_000
    assert opening.netns == netns_cookie(watched.node.a.netns)


def test_ipv4_from_an_ipv6_socket_is_ipv4(watched: Watched) -> None:
    with watched.connected("::ffff:10.99.1.3", socket.AF_INET6) as (client, server):
        _client_closes(client, server)
    opening, ending = watched.wait_for(2)
    assert (opening.client, opening.server) == ("10.99.1.2", "10.99.1.3")
    assert ending.state == ReportState.CLOSED


def test_a_port_that_nobody_listens_on(watched: Watched, family: Family) -> None:
    with pytest.raises(ConnectionRefusedError):
        watched.cgroup.dial(watched.node.a.netns, family.neighbour, CLOSED_PORT)
    (ending,) = watched.wait_for(1)
    assert (ReportState(ending.state), ending.sent, ending.received) == (ReportState.REFUSED, 0, 0)
    assert ending.server_port == CLOSED_PORT


@contextlib.contextmanager
def _deaf(pod: Pod, family: Family, port: int) -> Iterator[None]:
    """In this block the pod's own firewall drops what comes to that port."""
    table = "ip6" if family.is_ipv6 else "ip"
    chain = f"add chain {table} t in {{ type filter hook input priority 0; }}"
    run(f"nft 'add table {table} t; {chain}; add rule {table} t in tcp dport {port} drop'", pod.netns)
    try:
        yield
    finally:
        run(f"nft delete table {table} t", pod.netns)


def test_a_client_that_does_not_wait_for_an_answer(watched: Watched, family: Family) -> None:
    with (
        _deaf(watched.node.b, family, SILENT_PORT),
        watched.cgroup.open_socket(watched.node.a.netns, family.sockets) as client,
    ):
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.connect((family.neighbour, SILENT_PORT))
    (ending,) = watched.wait_for(1)
    assert ReportState(ending.state) == ReportState.UNANSWERED


def test_what_the_proxy_carries_is_the_proxys_to_tell(watched: Watched, family: Family) -> None:
    """No worker listens here, so the SYN is dropped; either way nothing is told."""
    with watched.cgroup.open_socket(watched.node.a.netns, family.sockets) as client:
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.connect((family.neighbour, STEERED_PORT))
        assert len(watched.table.rows()) == 1
    assert watched.reports() == []
    assert watched.table.rows() == []


def test_other_destinations_and_sockets_outside_the_cgroup_leave_no_trace(watched: Watched, family: Family) -> None:
    with watched.node.b.listen(PORT), watched.node.a.dial(family.neighbour, PORT):
        assert watched.table.rows() == []
    with pytest.raises(OSError, match="refused"):
        watched.cgroup.dial(watched.node.a.netns, family.node, CLOSED_PORT)
    assert watched.reports() == []


def test_retransmissions_are_counted(watched: Watched, family: Family) -> None:
    netns = str(watched.node.a.netns)
    with watched.connected(family.neighbour) as (client, server):
        (opening,) = watched.wait_for(1)
        end = End(opening.client, opening.client_port, opening.server, opening.server_port)
        with _deaf(watched.node.b, family, PORT):
            client.sendall(b"x" * 4000)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while read_sockets(netns, [(opening.cookie, end)])[opening.cookie].retransmissions < 2:
                assert time.monotonic() < deadline
        _read(server, 4000)
        _client_closes(client, server)
    (ending,) = watched.wait_for(1)
    assert ending.retransmissions >= 2
    assert ending.sent == 4000


def test_a_socket_that_is_destroyed_is_told(watched: Watched, family: Family) -> None:
    with watched.connected(family.neighbour) as (client, server):
        _send(client, server, 10)
        end = End(family.pod, client.getsockname()[1], family.neighbour, PORT)
        assert destroy_sockets(str(watched.node.a.netns), [end]) == 1
    _, ending = watched.wait_for(2)
    assert (ReportState(ending.state), ending.sent) == (ReportState.RESET, 10)


def _retransmissions(sock: socket.socket) -> int:
    """As the kernel tells its owner: tcpi_total_retrans. There may be some on a machine that is slow to acknowledge."""
    told: tuple[int] = struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 100)
    return told[0]


def test_open_connections_can_be_asked_what_they_carried(watched: Watched, family: Family) -> None:
    with watched.connected(family.neighbour) as (client, server):
        _send(client, server, 12345)
        _send(server, client, 6789)
        (opening,) = watched.wait_for(1)
        end = End(opening.client, opening.client_port, opening.server, opening.server_port)
        netns = str(watched.node.a.netns)
        carried = read_sockets(netns, [(opening.cookie, end)])[opening.cookie]
        assert (carried.sent, carried.received) == (12345, 6789)
        assert carried.retransmissions == _retransmissions(client)
        assert carried.round_trip_us > 0
        assert read_sockets(netns, [(opening.cookie + 1, end)]) == {}, "another socket's name"
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        _send(server, client, 11)
        carried = read_sockets(netns, [(opening.cookie, end)])[opening.cookie]
        assert (carried.sent, carried.received) == (12345, 6800)
        server.close()
        assert client.recv(1) == b""
    assert read_sockets(netns, [(opening.cookie, end)]) == {}
    (ending,) = watched.wait_for(1)
    assert (ending.sent, ending.received) == (12345, 6800)


def test_the_ends_for_which_the_ring_has_no_room_wait_in_the_table(watched: Watched) -> None:
    before = watched.table.losses()
    told = 2 * (RING_ROOM // RECORD_BYTES // 2 + 50)
    with watched.node.b.listen(PORT) as listener:
        for _ in range(told // 2):
            client = watched.cgroup.dial(watched.node.a.netns, "10.99.1.3", PORT)
            server, _ = listener.accept()
            client.close()
            server.close()
    rows = watched.rows_of_ended()
    reports = watched.reports()
    lost, unseen = (now - then for now, then in zip(watched.table.losses(), before, strict=True))
    assert lost > 0
    assert unseen == 0
    assert len(reports) + lost == told
    ended = [report.cookie for report in reports if report.ended]
    assert all(report.state == ReportState.CLOSED for report in rows.values())
    assert len(ended) + len(rows) == told // 2
    assert not set(ended) & rows.keys()
    for cookie in rows:
        watched.table.forget(cookie)
    with watched.connected("10.99.1.3") as ends:
        _client_closes(*ends)
    assert len(watched.wait_for(2)) == 2, "there is room again"


def test_a_connection_for_which_the_table_has_no_room_is_counted(watched: Watched) -> None:
    table = watched.rows
    row = FlowReport(1, 1, 1, 0, 0, 0, watched.node.a.addresses[0], watched.node.b.addresses[0], 1, 2, 0, 0, 1)
    filler = [(number << 40, row) for number in range(1, ROOM + 1)]
    try:
        assert table.put_all(filler) == ROOM
        before = watched.table.losses()
        with watched.connected("10.99.1.3") as ends:
            _client_closes(*ends)
        assert watched.reports() == []
        assert watched.table.losses() == before._replace(unseen=before.unseen + 1)
    finally:
        table.remove_all([cookie for cookie, _ in filler])


def _needs_cookies(node: Node) -> None:
    if netns_cookie(node.a.netns) == 0:
        pytest.skip("this kernel has no SO_NETNS_COOKIE (Linux 5.14)")


def test_a_forged_connection_inside_a_pod_names_its_own_namespace(watched: Watched, tmp_path: Path) -> None:
    """Somebody in the cgroup gives its own loopback the addresses of a connection that is allowed."""
    _needs_cookies(watched.node)
    with watched.connected("10.99.1.3") as (client, _server):
        port = client.getsockname()[1]
        (opening,) = watched.wait_for(1)
        forgery = make_namespace(tmp_path / "forgery")
        run("ip link set lo up; ip addr add 10.99.1.2/32 dev lo; ip addr add 10.99.1.3/32 dev lo", forgery)
        with enter_netns(forgery):
            listener = socket.create_server(("10.99.1.3", PORT))
        with listener, watched.cgroup.open_socket(forgery, socket.AF_INET) as forged:
            forged.bind(("10.99.1.2", port))
            forged.connect(("10.99.1.3", PORT))
            (false,) = watched.wait_for(1)
    assert false[6:10] == opening[6:10]
    assert false.netns == netns_cookie(forgery) != opening.netns == netns_cookie(watched.node.a.netns)
    watched.wait_for(2)
    run(f"umount {forgery}")


def test_maps_that_were_made_anew_are_noticed(watched: Watched) -> None:
    assert watched.table.is_current()
    pinned = Pins(watched.node.bpffs).maps / "flow_events"
    moved = pinned.with_name("moved")
    pinned.rename(moved)
    try:
        assert not watched.table.is_current()
        with pytest.raises(KernelError, match=r"flow_events.*No such file"):
            FlowTable(pinned.parent)
    finally:
        moved.rename(pinned)
    assert watched.table.is_current()


def test_a_namespace_of_its_own_has_a_cookie_of_its_own(node: Node) -> None:
    _needs_cookies(node)
    cookies = {netns_cookie(pod.netns) for pod in (node.a, node.b)} | {netns_cookie(OWN_NETNS)}
    assert len(cookies) == 3
    assert 0 not in cookies
