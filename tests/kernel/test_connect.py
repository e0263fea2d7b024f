# SPDX-License-Identifier: Apache-2.0
"""Service addresses in connect(2), with real sockets below a cgroup of the run's own."""

import contextlib
import ctypes
import errno
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from nodeagent.kernel.features import netns_cookies_of_reports
from nodeagent.kernel.maps import Maps
from nodeagent.kernel.netns import enter_netns, netns_cookie
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.service_codings import DialKey
from nodeagent.lab.ready import readable, writable
from nodeagent.model.address import Ip
from nodeagent.policy.verdict_table import VerdictRow
from nodeagent.routing.route import Target
from tests.kernel.conftest import PATIENCE_SECONDS, Family, Node, Pod
from tests.kernel.namespaces import make_namespace, run
from tests.kernel.pods_cgroup import PodsCgroup, pods_cgroup
from tests.kernel.recorded import IN_GUEST

pytestmark = pytest.mark.kernel

PORTS = (7200, 7201, 7202)
"""Of pod b's listeners: each stands for an endpoint."""
VIPS = (Target(Ip("10.96.0.1"), 80), Target(Ip("fd96::1"), 80))
STEERED_VIPS = (Target(Ip("10.96.0.2"), 80), Target(Ip("fd96::2"), 80))
"""Known to the mesh, and drawn like the others; these are not, so nothing that is not drawn waits for a proxy."""
IPPROTO_MPTCP = 262
_LEAVE_AT_ONCE = struct.pack("ii", 1, 0)
_libc = ctypes.CDLL(None, use_errno=True)


class Drawing:
    """Pods a and b; what a dials is drawn, what b dials is not."""

    def __init__(self, node: Node, cgroup: PodsCgroup) -> None:
        self.node, self.cgroup = node, cgroup
        self.maps = Maps(Pins(node.bpffs).maps)
        self.cookie = netns_cookie(node.a.netns)

    def draw(self, *ports: int) -> None:
        """From these ports of b, each as often as it is named."""
        wanted = {}
        for vips in (VIPS, STEERED_VIPS):
            for vip, ip in zip(vips, self.node.b.addresses, strict=True):
                wanted[vip] = tuple(Target(ip, port) for port in ports)
        assert not self.node.steering.put_services(wanted, frozenset({self.cookie}))

    def open_socket(self, family: int, pod: Pod | None = None, **kind: int) -> socket.socket:
        return self.cgroup.open_socket((pod or self.node.a).netns, family, **kind)

    def note(self, made: socket.socket, server: Target) -> Target | None:
        ip, port = made.getsockname()[:2]
        client = Ip(ip.removeprefix("::ffff:"))
        return self.node.steering.dialled(DialKey(self.cookie, client, server.ip, port, server.port))

    def leave(self, made: socket.socket) -> None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LEAVE_AT_ONCE)
        made.close()


@pytest.fixture(scope="module")
def made(node: Node) -> Iterator[Drawing]:
    if netns_cookie(node.a.netns) == 0:
        pytest.skip("this kernel has no SO_NETNS_COOKIE (Linux 5.14)")
    with pods_cgroup() as cgroup:
        node.cgroup, node.draws_services = cgroup.setting, True
        node.steering = node.make_steering()
        node.enrol(node.a, node.b, known=tuple(vip.ip for vip in STEERED_VIPS))
        assert node.steering.services_fault == ""
        number_a, number_b = node.number(node.a), node.number(node.b)
        node.steering.put_verdicts([VerdictRow(number_b, 0, 1 << number_a)])
        assert not node.steering.has_dialled()
        found = Drawing(node, cgroup)
        yield found
        found.maps.close()
        node.steering.remove()


@pytest.fixture
def drawing(made: Drawing) -> Drawing:
    made.draw(PORTS[0])
    return made


@pytest.fixture
def listeners(made: Drawing) -> Iterator[dict[int, socket.socket]]:
    with contextlib.ExitStack() as opened:
        yield {port: opened.enter_context(made.node.b.listen(port)) for port in PORTS}


@pytest.fixture(params=["IPv4", "IPv6", "IPv4 by an IPv6 socket"])
def kind(request: pytest.FixtureRequest) -> tuple[int, str, int]:
    """Family of the socket, what is written in front of an address, and which address of two."""
    return {
        "IPv4": (socket.AF_INET, "", 0),
        "IPv6": (socket.AF_INET6, "", 1),
        "IPv4 by an IPv6 socket": (socket.AF_INET6, "::ffff:", 0),
    }[str(request.param)]


