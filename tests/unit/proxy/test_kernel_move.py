# SPDX-License-Identifier: Apache-2.0
"""When the records of a tunnel become the kernel's, and what keeps them from it."""

import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from nodeagent.hbone.connection import Connection
from nodeagent.hbone.limits import Limits, Role
from nodeagent.proxy.kernel_channel import CannotMove
from nodeagent.proxy.kernel_move import KernelMove
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.kernel_trial import KernelTls
from nodeagent.proxy.tls import OpensslChannel
from nodeagent.tls.key_schedule import Cipher
from tests.unit.proxy.emulated import EmulatedSocket
from tests.unit.tls.ends import pair

PLAIN = memoryview(bytearray(1 << 17))


@pytest.fixture
def sock(emulation: Callable[[], None]) -> Iterator[EmulatedSocket]:
    emulation()
    ours, theirs = socket.socketpair()
    with EmulatedSocket(ours) as made, theirs:
        yield made


class Way:
    """Of a tunnel whose peer has said that it keeps its keys, or that it may not, or nothing yet."""

    def __init__(self, *, peer_keeps_keys: bool | None = True) -> None:
        self.counters: Counter[str] = Counter()
        records = KernelRecords(KernelTls(frozenset(Cipher)), self.counters)
        connection = Connection(Role.CLIENT, records.limits(Role.CLIENT))
        if peer_keeps_keys is not None:
            peer = Connection(Role.SERVER, Limits.of(Role.SERVER, keeps_keys=peer_keeps_keys))
            connection.received(memoryview(bytes(peer.pending())))
        self.move = KernelMove(records, connection, is_ahead=True)


def test_between_two_records_it_moves_once(sock: EmulatedSocket) -> None:
    way, (channel, _) = Way(), pair()
    way.move.head_for_it(channel)
    assert (way.move.is_ahead, way.move.read_at_most) == (True, 0)  # nothing has begun: a read may take what it likes
    assert way.move.make(sock, channel) is not None
    assert not way.move.is_ahead
    assert way.counters == {"kernel_tls_tunnels": 1}


def test_before_it_a_read_ends_with_the_record_that_has_begun(sock: EmulatedSocket) -> None:
    way, (channel, peer) = Way(), pair()
    peer.seal(memoryview(b"x" * 1000))
    record = bytes(peer.unsent)
    channel.received(memoryview(record[:300]))
    assert channel.open_into(PLAIN) == 0
    way.move.head_for_it(channel)
    assert way.move.read_at_most == len(record) - 300
    assert way.move.make(sock, channel) is None
    assert way.move.is_ahead

    channel.received(memoryview(record[300:]))
    assert channel.open_into(PLAIN) == 1000
    way.move.head_for_it(channel)
    assert way.move.make(sock, channel) is not None
    assert way.move.read_at_most == 0


def test_it_waits_for_what_the_peer_says_of_its_keys(sock: EmulatedSocket) -> None:
    way, (channel, _) = Way(peer_keeps_keys=None), pair()
    way.move.head_for_it(channel)
    assert way.move.make(sock, channel) is None
    assert way.move.is_ahead
    assert not way.counters


def test_keys_that_may_change_are_not_for_this_kernel(sock: EmulatedSocket) -> None:
    heading, (channel, _) = Way(peer_keeps_keys=False), pair()
    heading.move.head_for_it(channel)
    making = Way(peer_keeps_keys=False)
    assert making.move.make(sock, channel) is None
    for way in (heading, making):
        assert not way.move.is_ahead
        assert way.counters == {"kernel_tls_declined": 1}
    assert not sock.installed


def test_records_of_openssl_stay(sock: EmulatedSocket) -> None:
    way, incoming, outgoing = Way(), ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    channel = OpensslChannel(context.wrap_bio(incoming, outgoing), incoming, outgoing)
    assert way.move.make(sock, channel) is None
    way.move.head_for_it(channel)
    assert not way.move.is_ahead
    assert way.move.make(sock, None) is None  # neither does a handshake


def test_what_the_kernel_refuses_is_not_tried_again(emulation: Callable[[], None]) -> None:
    emulation()
    way, (channel, _) = Way(), pair()
    ours, theirs = socket.socketpair()
    with EmulatedSocket(ours, refuses=31) as sock, theirs, pytest.raises(CannotMove) as refusal:
        way.move.make(sock, channel)
    assert refusal.value.channel is not None
    assert not way.move.is_ahead
    assert way.counters == {"kernel_tls_failed": 1}
