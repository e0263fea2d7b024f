# SPDX-License-Identifier: Apache-2.0
"""`openssl s_client` and `s_server` over loopback: what Python's ssl cannot be made to do.

Key updates of the peer, answered and not (the commands K and k of both programs), answers to ours, records that are
padded or small, and a stream that is cut in the middle.
"""

import os
import re
import selectors
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.tls import opener, sealer
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.record import LONGEST
from nodeagent.tls.take_over import take_over
from tests.unit.tls.conftest import MakeContexts, OpenSsl

_SECONDS = 60
WAYS = {
    "plainly": (),
    "in small records": ("-max_send_frag", "512"),
    "in padded records": ("-record_padding", "4096"),
}


class Program:
    """`openssl`, its standard input and what it has said."""

    def __init__(self, *arguments: str) -> None:
        self._child = subprocess.Popen(
            ("openssl", *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.said = b""
        self._selector = selectors.DefaultSelector()
        assert self._child.stdout is not None
        self._selector.register(self._child.stdout, selectors.EVENT_READ)

    def type(self, line: str) -> None:
        """A line by itself: commands are told by the first letter of what is read at once."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n".encode())
        self._child.stdin.flush()

    def wait_for(self, pattern: bytes) -> re.Match[bytes]:
        assert self._child.stdout is not None
        while (found := re.search(pattern, self.said)) is None:
            assert self._selector.select(_SECONDS), self.said
            read = os.read(self._child.stdout.fileno(), 1 << 16)
            assert read, self.said
            self.said += read
        return found

    def stop(self) -> None:
        self._child.kill()
        self._child.communicate()
        self._selector.close()


class Link:
    """Our end: a socket and a channel that took over from OpenSSL."""

    def __init__(self, sock: socket.socket, end: OpenSsl) -> None:
        self.socket = sock
        sock.settimeout(_SECONDS)
        sock.sendall(end.step())
        while not end.is_done:
            sock.sendall(end.step(sock.recv(1 << 16)))
        channel = take_over(end.secrets, end.suite, end.incoming.read(), is_server=end.is_server)
        assert channel is not None
        self.channel: RecordChannel = channel
        self._buffer = memoryview(bytearray(LONGEST))
        self.plain = b""

    def send(self, plain: bytes = b"") -> None:
        view = memoryview(bytearray(plain))
        while view or self.channel.has_control:
            view = view[self.channel.seal(view) :]
            self.socket.sendall(self.channel.unsent)
            self.channel.sent(len(self.channel.unsent))

    def receive(self, until: Callable[[], bool]) -> None:
        self._open()
        while not until():
            ciphertext = self.socket.recv(1 << 16)
            assert ciphertext, self.plain
            self.channel.received(memoryview(ciphertext))
            self._open()

    def wait_for(self, words: bytes) -> None:
        self.receive(lambda: words in self.plain)

    def wait_for_key_update(self, number: int) -> bool:
        """Whether it asked for ours."""
        self.receive(lambda: self.channel._opener.key_updates >= number)
        return self.channel.has_control

    def _open(self) -> None:
        while self.channel.has_more:
            self.plain += bytes(self._buffer[: self.channel.open_into(self._buffer)])


Connect = Callable[..., tuple[Link, Program]]


@pytest.fixture
def connect(contexts: MakeContexts, certificate: Path) -> Iterator[Connect]:
    """A link in this role, and the program at its other end."""
    programs: list[Program] = []
    sockets: list[socket.socket] = []

    def run(*arguments: str) -> Program:
        programs.append(Program(*arguments))
        return programs[-1]

    def link(sock: socket.socket, context: ssl.SSLContext, *, is_server: bool) -> Link:
        sockets.append(sock)
        return Link(sock, OpenSsl(context, is_server=is_server))

    def make(role: str, suite: str, *options: str) -> tuple[Link, Program]:
        made = contexts(suite)
        if role == "server":
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                peer = run("s_client", "-connect", f"127.0.0.1:{port}", "-ciphersuites", suite, *options)
                listener.settimeout(_SECONDS)
                accepted, _ = listener.accept()
            return link(accepted, made.server, is_server=True), peer
        peer = run(
            "s_server", "-accept", "127.0.0.1:0", "-cert", str(certificate), "-ciphersuites", suite, "-tls1_3", *options
        )
        port = int(peer.wait_for(rb"ACCEPT 127\.0\.0\.1:(\d+)\n")[1])
        return link(socket.create_connection(("127.0.0.1", port)), made.client, is_server=False), peer

    yield make
    for sock in sockets:
        sock.close()
    for program in programs:
        program.stop()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("suite", [cipher.value for cipher in Cipher])
@pytest.mark.parametrize("role", ["client", "server"])
def test_key_updates_of_the_peer(connect: Connect, role: str, suite: str, way: str) -> None:
    ours, peer = connect(role, suite, *WAYS[way])
    ours.send(b"first words\n")
    peer.wait_for(b"first words")
    peer.type("a line of the first key")
    ours.wait_for(b"a line of the first key\n")

    peer.type("k")
    assert not ours.wait_for_key_update(1)
    peer.type("a line of the second key")
    ours.wait_for(b"a line of the second key\n")
    ours.send(b"still our first key\n")
    peer.wait_for(b"still our first key")

    peer.type("K")
    assert ours.wait_for_key_update(2)
    ours.send()
    ours.send(b"now our second key\n")
    peer.wait_for(b"now our second key")
    peer.type("a line of the third key")
    ours.wait_for(b"a line of the third key\n")


@pytest.mark.parametrize("role", ["client", "server"])
def test_the_peer_answers_when_it_is_asked(connect: Connect, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key is worn after four records, in this test; ours as well, so each end changes its key again and again."""
    for module in (opener, sealer):
        monkeypatch.setattr(module, "RECORDS_PER_KEY", 4)
    ours, peer = connect(role, Cipher.AES_128_GCM.value)
    for n in range(20):
        peer.type(f"line {n}.")
        ours.wait_for(b"line %d.\n" % n)
        ours.send(b"echo %d.\n" % n)
        peer.wait_for(b"echo %d" % n)
    assert ours.channel._opener.key_updates >= 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("role", ["client", "server"])
def test_much_at_once(connect: Connect, role: str, way: str) -> None:
    ours, peer = connect(role, Cipher.AES_256_GCM.value, *WAYS[way])
    ours.send(b"x" * 99_999 + b"\nthat was all\n")
    peer.wait_for(b"x{99999}\nthat was all")
    for n in range(50):
        peer.type("y" * 1000 + str(n))
    ours.wait_for(b"y49\n")
    assert ours.plain == b"".join(b"y" * 1000 + b"%d\n" % n for n in range(50))


def test_the_peer_says_goodbye(connect: Connect) -> None:
    ours, peer = connect("server", Cipher.AES_128_GCM.value)
    ours.send(b"hello\n")
    peer.wait_for(b"hello")
    peer.type("Q")
    ours.receive(lambda: ours.channel.is_closed)


def test_a_peer_that_only_closes_its_socket_has_said_nothing(connect: Connect) -> None:
    """This is what s_server does at this command."""
    ours, peer = connect("client", Cipher.AES_128_GCM.value)
    peer.type("last words")
    ours.wait_for(b"last words\n")
    peer.type("Q")
    assert ours.socket.recv(100) == b""
    assert not ours.channel.is_closed


@pytest.mark.parametrize(("role", "said"), [("client", b"DONE"), ("server", b"closed")])
def test_the_peer_hears_our_goodbye(connect: Connect, role: str, said: bytes) -> None:
    ours, peer = connect(role, Cipher.AES_128_GCM.value)
    ours.send(b"goodbye\n")
    peer.wait_for(b"goodbye")
    assert said not in peer.said
    ours.channel.close()
    ours.send()
    peer.wait_for(said)
