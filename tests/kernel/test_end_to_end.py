# SPDX-License-Identifier: Apache-2.0
"""Real connections through real devices: what BPF_PROG_TEST_RUN cannot show. The test itself plays the worker."""

import contextlib
import errno
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.kernel.listeners import IP_TRANSPARENT, IPV6_TRANSPARENT, ListenerKind
from nodeagent.kernel.maps import Maps
from nodeagent.kernel.netns import enter_netns
from nodeagent.kernel.pins import Pins
from nodeagent.lab.ready import readable
from nodeagent.model.address import Ip, socket_ip
from nodeagent.policy.verdict_table import VerdictRow
from nodeagent.proxy.tunnel_port import pick_port
from tests.kernel.conftest import FAMILIES, PATIENCE_SECONDS, Family, Node
from tests.kernel.namespaces import run

pytestmark = pytest.mark.kernel

_TCP_REPAIR = 19
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
Listeners = dict[ListenerKind, socket.socket]
REMOTES = tuple(family.remote for family in FAMILIES.values())


@pytest.fixture
def enrolled(node: Node) -> Node:
    """Pods a and b, adopting nothing; `remote` is a mesh address of another node, which nobody answers for."""
    node.enrol()
    node.enrol(node.a, node.b, known=REMOTES)
    return node


@pytest.fixture
def worker(enrolled: Node) -> Iterator[Listeners]:
    """Slot 0 of each kind."""
    with _worker(enrolled, 0) as made:
        yield made


# ---- what a pod opens ------------------------------------------------------------------------------------------------


def test_a_pods_connection_reaches_the_outbound_listener_with_both_addresses(
    enrolled: Node, worker: Listeners, family: Family
) -> None:
    before = enrolled.counted("STEERED", "ASSIGNED_OUTBOUND")
    with enrolled.a.dial(family.remote, 8080) as client, _accept(worker[ListenerKind.OUTBOUND]) as taken:
        assert _ends(taken) == ((family.pod, client.getsockname()[1]), (family.remote, 8080))
        _talk(client, taken)
    after = enrolled.counted("STEERED", "ASSIGNED_OUTBOUND")
    assert {name: after[name] - before[name] for name in after} == {"STEERED": 1, "ASSIGNED_OUTBOUND": 1}


def test_the_proxys_own_connection_to_another_node_carries_the_pods_address(
    enrolled: Node, worker: Listeners, family: Family
) -> None:
    """It leaves by the pod's device and the node's routes; the answer comes back to the proxy's socket."""
    with _listening_host(family) as far, _proxy_socket(enrolled, family) as upstream:
        upstream.bind((family.pod, 0))
        upstream.connect((family.remote, 15008))
        with _accept(far) as taken:
            assert socket_ip(taken.getpeername()[0]) == family.pod
            _talk(upstream, taken)


def test_two_pods_of_one_node_talk_through_the_proxy(enrolled: Node, worker: Listeners, family: Family) -> None:
    before = enrolled.counted("LOCAL_STEERED", "INTO_POD", "PROXY_ANSWERED")
    with (
        enrolled.b.listen(8080) as application,
        enrolled.a.dial(family.neighbour, 8080) as client,
        _accept(worker[ListenerKind.OUTBOUND]) as taken,
        _proxy_socket(enrolled, family) as upstream,
    ):
        assert _ends(taken) == ((family.pod, client.getsockname()[1]), (family.neighbour, 8080))
        upstream.bind((family.pod, client.getsockname()[1]))
        upstream.connect((family.neighbour, 8080))
        with _accept(application) as served:
            assert served.getpeername()[1] == client.getsockname()[1]
            assert socket_ip(served.getpeername()[0]) == family.pod
            _talk(upstream, served)
    after = enrolled.counted(*before)
    assert all(after[name] > before[name] for name in after)


def test_what_the_proxy_has_lost_without_a_word_is_reset_at_both_ends(
    enrolled: Node, worker: Listeners, family: Family
) -> None:
    """from_pod holds these flows and looks for no socket any more: the proxy's stack answers."""
    with (
        enrolled.b.listen(8080) as application,
        enrolled.a.dial(family.neighbour, 8080) as client,
        _accept(worker[ListenerKind.OUTBOUND]) as taken,
        _proxy_socket(enrolled, family) as upstream,
    ):
        upstream.bind((family.pod, client.getsockname()[1]))
        upstream.connect((family.neighbour, 8080))
        with _accept(application) as served:
            _talk(client, taken)
            _talk(served, upstream)
            before = enrolled.counted("UNKNOWN_FLOW")
            for lost in (taken, upstream):
                lost.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)  # its end is not told to the peer
                lost.close()
            for end in (client, served):
                end.sendall(b"is anybody there?")
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
            assert enrolled.counted("UNKNOWN_FLOW") == before


