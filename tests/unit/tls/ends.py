# SPDX-License-Identifier: Apache-2.0
"""The halves under test with buffers around them, so that a test is about bytes and not about views."""

from collections.abc import Iterable

from nodeagent.errors import PeerError
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.control import Control
from nodeagent.tls.handshake import HandshakeMessages
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.opener import Opener
from nodeagent.tls.patience import Patience
from nodeagent.tls.record import LONGEST
from nodeagent.tls.traffic_key import TrafficKey
from tests.unit.tls.twin import Twin

CIPHER = Cipher.AES_128_GCM
SECRET = bytes(range(32))


def secret_of(cipher: Cipher, seed: int = 0) -> bytes:
    return bytes((seed + n) % 256 for n in range(cipher.secret_bytes))


class Reader:
    """An opener, what it gave, and how it ended."""

    def __init__(
        self,
        cipher: Cipher = CIPHER,
        *,
        is_server: bool = False,
        room: int = 1 << 16,
        sequence: int = 0,
        receive: int = 1 << 20,
    ) -> None:
        """`receive`: the longest piece."""
        self.key = TrafficKey(cipher, secret_of(cipher), sequence)
        self.twin = Twin(cipher, secret_of(cipher), sequence)
        self.control, self.messages = Control(), HandshakeMessages(is_server=is_server)
        self.patience = Patience(sequence=sequence)
        self.opener = Opener(self.key, self.messages, self.patience, self.control)
        self.plain = b""
        self.error: PeerError | None = None
        self._buffer = memoryview(bytearray(room))
        self._receive = memoryview(bytearray(receive))

    def feed(self, *pieces: bytes) -> "Reader":
        """As a tunnel does: each piece lies in a buffer that is used again for the next one."""
        for piece in pieces:
            self._receive[: len(piece)] = piece
            self.opener.received(self._receive[: len(piece)])
            self._open()
            self._receive[: len(piece)] = bytes(len(piece))
        return self

    def _open(self) -> None:
        while True:
            try:
                size = self.opener.open_into(self._buffer)
            except PeerError as error:
                self.error = error
                return
            self.plain += bytes(self._buffer[:size])
            if not self.opener.has_more:
                return


def pair(cipher: Cipher = CIPHER) -> tuple[RecordChannel, RecordChannel]:
    """A client and a server."""
    client, server = secret_of(cipher), secret_of(cipher, seed=100)
    return (
        RecordChannel(TrafficKey(cipher, client), TrafficKey(cipher, server), is_server=False),
        RecordChannel(TrafficKey(cipher, server), TrafficKey(cipher, client), is_server=True),
    )


def take(channel: RecordChannel, size: int | None = None) -> bytes:
    """What a socket takes of what is unsent: everything, or `size` bytes."""
    taken = bytes(channel.unsent[:size])
    channel.sent(len(taken))
    return taken


def seal(channel: RecordChannel, plain: bytes | bytearray = b"") -> bytes:
    """All of `plain` as ciphertext, and the control records that were due."""
    view, sealed = memoryview(plain), []
    while view or channel.has_control:
        view = view[channel.seal(view) :]
        sealed.append(take(channel))
    return b"".join(sealed)


def open_all(channel: RecordChannel, pieces: Iterable[bytes]) -> bytes:
    """Also what was received before. Raises what the channel raises."""
    plain = drain(channel)
    for piece in pieces:
        channel.received(memoryview(piece))
        plain += drain(channel)
    return plain


def drain(channel: RecordChannel) -> bytes:
    buffer, plain = memoryview(bytearray(LONGEST)), b""
    while channel.has_more:
        plain += bytes(buffer[: channel.open_into(buffer)])
    return plain
