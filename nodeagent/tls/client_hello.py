# SPDX-License-Identifier: Apache-2.0
"""The server's name in a ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), read from the first bytes of somebody else's TLS.

Nothing is decrypted, answered or judged: what is malformed has no name, and the server will say what is wrong with it.
A ClientHello may be split among records (RFC 8446 §5.1). With Encrypted ClientHello it is the outer name that is read.
"""

from nodeagent.tls.record import HANDSHAKE, RECORD_BYTES

MOST_BYTES = 16 << 10
"""That are looked at: with post-quantum key shares a ClientHello has 2 KiB. What is longer has no name."""
_RECORD_HEADER, _MESSAGE_HEADER = 5, 4
_CLIENT_HELLO = 1
_SERVER_NAME, _HOST_NAME = 0, 0
_VERSION_AND_RANDOM = 34
_LONGEST_NAME = 255


def read_server_name(data: bytes) -> str | None:
    """The name, in lower case; empty if there is none and none will come; None as long as more bytes could tell."""
    try:
        hello = _find_hello(data)
        if hello is not None:
            return _name_in(_Reader(hello))
    except ValueError:
        return ""
    return None if len(data) < MOST_BYTES else ""


def _find_hello(data: bytes) -> bytes | None:
    """Content of the ClientHello in the first records; None when it goes on. ValueError for anything else.

    Told from as few bytes as possible, since whoever speaks no TLS should not wait.
    """
    message, at = b"", 0
    while at < len(data):
        header = data[at : at + _RECORD_HEADER]
        if header[0] != HANDSHAKE or header[1:2] not in {b"", b"\x03"}:
            raise ValueError("not a handshake record")
        size = int.from_bytes(header[3:], "big")
        if len(header) < _RECORD_HEADER:
            return None
        if not 0 < size <= RECORD_BYTES:
            raise ValueError(f"a handshake record of {size} bytes")
        at += _RECORD_HEADER
        message += data[at : at + size]
        at += size
        if message and message[0] != _CLIENT_HELLO:
            raise ValueError(f"a handshake that begins with message {message[0]}")
        end = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER], "big")
        if len(message) >= _MESSAGE_HEADER and len(message) >= end:
            return message[_MESSAGE_HEADER:end]
    return None


def _name_in(hello: "_Reader") -> str:
    hello.skip(_VERSION_AND_RANDOM)
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    extensions = _Reader(hello.vector(2))
    while extensions.has_more:
        kind, body = extensions.number(2), _Reader(extensions.vector(2))
        if kind != _SERVER_NAME:
            continue
        names = _Reader(body.vector(2))
        while names.has_more:
            kind, name = names.number(1), names.vector(2)
            if kind == _HOST_NAME:
                return _spelt(name)
    return ""


def _spelt(name: bytes) -> str:
    try:
        text = name.decode("ascii")
    except UnicodeDecodeError:
        return ""
    return text.lower() if text.isprintable() and len(text) <= _LONGEST_NAME else ""


class _Reader:
    """Raises ValueError where the bytes end too early: the message is complete."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def has_more(self) -> bool:
        return self._at < len(self._data)

    def skip(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._data):
            raise ValueError("cut short")
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.skip(size), "big")

    def vector(self, size: int) -> bytes:
        """What stands behind its own length, which has `size` bytes."""
        return self.skip(self.number(size))