def test_allowed_pods_talk_past_the_proxy_and_no_forgetting_of_the_kernel_disturbs_them(
    enrolled: Node, family: Family
) -> None:
    """No worker is there at all. The flow table is an LRU that one pod can fill: what it forgets is restored."""
    a, b = enrolled.number(enrolled.a), enrolled.number(enrolled.b)
    enrolled.steering.put_verdicts([VerdictRow(b, 0, 1 << a)])
    maps = Maps(Pins(enrolled.bpffs).maps)
    before = enrolled.counted("LOCAL_ALLOWED", "FLOW_RESTORED", "INTO_POD")
    try:
        with (
            enrolled.b.listen(8080) as application,
            enrolled.a.dial(family.neighbour, 8080) as client,
            application.accept()[0] as served,
        ):
            for number in range(6):
                for key in maps.flows.rows():
                    maps.flows.remove(key)
                sender, receiver = (client, served) if number % 2 else (served, client)
                sender.sendall(b"said")
                assert receiver.recv(16) == b"said"
            client.shutdown(socket.SHUT_WR)
            assert served.recv(16) == b""
    finally:
        maps.close()
        enrolled.steering.put_verdicts([])
    after = enrolled.counted("LOCAL_ALLOWED", "FLOW_RESTORED", "INTO_POD")
    assert after["LOCAL_ALLOWED"] == before["LOCAL_ALLOWED"] + 1
    assert after["FLOW_RESTORED"] >= before["FLOW_RESTORED"] + 6
    assert after["INTO_POD"] == before["INTO_POD"]


def test_without_a_worker_a_connection_waits_and_is_not_let_past(enrolled: Node, family: Family) -> None:
    with pytest.raises(TimeoutError):
        enrolled.a.dial(family.remote, 8080, timeout=0.3)
    away = enrolled.counted("PROXY_AWAY")["PROXY_AWAY"]
    assert away > 0
    with enrolled.a.open_socket(family.sockets) as client:
        client.settimeout(0)
        assert client.connect_ex((family.remote, 8080)) == errno.EINPROGRESS
        _eventually(lambda: enrolled.counted("PROXY_AWAY")["PROXY_AWAY"] > away)
        with _worker(enrolled, 0) as late, _accept(late[ListenerKind.OUTBOUND]) as taken:
            assert socket_ip(taken.getpeername()[0]) == family.pod


def test_a_spoofed_source_is_dropped_and_counted(enrolled: Node, worker: Listeners, family: Family) -> None:
    before = enrolled.counted("SPOOFED_SOURCE")["SPOOFED_SOURCE"]
    with enrolled.a.open_socket(family.sockets) as client:
        client.settimeout(0.3)
        if family.is_ipv6:
            client.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            client.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        client.bind((family.neighbour, 0))
        with pytest.raises(TimeoutError):
            client.connect((family.remote, 8080))
    assert enrolled.counted("SPOOFED_SOURCE")["SPOOFED_SOURCE"] > before
    assert not readable([worker[ListenerKind.OUTBOUND]], 0)
    assert enrolled.steering.pods()[0].counts.dropped > 0


def test_a_mark_set_inside_a_pod_means_nothing(enrolled: Node, worker: Listeners, family: Family) -> None:
    for mark in (0x1001, 0x1002, 0x1003, 0x1005):
        with enrolled.a.open_socket(family.sockets) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            client.connect((family.remote, 8080))
            with _accept(worker[ListenerKind.OUTBOUND]) as taken:
                assert socket_ip(taken.getpeername()[0]) == family.pod


def test_what_the_mesh_does_not_know_passes_both_ways(enrolled: Node, family: Family) -> None:
    stranger = enrolled.x.addresses[family.is_ipv6]
    before = enrolled.counted("UNKNOWN_DESTINATION", "OUTSIDE_FLOW", "INBOUND_OTHER")
    with (
        enrolled.x.listen(8081) as application,
        enrolled.a.dial(stranger, 8081) as client,
        _accept(application) as served,
    ):
        _talk(client, served)
    after = enrolled.counted(*before)
    assert all(after[name] > before[name] for name in after)


def test_a_pod_reaches_its_node(enrolled: Node, family: Family) -> None:
    with (
        socket.create_server(("::", 8082), family=socket.AF_INET6, dualstack_ipv6=True) as service,
        enrolled.a.dial(family.node, 8082) as client,
        _accept(service) as served,
    ):
        _talk(client, served)


