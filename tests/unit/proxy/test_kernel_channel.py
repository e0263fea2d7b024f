# SPDX-License-Identifier: Apache-2.0
"""Records by a kernel at one end and by ours at the other: what either may send, and how each ends the connection.

With an emulated kernel anywhere, with the real one where it has TLS: `make test-kernels`.
"""

import errno
import fcntl
import socket
import termios
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from nodeagent.errors import PeerError
from nodeagent.lab.ready import readable
from nodeagent.model.reason import Reason
from nodeagent.proxy.kernel_channel import (
    LAST_RECORD,
    CannotMove,
    KernelChannel,
    KeyUpdateReceived,
    Wear,
    move_into_kernel,
)
from nodeagent.proxy.kernel_tls import load_module
from nodeagent.proxy.kernel_trial import KernelTls, try_kernel_tls
from nodeagent.tls.alert import Alert
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.error import AlertReceived, RecordError
from nodeagent.tls.handshake import NEW_SESSION_TICKET, key_update
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.patience import MOST_IDLE_RECORDS
from nodeagent.tls.record import ALERT, HANDSHAKE, RECORD_BYTES
from nodeagent.tls.state import State
from nodeagent.tls.traffic_key import RECORDS_PER_KEY, TrafficKey
from tests.unit.proxy.emulated import EmulatedSocket
from tests.unit.tls.ends import secret_of

SECONDS = 60
TICKET = bytes((NEW_SESSION_TICKET, 0, 0, 3)) + b"abc"
PLAIN = bytes(range(251)) * 200
EMULATED = KernelTls(frozenset(Cipher), can_rekey=True)


class Ends:
    """The client's records are the kernel's, the server's are ours, on a socket that waits."""

    def __init__(self, kernel: socket.socket, ours: socket.socket, cipher: Cipher, first: int = 0) -> None:
        """`first`: number of the next record in both directions."""
        self.kernel, self.ours = kernel, ours
        self.kernel.settimeout(0)
        self.ours.settimeout(SECONDS)
        keys = [TrafficKey(cipher, secret_of(cipher, seed), first) for seed in (0, 100, 100, 0)]
        self.client = RecordChannel(keys[0], keys[1], is_server=False)
        self.server = RecordChannel(keys[2], keys[3], is_server=True)

    def move(self, *, keeps_keys: bool = False) -> KernelChannel:
        return move_into_kernel(self.kernel, self.client, keeps_keys=keeps_keys)

    def say(self, plain: bytes = b"") -> None:
        """Ours, with what is due."""
        view = memoryview(plain)
        while view or self.server.has_control:
            view = view[self.server.seal(view) :]
            self.ours.sendall(self.server.unsent)
            self.server.sent(len(self.server.unsent))

    def say_record(self, kind: int, content: bytes) -> None:
        """Ours, of another kind, whatever it is."""
        buffer = memoryview(bytearray(RECORD_BYTES + 100))
        self.ours.sendall(buffer[: self.server._sealer.control_into(kind, content, buffer)])

    def hear(self, size: int) -> bytes:
        """Of what the kernel sealed, or all up to its close_notify."""
        plain, received, buffer = b"", bytearray(1 << 16), memoryview(bytearray(1 << 17))
        while len(plain) < size and not self.server.is_closed:
            count = self.ours.recv_into(received)
            assert count, "the end of the stream"
            self.server.received(memoryview(received)[:count])
            while True:
                plain += buffer[: self.server.open_into(buffer)]
                if not self.server.has_more:
                    break
        return plain


def receive(channel: KernelChannel, size: int) -> bytes:
    plain, buffer = b"", memoryview(bytearray(1 << 17))
    while len(plain) < size and not channel.has_ended and not channel.is_closed:
        plain += buffer[: wait(channel, buffer)]
    return plain


def wait(channel: KernelChannel, buffer: memoryview | None = None) -> int:
    """Until there is something."""
    while readable([channel._socket], SECONDS):
        try:
            return channel.receive_into(memoryview(bytearray(1 << 17)) if buffer is None else buffer)
        except BlockingIOError:
            continue  # a part of a record
    raise AssertionError("nothing came")


