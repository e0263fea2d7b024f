# SPDX-License-Identifier: Apache-2.0
"""`openssl s_client` and `s_server` against a kernel's records: an independent peer, with key updates and padding.

With an emulated kernel anywhere, with the real one where it has TLS: `make test-kernels`.
"""

import socket
from collections.abc import Callable

import pytest

from nodeagent.lab.ready import readable, writable
from nodeagent.proxy.kernel_channel import KernelChannel, KeyUpdateReceived, move_into_kernel
from nodeagent.proxy.kernel_tls import load_module
from nodeagent.proxy.kernel_trial import try_kernel_tls
from nodeagent.tls.key_schedule import Cipher
from tests.unit.proxy.emulated import EmulatedSocket
from tests.unit.tls.conftest import certificate, contexts
from tests.unit.tls.test_openssl import WAYS, Connect, Link, Program, connect

__all__ = ["certificate", "connect", "contexts"]  # fixtures

SECONDS = 60
ROLES = pytest.mark.parametrize("role", ["client", "server"])
Moved = Callable[..., tuple["Moving", Program]]


class Moving:
    """A link whose records are the kernel's from here on."""

    def __init__(self, link: Link, sock: socket.socket, *, keeps_keys: bool) -> None:
        self.socket, self.plain = sock, b""
        while not link.channel.is_between_records:  # tickets, in pieces
            self._wait()
            link.channel.received(memoryview(sock.recv(link.channel.missing)))
            link._open()
        self.channel: KernelChannel = move_into_kernel(sock, link.channel, keeps_keys=keeps_keys)
        self._buffer = memoryview(bytearray(1 << 17))

    def send(self, plain: bytes = b"") -> None:
        view = memoryview(plain)
        while view or self.channel.has_control:
            try:
                view = view[self.channel.send(view) :]
            except BlockingIOError:
                assert writable([self.socket], SECONDS)

    def receive(self, until: Callable[[], bool]) -> None:
        while not until():
            self._wait()
            try:
                self.plain += self._buffer[: self.channel.receive_into(self._buffer)]
            except BlockingIOError:
                continue  # a part of a record
            assert not self.channel.has_ended, self.plain

    def wait_for(self, words: bytes) -> None:
        self.receive(lambda: words in self.plain)

    def wait_for_key_update(self) -> None:
        reading = self.channel._reading
        assert reading is not None
        former = bytes(reading.secret)
        self.receive(lambda: reading.secret != former)

    def _wait(self) -> None:
        assert readable([self.socket], SECONDS), self.plain


@pytest.fixture(params=["emulated kernel", pytest.param("real kernel", marks=pytest.mark.vm)])
def moved(request: pytest.FixtureRequest, connect: Connect, emulation: Callable[[], None]) -> Moved:
    """As `connect`, and both have said something before the kernel took over."""
    is_emulated = request.param == "emulated kernel"
    if is_emulated:
        emulation()
    else:
        load_module()
        found = try_kernel_tls()
        if not found.works:
            pytest.skip(f"this kernel's TLS {found}")

    def make(
        role: str, *options: str, keeps_keys: bool = False, needs_new_keys: bool = False
    ) -> tuple[Moving, Program]:
        if needs_new_keys and not is_emulated and not try_kernel_tls().can_rekey:
            pytest.skip("this kernel keeps the keys of a connection (Linux 6.14)")
        link, peer = connect(role, Cipher.AES_256_GCM.value, *options)
        link.send(b"first words\n")
        peer.wait_for(b"first words")
        peer.type("a line of ours")
        link.wait_for(b"a line of ours\n")
        sock = EmulatedSocket(link.socket) if is_emulated else link.socket
        sock.settimeout(0)
        request.addfinalizer(sock.close)
        return Moving(link, sock, keeps_keys=keeps_keys), peer

    return make


@pytest.mark.parametrize("way", WAYS)
@ROLES
def test_much_at_once(moved: Moved, role: str, way: str) -> None:
    ours, peer = moved(role, *WAYS[way])
    ours.send(b"x" * 99_999 + b"\nthat was all\n")
    peer.wait_for(b"x{99999}\nthat was all")
    for n in range(50):
        peer.type("y" * 1000 + str(n))
    ours.wait_for(b"y49\n")
    assert ours.plain == b"".join(b"y" * 1000 + b"%d\n" % n for n in range(50))


@ROLES
def test_key_updates_of_the_peer(moved: Moved, role: str) -> None:
    ours, peer = moved(role, needs_new_keys=True)
    peer.type("k")
    ours.wait_for_key_update()  # openssl takes a line that it reads with a command for a part of it
    peer.type("a line of the second key")
    ours.wait_for(b"a line of the second key\n")
    assert not ours.channel.has_control
    peer.type("K")
    ours.receive(lambda: ours.channel.has_control)
    ours.send(b"now our second key\n")
    peer.wait_for(b"now our second key")
    peer.type("a line of the third key")
    ours.wait_for(b"a line of the third key\n")


@ROLES
def test_the_peer_answers_when_it_is_asked(moved: Moved, role: str) -> None:
    ours, peer = moved(role, needs_new_keys=True)
    ours.channel._control.ask_for_key_update()
    ours.send(b"question\n")
    peer.wait_for(b"question")
    peer.type("answer")
    ours.wait_for(b"answer\n")
    ours.send(b"and on\n")
    peer.wait_for(b"and on")


@ROLES
def test_where_keys_are_kept_the_peers_key_update_is_the_end(moved: Moved, role: str) -> None:
    ours, peer = moved(role, keeps_keys=True)
    peer.type("k")
    with pytest.raises(KeyUpdateReceived):
        ours.receive(lambda: False)
    ours.send()
    peer.wait_for(b"alert internal error")


def test_goodbye_both_ways(moved: Moved) -> None:
    ours, peer = moved("server")
    ours.channel.close()
    ours.send()
    peer.wait_for(b"closed")
    ours, peer = moved("server")
    peer.type("Q")
    ours.receive(lambda: ours.channel.is_closed)