# ---- what comes to a pod ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("port", "kind"), [(8080, ListenerKind.PLAINTEXT), (15008, ListenerKind.HBONE)])
def test_a_stranger_meets_the_proxy_and_not_the_application(
    enrolled: Node, worker: Listeners, family: Family, port: int, kind: ListenerKind
) -> None:
    with enrolled.a.listen(port) as application:
        with enrolled.x.dial(family.pod, port) as client, _accept(worker[kind]) as taken:
            stranger = enrolled.x.addresses[family.is_ipv6]
            assert _ends(taken) == ((stranger, client.getsockname()[1]), (family.pod, port))
            _talk(client, taken)
        assert not readable([application], 0)


def test_the_proxy_connects_to_the_application_as_the_client(enrolled: Node, worker: Listeners, family: Family) -> None:
    with enrolled.a.listen(8080) as application, _proxy_socket(enrolled, family) as upstream:
        upstream.bind((family.outside, 40123))
        upstream.connect((family.pod, 8080))
        with _accept(application) as served:
            assert _ends(served)[0] == (family.outside, 40123)
            _talk(upstream, served)


def test_the_nodes_own_probe_reaches_the_application(enrolled: Node, worker: Listeners, family: Family) -> None:
    before = enrolled.counted("NODE_PROBE")["NODE_PROBE"]
    with (
        enrolled.a.listen(8080) as application,
        socket.create_connection((family.pod, 8080), timeout=PATIENCE_SECONDS) as probe,
        _accept(application) as served,
    ):
        _talk(probe, served)
    assert enrolled.counted("NODE_PROBE")["NODE_PROBE"] == before + 1


def test_syn_cookies_in_all_three_directions(enrolled: Node, worker: Listeners, family: Family) -> None:
    """tcp_syncookies=2: every handshake. The ACK that ends it has no request socket anywhere."""
    before = enrolled.counted("SYN_COOKIE")["SYN_COOKIE"]
    with _cookies_always(enrolled):
        for client_of, ip, port, kind in (
            (enrolled.a, family.remote, 8080, ListenerKind.OUTBOUND),
            (enrolled.x, family.pod, 15008, ListenerKind.HBONE),
            (enrolled.x, family.pod, 8080, ListenerKind.PLAINTEXT),
        ):
            with client_of.dial(ip, port) as client, _accept(worker[kind]) as taken:
                _talk(client, taken)
    assert enrolled.counted("SYN_COOKIE")["SYN_COOKIE"] == before + 2, "inbound ones; outbound marks survive"


def test_a_handshake_with_syn_cookies_is_not_adopted(node: Node, worker: Listeners, family: Family) -> None:
    """The window of adoption is open, and the ACK looks like a connection from before: it would leave in plain text."""
    node.enrol(node.b)
    node.enrol(node.a, node.b, known=REMOTES, adoption_seconds=60)
    before = node.counted("ADOPTED")
    with (
        _cookies_always(node),
        node.a.dial(family.remote, 8080) as client,
        _accept(worker[ListenerKind.OUTBOUND]) as taken,
    ):
        _talk(client, taken)
    assert node.counted("ADOPTED") == before


# ---- workers ---------------------------------------------------------------------------------------------------------


def test_connections_are_spread_over_the_workers(enrolled: Node, family: Family) -> None:
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(enrolled, slot)) for slot in range(4)]
        outbound = [made[ListenerKind.OUTBOUND] for made in workers]
        for _ in range(60):
            stack.enter_context(enrolled.a.dial(family.remote, 8080))
        accepted = [_accept_all(listener, stack) for listener in outbound]
    assert sum(accepted) == 60
    assert all(count > 0 for count in accepted)


