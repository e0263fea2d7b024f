# SPDX-License-Identifier: Apache-2.0
"""A flood of SYNs that nobody goes on with: open connections go on, and new ones come in by SYN cookies."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from nodeagent.kernel.listeners import ListenerKind
from nodeagent.kernel.netns import enter_netns
from nodeagent.lab.ready import readable
from tests.kernel.conftest import FAMILIES, PATIENCE_SECONDS, Family, Node, Pod
from tests.kernel.namespaces import mac, run
from tests.kernel.no_way_around.frames import SYN, Frame

pytestmark = pytest.mark.kernel

FLOOD = 2000
BACKLOG = 64
"""Connections that wait: with so many half open ones SYN cookies begin."""
_NOBODY = {"IPv4": "198.18.{}.{}", "IPv6": "2001:db8:ff::{:x}{:02x}"}


@pytest.fixture
def listeners(node: Node) -> Iterator[dict[ListenerKind, socket.socket]]:
    """Of a worker whose queues are short."""
    run("for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $each; done")  # or it would be no flood
    node.enrol()
    node.enrol(node.a, node.b, known=tuple(str(family.remote) for family in FAMILIES.values()))
    made = node.steering.make_listeners()
    for kind, listener in made.items():
        listener.listen(BACKLOG)
        node.steering.put_listener(kind, 0, listener)
    yield made
    for kind, listener in made.items():
        node.steering.put_listener(kind, 0, None)
        listener.close()


@pytest.mark.parametrize("flooder", ["a pod", "a stranger"])
def test_a_flood_of_syns_stops_nobody(
    node: Node, listeners: dict[ListenerKind, socket.socket], family: Family, flooder: str
) -> None:
    """The pod's own SYNs are to the mesh, the stranger's to the pod, from addresses that nobody has."""
    is_own = flooder == "a pod"
    sender, kind = (node.a, ListenerKind.OUTBOUND) if is_own else (node.x, ListenerKind.PLAINTEXT)
    target = family.remote if is_own else family.pod
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(sender.dial(target, 8080))
        served = stack.enter_context(_accept(listeners[kind]))
        reason = "STEERED" if is_own else "INBOUND"
        before = node.counted(reason, "SYN_COOKIE")
        _flood(sender, family, str(target), is_own=is_own)
        after = node.counted(reason, "SYN_COOKIE")
        assert after[reason] - before[reason] == FLOOD, "each is decided"
        _talk(client, served)
        newcomer = stack.enter_context(sender.dial(target, 8081))
        _talk(newcomer, stack.enter_context(_accept(listeners[kind])))
        _talk(client, served)
        if not is_own:  # the pod's own stack has reset what it had not asked for
            assert node.counted("SYN_COOKIE")["SYN_COOKIE"] == before["SYN_COOKIE"] + 1


def _flood(sender: Pod, family: Family, target: str, *, is_own: bool) -> None:
    own, gateway = mac("eth0", sender.netns), mac(sender.device)
    with enter_netns(sender.netns):
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with out:
        out.bind(("eth0", 0))
        nobody = _NOBODY["IPv6" if family.is_ipv6 else "IPv4"]
        for number in range(FLOOD):
            source = str(family.pod) if is_own else nobody.format(number // 250, number % 250)
            out.send(Frame(source, target, gateway, own, b"", SYN, 1024 + number, 8080, sequence=number).packed())


@contextlib.contextmanager
def _accept(listener: socket.socket) -> Iterator[socket.socket]:
    assert readable([listener], PATIENCE_SECONDS), "nobody came"
    taken, _ = listener.accept()
    taken.settimeout(PATIENCE_SECONDS)
    with taken:
        yield taken


def _talk(one: socket.socket, other: socket.socket) -> None:
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(b"hello")
        assert receiver.recv(16) == b"hello"