def send(channel: KernelChannel, plain: bytes = b"") -> None:
    view = memoryview(plain)
    while view or channel.has_control:
        view = view[channel.send(view) :]


class Maker:
    """Makes pairs of ends, by the emulated kernel or the real one."""

    def __init__(self, found: KernelTls) -> None:
        self.found, self.made = found, list[socket.socket]()

    def __call__(self, first: int = 0, cipher: Cipher = Cipher.AES_256_GCM, refuses: int = 0) -> Ends:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            kernel = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        if self.found is EMULATED or refuses:
            kernel = EmulatedSocket(kernel, refuses=refuses)
        self.made += [kernel, ours]
        return Ends(kernel, ours, cipher, first)

    def needs_new_keys(self) -> None:
        if not self.found.can_rekey:
            pytest.skip("this kernel keeps the keys of a connection (Linux 6.14)")


@pytest.fixture(params=["emulated kernel", pytest.param("real kernel", marks=pytest.mark.vm)])
def make(request: pytest.FixtureRequest, emulation: Callable[[], None]) -> Iterator[Maker]:
    if request.param == "emulated kernel":
        emulation()
        found = EMULATED
    else:
        load_module()
        found = try_kernel_tls()
        if not found.works:
            pytest.skip(f"this kernel's TLS {found}")
    maker = Maker(found)
    yield maker
    for sock in maker.made:
        sock.close()


# ---- payload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", Cipher)
def test_the_kernel_goes_on_with_the_next_record(make: Maker, cipher: Cipher) -> None:
    ends = make(cipher=cipher)
    ends.client.seal(memoryview(PLAIN))
    ends.kernel.sendall(ends.client.unsent)
    ends.client.sent(len(ends.client.unsent))
    assert ends.hear(len(PLAIN)) == PLAIN
    channel = ends.move()
    for _ in range(3):
        send(channel, PLAIN)
        ends.say(PLAIN)
        assert ends.hear(len(PLAIN)) == PLAIN
        assert receive(channel, len(PLAIN)) == PLAIN


def test_one_read_gives_many_records(make: Maker) -> None:
    ends = make()
    channel = ends.move()
    for _ in range(4):
        ends.say(b"x" * 1000)
    while any(fcntl.ioctl(ends.ours, termios.TIOCOUTQ, bytes(4))):
        time.sleep(0.001)  # until all of it is acknowledged, and so in the other end's queue
    buffer = memoryview(bytearray(1 << 17))
    sizes: list[int] = []
    while sum(sizes) < 4000:
        sizes.append(wait(channel, buffer))
    assert sizes == [4000]


def test_only_between_two_records(make: Maker) -> None:
    ends = make()
    ends.server.seal(memoryview(b"question"))
    sealed = bytes(ends.server.unsent)
    for cut in (3, 10):
        ends.client.received(memoryview(sealed[:cut]))
        ends.client.open_into(memoryview(bytearray(1 << 15)))
        assert not ends.client.is_between_records
        assert 0 < ends.client.missing <= len(sealed) - cut
        sealed = sealed[cut:]
    ends.client.received(memoryview(sealed))
    ends.client.open_into(memoryview(bytearray(1 << 15)))
    assert ends.client.missing == 0
    assert ends.client.is_between_records


# ---- other records ---------------------------------------------------------------------------------------------------


def test_tickets_are_passed_over_but_not_for_ever(make: Maker) -> None:
    ends = make()
    channel = ends.move()
    for _ in range(MOST_IDLE_RECORDS):
        ends.say_record(HANDSHAKE, TICKET)
        assert wait(channel) == 0
    assert not channel.has_ended
    ends.say(b"payload")
    assert receive(channel, 7) == b"payload"
    ends.say_record(HANDSHAKE, TICKET)
    with pytest.raises(RecordError, match="without payload"):
        wait(channel)


def test_a_message_in_two_records(make: Maker) -> None:
    ends = make()
    channel = ends.move()
    ends.say_record(HANDSHAKE, TICKET[:5])
    assert wait(channel) == 0
    ends.say_record(HANDSHAKE, TICKET[5:])
    assert wait(channel) == 0
    ends.say_record(HANDSHAKE, TICKET[:5])
    assert wait(channel) == 0
    ends.say(b"payload")
    with pytest.raises(RecordError, match="inside of a handshake message"):
        wait(channel)