def test_an_endpoint_is_reached_without_the_proxy_and_the_peer_is_the_service(
    drawing: Drawing, listeners: dict[int, socket.socket], kind: tuple[int, str, int]
) -> None:
    family, prefix, which = kind
    vip, endpoint = VIPS[which], Target(drawing.node.b.addresses[which], PORTS[0])
    before = drawing.node.counted("LOCAL_ALLOWED", "LOCAL_STEERED", "STEERED")
    with drawing.open_socket(family) as client:
        client.connect((prefix + vip.ip, vip.port))
        server, _ = listeners[PORTS[0]].accept()
        with server:
            assert client.getpeername()[:2] == (prefix + vip.ip, vip.port)
            assert server.getsockname()[1] == endpoint.port
            client.sendall(b"hello")
            assert server.recv(5) == b"hello"
            assert drawing.note(client, endpoint) == vip
            assert drawing.node.steering.has_dialled()
    after = drawing.node.counted("LOCAL_ALLOWED", "LOCAL_STEERED", "STEERED")
    assert {name: after[name] - before[name] for name in after} == {
        "LOCAL_ALLOWED": 1,
        "LOCAL_STEERED": 0,
        "STEERED": 0,
    }


def test_one_that_does_not_wait_is_drawn_once(
    drawing: Drawing, listeners: dict[int, socket.socket], kind: tuple[int, str, int]
) -> None:
    family, prefix, which = kind
    vip = VIPS[which]
    drawing.draw(*PORTS)
    with drawing.open_socket(family) as client:
        client.setblocking(False)  # noqa: FBT003 - the parameter has no name
        assert client.connect_ex((prefix + vip.ip, vip.port)) == errno.EINPROGRESS
        assert writable([client], PATIENCE_SECONDS)
        assert client.connect_ex((prefix + vip.ip, vip.port)) in {0, errno.EISCONN}
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert client.getpeername()[:2] == (prefix + vip.ip, vip.port)
        reached = readable(list(listeners.values()), PATIENCE_SECONDS)
        assert len(reached) == 1
        reached[0].accept()[0].close()


def test_udp_goes_where_it_was_sent(drawing: Drawing, kind: tuple[int, str, int]) -> None:
    family, prefix, which = kind
    vip = VIPS[which]
    with drawing.open_socket(family, kind=socket.SOCK_DGRAM) as client:
        client.connect((prefix + vip.ip, vip.port))
        with enter_netns(drawing.node.a.netns):
            table = Path("/proc/thread-self/net/udp" + "6" * (family == socket.AF_INET6)).read_text(encoding="ascii")
        packed = socket.inet_pton(family, prefix + vip.ip)
        words = "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))
        assert f"{words}:{vip.port:04X}" in table
        assert client.getpeername()[:2] == (prefix + vip.ip, vip.port)


def test_mptcp_is_drawn_too(drawing: Drawing, listeners: dict[int, socket.socket], family: Family) -> None:
    """The kernel asks for the first subflow, so the socket itself is told its endpoint."""
    try:
        client = drawing.open_socket(family.sockets, protocol=IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"this kernel makes no MPTCP socket: {error.strerror}")
    vip = VIPS[family.is_ipv6]
    with client:
        client.connect((vip.ip, vip.port))
        server, _ = listeners[PORTS[0]].accept()
        server.close()
        assert client.getpeername()[:2] in {(vip.ip, vip.port), (family.neighbour, PORTS[0])}


def test_a_namespace_that_is_not_named_is_left_alone(drawing: Drawing, family: Family) -> None:
    """Pod b's, whose sockets are in the same cgroup; and one that somebody made there."""
    vip = STEERED_VIPS[family.is_ipv6]
    with drawing.open_socket(family.sockets, drawing.node.b) as client:
        client.settimeout(0.2)
        before = drawing.node.counted("STEERED")
        with pytest.raises(TimeoutError):  # there is no worker
            client.connect((vip.ip, vip.port))
        assert drawing.node.counted("STEERED")["STEERED"] > before["STEERED"]


def test_a_namespace_of_a_pods_own_making_is_left_alone(drawing: Drawing, family: Family, tmp_path: Path) -> None:
    vip = VIPS[family.is_ipv6]
    other = make_namespace(tmp_path / "other")
    run("ip link set lo up", other)
    with drawing.cgroup.open_socket(other, family.sockets) as client, pytest.raises(OSError, match="unreachable"):
        client.connect((vip.ip, vip.port))
    run(f"umount {other}")


def test_other_ports_and_addresses_are_left_alone(
    drawing: Drawing, listeners: dict[int, socket.socket], family: Family
) -> None:
    vip = VIPS[family.is_ipv6]
    with drawing.open_socket(family.sockets) as client, pytest.raises(OSError, match=r"unreachable|refused"):
        client.connect((vip.ip, vip.port + 1))
    with drawing.open_socket(family.sockets) as client:
        client.connect((family.neighbour, PORTS[1]))
        listeners[PORTS[1]].accept()[0].close()
        assert client.getpeername()[:2] == (family.neighbour, PORTS[1])
        assert drawing.note(client, Target(family.neighbour, PORTS[1])) is None


