# SPDX-License-Identifier: Apache-2.0
"""A socket that does in slow Python what the kernel's TLS does, for tests on kernels without it.

As there, nothing is held outside of the socket's own buffers: what is not a whole record stays unread, and what is
sealed is sent. tests/unit/proxy/test_kernel_channel.py shows that a kernel with TLS does the same.
"""

import errno
import os
import socket
import struct
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodeagent.lab.ready import writable
from nodeagent.proxy import kernel_tls
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.record import APPLICATION_DATA, HANDSHAKE, LONGEST, PREFIX, RECORD_BYTES

TLS, TX, RX = 282, 1, 2
_KEY_BYTES = {51: 16, 52: 32}
_BUFFER_BYTES = 1 << 20
"""A third of what the system makes of it is more than a record, so a socket that is writable takes a whole one."""


class Key:
    def __init__(self, info: bytes) -> None:
        version, cipher = struct.unpack_from("=HH", info)
        assert version == 0x0304
        size = _KEY_BYTES[cipher]
        assert len(info) == 4 + 8 + size + 4 + 8
        self._aead, self._iv = AESGCM(info[12 : 12 + size]), info[12 + size : 16 + size] + info[4:12]
        self.sequence = int.from_bytes(info[-8:], "big")

    def _nonce(self) -> bytes:
        number, self.sequence = self.sequence, self.sequence + 1
        return bytes(a ^ b for a, b in zip(self._iv, number.to_bytes(12, "big"), strict=True))

    def seal(self, content: bytes, kind: int) -> bytes:
        header = PREFIX + (len(content) + 17).to_bytes(2, "big")
        return header + self._aead.encrypt(self._nonce(), content + bytes((kind,)), header)

    def open(self, sealed: bytes) -> tuple[bytes, int]:
        inner = self._aead.decrypt(self._nonce(), sealed[5:], sealed[:5]).rstrip(b"\0")
        return inner[:-1], inner[-1]


class EmulatedSocket(socket.socket):
    """Takes the place of a connected one. `refuses`: the option whose installation fails."""

    def __init__(self, sock: socket.socket, *, can_rekey: bool = True, refuses: int = 0) -> None:
        super().__init__(fileno=sock.detach())
        self.settimeout(0)
        # Larger than a segment of loopback: with the beginning of a record in it a smaller one never looks empty enough
        # for Linux 6.1 to open the window again.
        super().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        super().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self.keys: dict[int, Key] = {}
        self.installed: list[int] = []
        self._can_rekey, self._refuses = can_rekey, refuses
        self._is_attached = self._waits_for_key = False

    def setsockopt(self, level: int, option: int, value: Any, *more: Any) -> None:
        if (level, option) == (socket.IPPROTO_TCP, 31):
            if self._refuses == 31:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._is_attached = True
        elif level == TLS and option in {TX, RX}:
            assert self._is_attached
            if self._refuses == option or (option in self.keys and not self._can_rekey):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self.keys[option] = Key(bytes(value))
            self.installed.append(option)
            self._waits_for_key = self._waits_for_key and option != RX
        elif level == TLS:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        else:
            super().setsockopt(level, option, value, *more)

    # ---- sending

    def send(self, data: Any, *flags: int) -> int:
        if TX not in self.keys:
            return super().send(data, *flags)
        return self._seal(bytes(data), APPLICATION_DATA)

    def sendall(self, data: Any, *flags: int) -> None:
        view = memoryview(data)
        while view:
            view = view[self.send(view, *flags) :]

    def sendmsg(self, buffers: Any, ancillary: Any = (), *more: Any) -> int:
        if TX not in self.keys:
            return super().sendmsg(buffers, ancillary, *more)
        ((level, option, value),) = ancillary
        assert (level, option) == (TLS, 1)
        return self._seal(b"".join(buffers), value[0])

    def _seal(self, plain: bytes, kind: int) -> int:
        done = 0
        while done < len(plain) and writable([self], 0):
            piece = plain[done : done + RECORD_BYTES]
            sealed = self.keys[TX].seal(piece, kind)
            assert super().send(sealed) == len(sealed)
            done += len(piece)
        if not done:
            raise BlockingIOError
        return done

    # ---- receiving

    def recvmsg_into(self, buffers: Any, ancillary_bytes: int = 0, *_flags: int) -> Any:
        assert RX in self.keys
        assert ancillary_bytes
        (buffer,) = buffers
        size, found = 0, None
        while found is None or (found == APPLICATION_DATA and len(buffer) - size > RECORD_BYTES):
            record = self._peek()
            if not record:
                break
            content, kind = self._open(record)
            if kind != APPLICATION_DATA and found is not None:
                self.keys[RX].sequence -= 1
                break
            super().recv(len(record))
            buffer[size : size + len(content)] = content
            size, found = size + len(content), kind
            # As the kernel since 6.14: what is behind a KeyUpdate has another key.
            self._waits_for_key = self._can_rekey and kind == HANDSHAKE and content[:1] == b"\x18"
        if found is not None:
            return size, [(TLS, 2, bytes((found,)))], 0, None
        if super().recv(1, socket.MSG_PEEK):
            raise BlockingIOError
        return 0, [], 0, None

    def _peek(self) -> bytes:
        """The next whole record, or nothing."""
        if self._waits_for_key:
            raise OSError(errno.EKEYEXPIRED, os.strerror(errno.EKEYEXPIRED))
        try:
            seen = super().recv(5 + LONGEST, socket.MSG_PEEK)
        except BlockingIOError:
            return b""
        if len(seen) < 5:
            return b""
        length = int.from_bytes(seen[3:5], "big")
        for is_wrong, number in ((seen[:3] != PREFIX, errno.EINVAL), (length > LONGEST, errno.EMSGSIZE)):
            if is_wrong:
                raise OSError(number, os.strerror(number))
        return seen[: 5 + length] if len(seen) >= 5 + length else b""

    def _open(self, record: bytes) -> tuple[bytes, int]:
        try:
            return self.keys[RX].open(record)
        except InvalidTag:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG)) from None


def emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of the kernel by a descriptor, is asked of the socket's object."""

    def sequence(sock: socket.socket, direction: int, _cipher: Cipher) -> int:
        assert isinstance(sock, EmulatedSocket)
        return sock.keys[direction].sequence

    monkeypatch.setattr(kernel_tls, "sequence", sequence)