def test_close_notify_both_ways(make: Maker) -> None:
    ends = make()
    channel = ends.move()
    send(channel, b"last words")
    channel.close()
    send(channel)
    assert ends.hear(100) == b"last words"
    assert ends.server.is_closed
    assert channel.send(memoryview(b"dropped")) == 7
    ends.server.close()
    ends.say()
    assert receive(channel, 1) == b""
    assert channel.is_closed
    assert not channel.has_ended


def test_an_end_without_close_notify_is_told_apart(make: Maker) -> None:
    ends = make()
    channel = ends.move()
    ends.ours.close()
    assert receive(channel, 1) == b""
    assert channel.has_ended
    assert not channel.is_closed


def test_an_alert_is_the_peers_last_word_and_ours(make: Maker) -> None:
    ends = make()
    channel = ends.move()
    ends.say_record(ALERT, Alert.CERTIFICATE_EXPIRED.content)
    with pytest.raises(AlertReceived, match="certificate expired"):
        wait(channel)
    channel.close()
    assert not channel.has_control


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        (ALERT, b"\1", "an alert of 1 bytes"),
        (HANDSHAKE, b"\1\0\0\0", "a handshake message of type 1"),
        (24, b"heartbeat", "a record of inner type 24"),
    ],
)
def test_what_breaks_tls_is_answered(make: Maker, kind: int, content: bytes, words: str) -> None:
    ends = make()
    channel = ends.move()
    ends.say_record(kind, content)
    with pytest.raises(RecordError, match=words) as raised:
        wait(channel)
    assert raised.value.reason is Reason.TLS_FAILED
    send(channel)
    with pytest.raises(AlertReceived):
        ends.hear(1)


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (lambda record: record[:1] + b"\2" + record[2:], Alert.DECODE_ERROR),
        (lambda record: record[:3] + b"\x50\0" + record[5:], Alert.RECORD_OVERFLOW),
        (lambda record: record[:-1] + bytes((record[-1] ^ 1,)), Alert.BAD_RECORD_MAC),
    ],
)
def test_a_record_that_is_none_is_refused(make: Maker, change: Callable[[bytes], bytes], alert: Alert) -> None:
    ends = make()
    channel = ends.move()
    ends.server.seal(memoryview(b"payload"))
    ends.ours.sendall(change(bytes(ends.server.unsent)))
    with pytest.raises(RecordError) as raised:
        wait(channel)
    assert raised.value.alert is alert
    assert channel.has_control


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_that_is_kept_ends_with_the_peers_key_update(make: Maker) -> None:
    ends = make()
    channel = ends.move(keeps_keys=True)
    ends.say_record(HANDSHAKE, key_update(requested=False))
    with pytest.raises(KeyUpdateReceived, match="changed its key") as raised:
        wait(channel)
    assert raised.value.reason is Reason.TLS_KEY_CHANGED
    assert isinstance(raised.value, PeerError)
    send(channel)
    with pytest.raises(AlertReceived, match="internal error"):
        ends.hear(1)


@pytest.mark.parametrize("is_asked", [False, True])
def test_the_peers_key_update_is_followed_and_answered(make: Maker, *, is_asked: bool) -> None:
    make.needs_new_keys()
    ends = make()
    channel = ends.move()
    for round_ in range(3):
        if is_asked:
            ends.server._control.ask_for_key_update()
        else:
            ends.server._control.key_update()
        ends.say(PLAIN)
        assert receive(channel, len(PLAIN)) == PLAIN
        assert channel.has_control is is_asked
        send(channel, PLAIN)
        assert ends.hear(len(PLAIN)) == PLAIN
        assert ends.server._opener.key_updates == (round_ + 1 if is_asked else 0)


def test_our_key_is_changed_before_it_is_worn(make: Maker) -> None:
    make.needs_new_keys()
    ends = make(first=RECORDS_PER_KEY - 1)
    channel = ends.move()
    for is_worn in (False, True):
        assert channel.look_at_keys() is Wear.NONE
        assert channel.has_control is is_worn
        send(channel, PLAIN)
    assert ends.hear(2 * len(PLAIN)) == 2 * PLAIN
    assert ends.server._opener.key_updates == 1
    assert not channel.has_control