def _disconnect(client: socket.socket) -> None:
    unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
    if _libc.connect(client.fileno(), unspecified, len(unspecified)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def test_a_socket_that_connects_elsewhere_has_forgotten_the_service(
    drawing: Drawing, listeners: dict[int, socket.socket], family: Family
) -> None:
    vip, direct = VIPS[family.is_ipv6], Target(family.neighbour, PORTS[0])
    with drawing.open_socket(family.sockets) as client:
        client.connect((vip.ip, vip.port))
        assert client.getpeername()[:2] == (vip.ip, vip.port)
        _disconnect(client)
        client.connect((direct.ip, direct.port))
        assert client.getpeername()[:2] == (direct.ip, direct.port)
        assert drawing.note(client, direct) is None
    for _ in range(2):
        listeners[PORTS[0]].accept()[0].close()


def test_a_note_that_nobody_has_read_is_not_the_next_connections(
    drawing: Drawing, listeners: dict[int, socket.socket], family: Family
) -> None:
    if not netns_cookies_of_reports().ok:
        pytest.skip("sockops cannot ask for a namespace's cookie (Linux 5.15)")
    vip, direct = VIPS[family.is_ipv6], Target(family.neighbour, PORTS[0])
    first = drawing.open_socket(family.sockets)
    first.connect((vip.ip, vip.port))
    source = first.getsockname()
    assert drawing.note(first, direct) == vip
    drawing.leave(first)
    with drawing.open_socket(family.sockets) as second:
        second.bind(source)
        second.connect((direct.ip, direct.port))
        assert drawing.note(second, direct) is None
    for _ in range(2):
        listeners[PORTS[0]].accept()[0].close()


def test_draws_are_spread_by_their_shares(
    drawing: Drawing, listeners: dict[int, socket.socket], family: Family
) -> None:
    vip, shares = VIPS[family.is_ipv6], {PORTS[0]: 1, PORTS[1]: 2, PORTS[2]: 1}
    drawing.draw(*(port for port, share in shares.items() for _ in range(share)))
    reached: Counter[int] = Counter()
    times = 600 if IN_GUEST else 4000
    for _ in range(times):
        client = drawing.open_socket(family.sockets)
        client.connect((vip.ip, vip.port))
        (listener,) = readable(list(listeners.values()), PATIENCE_SECONDS)
        server, _ = listener.accept()
        reached[server.getsockname()[1]] += 1
        drawing.leave(server)
        drawing.leave(client)
    for port, share in shares.items():
        wanted = times * share / 4
        assert abs(reached[port] - wanted) < 8 * (wanted * (1 - share / 4)) ** 0.5, reached


class _Connecting:
    """Connects again and again, and knows when each attempt began and which port it reached; None: not drawn."""

    def __init__(self, drawing: Drawing, listeners: dict[int, socket.socket]) -> None:
        self._drawing, self._listeners = drawing, listeners
        self.attempts: list[tuple[float, float, int | None]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            client = self._drawing.open_socket(socket.AF_INET)
            began, port = time.monotonic(), None
            with contextlib.suppress(OSError):  # the address of the Service leads nowhere
                client.connect((VIPS[0].ip, VIPS[0].port))
                (listener,) = readable(list(self._listeners.values()), PATIENCE_SECONDS)
                server, _ = listener.accept()
                port = server.getsockname()[1]
                self._drawing.leave(server)
            self.attempts.append((began, time.monotonic(), port))
            self._drawing.leave(client)


def test_an_endpoint_that_was_taken_away_is_not_drawn_any_more(
    drawing: Drawing, listeners: dict[int, socket.socket]
) -> None:
    changes: list[tuple[float, float, set[int]]] = []
    with _Connecting(drawing, listeners) as connecting:
        for number in range(40 if IN_GUEST else 200):
            ports = {PORTS[number % 3], PORTS[(number + 1) % 3]}
            began = time.monotonic()
            drawing.draw(*sorted(ports) * 20)
            changes.append((began, time.monotonic(), ports))
            seen = len(connecting.attempts)
            while len(connecting.attempts) < seen + 3:
                time.sleep(0.0005)
    checked = 0
    for (_, done, ports), (following, _, _) in zip(changes, [*changes[1:], (float("inf"), 0.0, set())], strict=True):
        for began, ended, port in connecting.attempts:
            if done < began and ended < following:
                assert port in ports, "an endpoint of the former draws, or none at all"
                checked += 1
    assert checked > len(changes)
    assert len(drawing.maps.draws.keys()) == 4 * 40, "nothing is left of the former draws"
