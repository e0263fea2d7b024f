# SPDX-License-Identifier: Apache-2.0
"""Whether this kernel's TLS does what ours does: tried at the agent's start on real sockets, one end by it, one by us.

For each suite, on loopback: several records from either end, an alert from either end, a record with one bit changed,
and a second key for each direction, which Linux knows since 6.14. What does not work is not used, and is told.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from socket import create_connection

import msgspec

from nodeagent.errors import PeerError
from nodeagent.proxy.kernel_tls import TLS_RX, TLS_TX, attach, install, receive_records, send_record, sequence
from nodeagent.tls.alert import Alert
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.handshake import key_update
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.record import ALERT, APPLICATION_DATA, HANDSHAKE, RECORD_BYTES
from nodeagent.tls.traffic_key import TrafficKey

_SECONDS = 2.0
"""For what takes microseconds: a kernel that does not answer is one that does not work."""
_SEQUENCE = (1 << 16) - 2
"""Of the first record: the third one carries into another byte. Ours would change its key at 2^23."""
_PLAIN = bytes(range(251)) * (5 * RECORD_BYTES // 502)
"""Two and a half records."""


class _Wrong(Exception):
    """It was tried, and something else came out."""


class KernelTls(msgspec.Struct, frozen=True):
    """What was found out."""

    ciphers: frozenset[Cipher] = frozenset()
    can_rekey: bool = False
    """With every one of them."""
    why: str = ""
    """What went wrong, with the first suite that did not work."""

    @property
    def works(self) -> bool:
        return bool(self.ciphers)

    def takes(self, cipher: Cipher, *, both_keep_keys: bool) -> bool:
        """Whether the records of a tunnel go into the kernel: its keys must not change, or it must be able to."""
        return cipher in self.ciphers and (self.can_rekey or both_keep_keys)

    def __str__(self) -> str:
        if not self.ciphers:
            return f"does not work: {self.why}"
        told = ", ".join(sorted(cipher.value for cipher in self.ciphers))
        told += " with new keys" if self.can_rekey else ", one key for each tunnel (Linux before 6.14)"
        return f"{told}; {self.why}" if self.why else told


def try_kernel_tls() -> KernelTls:
    """Takes some milliseconds. Needs loopback, and no privilege if the module is loaded."""
    ciphers, rekeying, why = set(), set(), ""
    for cipher in Cipher:
        try:
            if _Trial(cipher).run():
                rekeying.add(cipher)
            ciphers.add(cipher)
        except (OSError, PeerError, _Wrong) as error:
            told = error.strerror if isinstance(error, OSError) and error.strerror else error
            why = why or f"{cipher.value}: {told}"
    return KernelTls(frozenset(ciphers), bool(ciphers) and ciphers == rekeying, why)


class _Trial:
    """Of one suite."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher
        self._secrets = os.urandom(cipher.secret_bytes), os.urandom(cipher.secret_bytes)

    def run(self) -> bool:
        """Whether keys can be changed. Raises OSError, PeerError, _Wrong."""
        with self._ends() as (kernel, sock, ours):
            self._payload(kernel, sock, ours)
            self._alerts(kernel, sock, ours)
        with self._ends() as (kernel, sock, ours):
            self._forgery(kernel, sock, ours)
        with self._ends() as (kernel, sock, ours):
            return self._rekey(kernel, sock, ours)

    def _key(self, index: int) -> TrafficKey:
        return TrafficKey(self._cipher, self._secrets[index], _SEQUENCE)

    @contextlib.contextmanager
    def _ends(self) -> Iterator[tuple[socket.socket, socket.socket, RecordChannel]]:
        """A socket whose records the kernel makes, the other end, and our records for that."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            kernel = create_connection(listener.getsockname(), timeout=_SECONDS)
            with kernel:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(_SECONDS)
                    attach(kernel)
                    self._writing, self._reading, self._opening = self._key(0), self._key(1), self._key(0)
                    install(kernel, TLS_TX, self._writing)
                    install(kernel, TLS_RX, self._reading)
                    yield kernel, sock, RecordChannel(self._key(1), self._opening, is_server=True)

    def _payload(self, kernel: socket.socket, sock: socket.socket, ours: RecordChannel) -> None:
        kernel.sendall(_PLAIN)
        _expect(_open(sock, ours, len(_PLAIN)), _PLAIN, "what the kernel sealed")
        _expect(sequence(kernel, TLS_TX, self._cipher), self._opening.sequence, "the count of its records")
        _seal(sock, ours, _PLAIN)
        found, buffer = b"", memoryview(bytearray(len(_PLAIN)))
        while len(found) < len(_PLAIN):
            kind, size = receive_records(kernel, buffer)
            _expect(kind, APPLICATION_DATA, "the type of a record")
            found += buffer[:size]
        _expect(found, _PLAIN, "what the kernel opened")

    def _alerts(self, kernel: socket.socket, sock: socket.socket, ours: RecordChannel) -> None:
        send_record(kernel, ALERT, Alert.CLOSE_NOTIFY.content)
        _open(sock, ours, 1)
        _expect(ours.is_closed, True, "the kernel's close_notify")  # noqa: FBT003 - what is expected
        ours.close()
        _seal(sock, ours, b"")
        buffer = memoryview(bytearray(RECORD_BYTES))
        _expect(receive_records(kernel, buffer), (ALERT, 2), "our close_notify")
        _expect(bytes(buffer[:2]), Alert.CLOSE_NOTIFY.content, "its words")

    def _forgery(self, kernel: socket.socket, sock: socket.socket, ours: RecordChannel) -> None:
        ours.seal(memoryview(_PLAIN[:100]))
        forged = bytearray(ours.unsent)
        forged[-1] ^= 1
        sock.sendall(forged)
        try:
            receive_records(kernel, memoryview(bytearray(100)))
        except OSError as error:
            _expect(error.errno, errno.EBADMSG, "the error for a forged record")
        else:
            raise _Wrong("the kernel opened a forged record")

    def _rekey(self, kernel: socket.socket, sock: socket.socket, ours: RecordChannel) -> bool:
        """The kernel's end asks for a new key and is answered. False: it keeps its first ones."""
        send_record(kernel, HANDSHAKE, key_update(requested=True))
        self._writing.advance()
        try:
            install(kernel, TLS_TX, self._writing)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        kernel.sendall(_PLAIN)
        _expect(_open(sock, ours, len(_PLAIN)), _PLAIN, "what the kernel sealed with its second key")
        _seal(sock, ours, b"")
        answer = receive_records(kernel, memoryview(bytearray(RECORD_BYTES)))
        _expect(answer, (HANDSHAKE, len(key_update(requested=False))), "our KeyUpdate")
        self._reading.advance()
        install(kernel, TLS_RX, self._reading)
        self._payload(kernel, sock, ours)
        return True


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise _Wrong(f"{what} is wrong")


def _open(sock: socket.socket, ours: RecordChannel, size: int) -> bytes:
    """So many bytes, or fewer if that was all."""
    plain, received, buffer = b"", bytearray(1 << 16), memoryview(bytearray(1 << 17))
    while len(plain) < size and not ours.is_closed:
        count = sock.recv_into(received)
        if not count:
            break
        ours.received(memoryview(received)[:count])
        while True:
            plain += buffer[: ours.open_into(buffer)]
            if not ours.has_more:
                break
    return plain


def _seal(sock: socket.socket, ours: RecordChannel, plain: bytes) -> None:
    view = memoryview(plain)
    while view or ours.has_control:
        view = view[ours.seal(view) :]
        sock.sendall(ours.unsent)
        ours.sent(len(ours.unsent))