def test_a_peer_whose_key_is_worn_is_asked_once(make: Maker) -> None:
    make.needs_new_keys()
    ends = make(first=RECORDS_PER_KEY)
    # Ours would have changed it by itself.
    channel = ends.move()
    for _ in range(2):
        channel.look_at_keys()
        send(channel, b"x")
    assert ends.hear(2) == b"xx"
    assert ends.server._control.owes_key_update
    ends.say(b"y")
    assert receive(channel, 1) == b"y"


@pytest.mark.parametrize(
    ("first", "wear"),
    [
        (RECORDS_PER_KEY - 2, Wear.NONE),
        (RECORDS_PER_KEY - 1, Wear.WORN),
        (LAST_RECORD - 2, Wear.WORN),
        (LAST_RECORD - 1, Wear.EXHAUSTED),
    ],
)
def test_a_key_that_is_kept_wears_out(make: Maker, first: int, wear: Wear) -> None:
    ends = make(first=first)
    channel = ends.move(keeps_keys=True)
    send(channel, b"x")
    assert channel.look_at_keys() is wear
    assert not channel.has_control


# ---- going on elsewhere ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps_keys", [False, True])
def test_a_connection_goes_on_in_another_process(make: Maker, *, keeps_keys: bool) -> None:
    """With the same socket; between the halves of a message."""
    ends = make()
    channel = ends.move(keeps_keys=keeps_keys)
    send(channel, b"before")
    ends.say_record(HANDSHAKE, TICKET[:5])
    assert wait(channel) == 0
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(channel.surrender()), type=State)
    assert (state.writing.secret == b"") is keeps_keys
    assert state.writing.sequence == 1
    successor = KernelChannel.resume(ends.kernel, state)
    ends.say_record(HANDSHAKE, TICKET[5:])
    assert wait(successor) == 0
    send(successor, b" and after")
    assert ends.hear(16) == b"before and after"
    ends.say(PLAIN)
    assert receive(successor, len(PLAIN)) == PLAIN
    if make.found.can_rekey and not keeps_keys:
        ends.server._control.ask_for_key_update()
        ends.say(PLAIN)
        assert receive(successor, len(PLAIN)) == PLAIN
        send(successor, PLAIN)
        assert ends.hear(len(PLAIN)) == PLAIN


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", 1), ("cipher", "TLS_CHACHA20_POLY1305_SHA256"), ("is_in_kernel", False), ("unread", b"x")],
)
def test_a_state_that_is_not_understood_is_refused(make: Maker, field: str, value: object) -> None:
    ends = make()
    state = msgspec.structs.replace(ends.move().surrender(), **{field: value})
    with pytest.raises(ValueError, match="a connection of version"):
        KernelChannel.resume(ends.kernel, state)


@pytest.mark.parametrize("refused", ["the module", "the key to send with", "the key to receive with"])
def test_a_kernel_that_takes_nothing_leaves_us_as_we_were(emulation: Callable[[], None], refused: str) -> None:
    emulation()
    make = Maker(EMULATED)
    ends = make(refuses={"the module": 31, "the key to send with": 1, "the key to receive with": 2}[refused])
    with pytest.raises(CannotMove) as raised:
        ends.move()
    if refused == "the key to receive with":
        assert raised.value.channel is None  # a socket that seals by itself would seal ours again
    else:
        assert raised.value.channel is not None
        raised.value.channel.seal(memoryview(PLAIN))
        ends.kernel.sendall(raised.value.channel.unsent)
        assert ends.hear(len(PLAIN)) == PLAIN
    for sock in make.made:
        sock.close()


def test_an_error_of_the_socket_is_none_of_the_peers(make: Maker) -> None:
    ends = make()
    channel = ends.move()
    ends.ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    ends.ours.close()
    with pytest.raises(OSError) as raised:  # noqa: PT011 - its number is looked at
        wait(channel)
    assert raised.value.errno == errno.ECONNRESET
