# SPDX-License-Identifier: Apache-2.0
"""What goes out by a tunnel's socket, and how a tunnel ends: the lowest of the three layers of tunnel.py.

What all streams want to send is sealed and sent once, behind a few callbacks of the loop; by the kernel, once the keys
are there.
"""

import os
import socket
from abc import ABC, abstractmethod

from nodeagent.hbone.connection import Connection
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy import lane
from nodeagent.proxy.carried import Carried
from nodeagent.proxy.kernel_channel import CannotMove, KernelChannel
from nodeagent.proxy.kernel_move import KernelMove
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.loop import READ, WRITE, Loop
from nodeagent.proxy.sockets import close_cleanly
from nodeagent.proxy.tls import Channel, Handshake, Sending
from nodeagent.tls.channel import RecordChannel

_NOTHING = memoryview(b"")


class SendingTunnel(ABC):
    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        begin: Handshake | RecordChannel | KernelChannel,
        connection: Connection,
        kernel_records: KernelRecords,
    ) -> None:
        self.connection = connection
        self.streams: dict[int, Carried] = {}
        self.peer: Identity | None = None
        self.was_cut = False
        """The peer or the network ended it before the handshake was over, and said nothing."""
        self.is_blocked = False
        """Its socket takes no more: streams stop reading, and are told by `can_flush`."""
        self._loop = loop
        self._channel: Channel | None = None if isinstance(begin, Handshake | KernelChannel) else begin
        """What the handshake ends in."""
        self._sending: Sending | None = None if isinstance(begin, KernelChannel) else begin
        """The handshake or the channel."""
        self._kernel: KernelChannel | None = begin if isinstance(begin, KernelChannel) else None
        """In place of these, once the socket makes the records."""
        is_ahead = self._kernel is None and kernel_records.is_wanted
        self._move = KernelMove(kernel_records, connection, is_ahead=is_ahead)
        self._socket: socket.socket | None = sock
        self._is_dirty = False
        self._stalled: dict[Carried, None] = {}
        self._interest = READ
        """What its socket is watched for while it takes everything."""

    # ---- done by the layers above ----------------------------------------------------------------------------------

    @abstractmethod
    def _hear_last_words(self, error: str) -> None:
        """Nothing can be sent any more: reads what the peer may have said before, and ends with `error` otherwise."""

    @abstractmethod
    def _tell_all(self, reason: Reason, error: str, *, at_once: bool = False) -> None:
        """The owner and the streams, that it has ended; the latter in portions, unless `at_once`."""

    # ---- sending ---------------------------------------------------------------------------------------------------

    def flush_later(self) -> None:
        if not self._is_dirty:
            self._is_dirty = True
            self._loop.soon(self, self.flush)

    def stall(self, stream: Carried) -> None:
        """`stream` has stopped reading because `is_blocked`."""
        self._stalled[stream] = None

    def flush(self) -> None:
        """Seals and sends what is pending, until there is nothing or the socket blocks."""
        self._is_dirty = False
        sock = self._socket
        if sock is None or self.is_blocked:
            return
        try:
            if self._sending is not None and not self._has_flushed(sock, self._sending):
                self._seal_and_send(sock, self._sending)
            if self._kernel is not None:
                self._give_to(self._kernel, sock)
        except OSError as error:
            self._cannot_send(error)

    def _has_flushed(self, sock: socket.socket, sending: Sending) -> bool:
        """By compiled code: all that was pending, or what the socket took; else go on from there. Raises OSError."""
        done = lane.compiled.flush(self) if lane.compiled is not None else 0
        if done < 0:
            raise OSError(-done, os.strerror(-done))
        if done == lane.BLOCKED:
            sending.blocked()
            self._block(sock)
        return done > 0

    def _seal_and_send(self, sock: socket.socket, sending: Sending) -> None:
        connection = self.connection
        while True:
            unsent = sending.unsent
            if not unsent:
                if self._move.is_ahead and self._has_moved(sock):
                    return
                plain = _NOTHING if self._channel is None else connection.pending()
                if not plain and not sending.has_control:
                    return
                connection.taken(sending.seal(plain))
                unsent = sending.unsent
                if not unsent:
                    continue
            try:
                sent = sock.send(unsent)
            except BlockingIOError:
                sent = 0
            sending.sent(sent)
            if sent < len(unsent):
                sending.blocked()
                self._block(sock)
                return

    def _give_to(self, kernel: KernelChannel, sock: socket.socket) -> None:
        connection = self.connection
        while True:
            plain = connection.pending()
            if not plain and not kernel.has_control:
                return
            try:
                sent = kernel.send(plain)
            except BlockingIOError:
                sent = 0
                self._block(sock)
            connection.taken(sent)
            if sent < len(plain):
                self._block(sock)
            if self.is_blocked:
                return

    def _has_moved(self, sock: socket.socket) -> bool:
        """Tries to; True: nothing is to be sealed by what has sealed until now, see `flush`."""
        try:
            self._kernel = self._move.make(sock, self._channel)
        except CannotMove as error:
            self._channel = self._sending = error.channel
            if error.channel is None:
                self.fail(Reason.TLS_FAILED, f"tunnel: the kernel took one key of two: {error}")
            self.flush_later()
            return True
        if self._kernel is None:
            return False
        self._channel = self._sending = None
        return True

    # ---- a socket that takes no more -------------------------------------------------------------------------------

    def _block(self, sock: socket.socket) -> None:
        self.is_blocked = True
        self._loop.change(sock.fileno(), self._interest | WRITE)

    def _unblock(self) -> None:
        sending = self._sending
        if self._socket is None or not self.is_blocked:
            return
        if sending is not None:
            try:
                sending.sent(self._socket.send(sending.unsent))
            except BlockingIOError:
                return
            except OSError as error:
                self._cannot_send(error)
                return
            if sending.unsent:
                return
        self.is_blocked = False
        self._loop.change(self._socket.fileno(), self._interest)
        self.flush()
        if not self.is_blocked:
            stalled, self._stalled = self._stalled, {}
            for stream in stalled:
                self._loop.guarded(stream, stream.can_flush)

    def _cannot_send(self, error: OSError) -> None:
        """The peer has gone. What it said before, an alert perhaps, tells more, and may still be read."""
        self.is_blocked = True
        self._loop.at_end_of_turn(self, lambda: self._hear_last_words(f"tunnel: {error.strerror}"))

    # ---- ends ------------------------------------------------------------------------------------------------------

    def fail(self, reason: Reason, error: str) -> None:
        """Ends it at once, with a reset; its streams end with the same reason."""
        self._cut(reason, error, at_once=True)

    def _cut(self, reason: Reason, error: str, *, at_once: bool) -> None:
        if self._socket is None:
            return
        sock = self._socket
        self._forget_socket()
        sock.close()
        self._tell_all(reason, error, at_once=at_once)

    def crashed(self) -> None:
        self.fail(Reason.BUG, "")

    def _lost(self, error: str) -> None:
        """The peer or the network ended it. Without streams that is nobody's loss."""
        if self.peer is None:
            self.was_cut = True
            self.fail(Reason.TLS_FAILED, f"during the handshake: {error}")
        elif self.streams:
            self._cut(Reason.PEER_LOST, error, at_once=False)
        else:
            self.fail(Reason.CLOSED, "")

    def _say_goodbye(self, reason: Reason, error: str) -> None:
        """Sends what is queued (an alert, GOAWAY) as far as the socket takes it, and closes without a reset."""
        self.flush()
        channel = self._kernel or self._channel
        if channel is not None:
            channel.close()
            self.flush()
        if self._socket is None:
            return
        sock, has_streams = self._socket, bool(self.streams)
        self._forget_socket()
        if has_streams:
            sock.close()  # with a reset: a stream that was cut must not look ended
        else:
            close_cleanly(sock)
        self._tell_all(reason, error)

    def _forget_socket(self) -> None:
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket = None
            for keys in (self._sending, self._kernel):
                if keys is not None:
                    keys.forget()
        self._stalled.clear()