@pytest.mark.parametrize("slots", [1, 2, 3, 4])
def test_a_tunnel_comes_to_the_worker_that_its_port_says(enrolled: Node, family: Family, slots: int) -> None:
    """As a worker of another node picks it, and by IPv4 and IPv6 alike."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(enrolled, slot)) for slot in range(slots)]
        for slot, worker in enumerate(workers):
            for first in range(40_000, 45_000, 1000):  # each from other ports, so that none is taken
                client = stack.enter_context(
                    enrolled.x.open_socket(socket.AF_INET6 if family.is_ipv6 else socket.AF_INET)
                )
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)  # or its port stays taken
                client.bind(("", pick_port(slot, range(first, first + 1000))))
                client.connect((family.pod, 15008))
                assert _accept_all(worker[ListenerKind.HBONE], stack) == 1


def test_a_worker_that_is_replaced_in_its_slot_refuses_nobody(enrolled: Node, family: Family) -> None:
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(_worker(enrolled, 0))[ListenerKind.OUTBOUND]
        stack.enter_context(enrolled.a.dial(family.remote, 8080))
        new = stack.enter_context(_worker(enrolled, 0))[ListenerKind.OUTBOUND]
        stack.enter_context(enrolled.a.dial(family.remote, 8080))
        assert (_accept_all(old, stack), _accept_all(new, stack)) == (1, 1)


# ---- before and after enrolment, before and after a restart ----------------------------------------------------------


def test_a_connection_from_before_enrolment_lives_on_and_survives_a_restart(node: Node, family: Family) -> None:
    """Adopted in the window; afterwards it is a flow in a pinned map, which reloaded programs read as well."""
    stranger = node.x.addresses[family.is_ipv6]
    node.enrol(node.b)
    with node.x.listen(8083) as application, node.a.dial(stranger, 8083) as client, _accept(application) as served:
        _talk(client, served)
        node.enrol(node.a, node.b, known=(stranger,), adoption_seconds=60)
        before = node.counted("ADOPTED", "LOCAL_FLOW")
        _talk(client, served)
        assert node.counted("ADOPTED")["ADOPTED"] == before["ADOPTED"] + 1

        _restart_with_other_programs(node)
        node.enrol(node.a, node.b, known=(stranger,))
        before = node.counted("ADOPTED", "LOCAL_FLOW")
        _talk(client, served)
        after = node.counted("ADOPTED", "LOCAL_FLOW")
        assert after["ADOPTED"] == before["ADOPTED"]
        assert after["LOCAL_FLOW"] > before["LOCAL_FLOW"]


def test_after_the_window_an_unknown_connection_is_reset_and_nothing_leaks(
    node: Node, worker: Listeners, family: Family
) -> None:
    stranger = node.x.addresses[family.is_ipv6]
    node.enrol(node.b)
    with node.x.listen(8083) as application, node.a.dial(stranger, 8083) as client, _accept(application) as served:
        _talk(client, served)
        node.enrol(node.a, node.b, known=(stranger,), adoption_seconds=0)
        client.sendall(b"secret")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert not readable([served], 0.1)


# ---- playing the worker ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _worker(node: Node, slot: int) -> Iterator[Listeners]:
    made = node.steering.make_listeners()
    for kind, listener in made.items():
        node.steering.put_listener(kind, slot, listener)
    try:
        yield made
    finally:
        for listener in made.values():
            listener.close()


@contextlib.contextmanager
def _accept(listener: socket.socket) -> Iterator[socket.socket]:
    assert readable([listener], PATIENCE_SECONDS), "nobody came"
    taken, _ = listener.accept()
    taken.settimeout(PATIENCE_SECONDS)
    with taken:
        yield taken


def _accept_all(listener: socket.socket, stack: contextlib.ExitStack) -> int:
    count = 0
    while readable([listener], 0.05):
        stack.enter_context(_accept(listener))
        count += 1
    return count


def _proxy_socket(node: Node, family: Family) -> socket.socket:
    with enter_netns(node.steering.netns_path()):
        made = socket.socket(family.sockets, socket.SOCK_STREAM)
    made.settimeout(PATIENCE_SECONDS)
    return made


@contextlib.contextmanager
def _listening_host(family: Family) -> Iterator[socket.socket]:
    """`remote` exists after all: as an address of this node, which is as far as the test's wire goes."""
    run(f"ip addr add {family.remote}/{128 if family.is_ipv6 else 32} dev lo {'nodad' if family.is_ipv6 else ''}")
    try:
        with socket.create_server(("::", 15008), family=socket.AF_INET6, dualstack_ipv6=True) as made:
            yield made
    finally:
        run(f"ip addr del {family.remote}/{128 if family.is_ipv6 else 32} dev lo")


@contextlib.contextmanager
def _cookies_always(node: Node) -> Iterator[None]:
    proxy = Path(node.steering.netns_path())
    run("sysctl -qw net.ipv4.tcp_syncookies=2", proxy)
    try:
        yield
    finally:
        run("sysctl -qw net.ipv4.tcp_syncookies=1", proxy)


def _ends(taken: socket.socket) -> tuple[tuple[Ip, int], tuple[Ip, int]]:
    """(source, destination) as the one who accepts sees them."""
    (source, source_port), (destination, port) = taken.getpeername()[:2], taken.getsockname()[:2]
    return (socket_ip(source), source_port), (socket_ip(destination), port)


def _talk(one: socket.socket, other: socket.socket) -> None:
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(b"hello")
        assert receiver.recv(16) == b"hello"


def _eventually(condition: Callable[[], bool], within_seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def _restart_with_other_programs(node: Node) -> None:
    """The agent ends, and its successor has to load programs again: an upgrade with the same layout."""
    node.steering.close()
    shutil.rmtree(Pins(node.bpffs).programs)
    node.steering = node.make_steering()
