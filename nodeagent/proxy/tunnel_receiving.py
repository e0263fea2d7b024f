# SPDX-License-Identifier: Apache-2.0
"""What comes in by a tunnel's socket, up to what the codec makes of it: the middle layer of the three of tunnel.py.

Ciphertext is read 512 KiB at a time into a buffer of the process and opened into another. Compiled code takes what is
plain (lane.py) and leaves the rest to `_go_on_slowly`; where there is none, the Python does the whole.
"""

import os
import select
import socket
from abc import abstractmethod

from nodeagent.errors import PeerError
from nodeagent.hbone.connection import Connection
from nodeagent.hbone.events import Received
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy import lane
from nodeagent.proxy.backlog import FAIR_BYTES, HELD
from nodeagent.proxy.carried import Carried
from nodeagent.proxy.kernel_channel import KernelChannel
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.loop import FAILED, HUNG_UP, READ, WRITE, Loop
from nodeagent.proxy.tls import RECORD_BYTES, Channel, Handshake
from nodeagent.proxy.tunnel_sending import SendingTunnel
from nodeagent.tls.channel import RecordChannel

_CIPHERTEXT = bytearray(512 << 10)
_PLAINTEXT = memoryview(bytearray((512 << 10) + 2 * RECORD_BYTES))
"""Shared by every tunnel of the process: only a stream that cannot be written to owns memory. With room for what was
kept of a record, so that one read is opened at once."""
_CIPHERTEXT_VIEW = memoryview(_CIPHERTEXT)
_NOTHING = memoryview(b"")

TURN_WORK = 500
"""What a tunnel's frames may cost in one turn, in units of half a microsecond (nodeagent/hbone/receiver.py). Whatever
came beyond that waits, and its socket is not read: five new streams, or eighty of a flood's PINGs."""

WORK_SECONDS = 0.5e-6
_READ_WORK = 40
"""Of a read, with what the loop does around it, in which something is a waste."""
_REST_AGAIN_SECONDS = 0.25


class ReceivingTunnel(SendingTunnel):
    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        begin: Handshake | RecordChannel | KernelChannel,
        connection: Connection,
        kernel_records: KernelRecords,
    ) -> None:
        super().__init__(loop, sock, begin, connection, kernel_records)
        self.peer_certificates: tuple[bytes, ...] = ()
        """Names of the chain by which it was believed."""
        self._handshake: Handshake | None = begin if isinstance(begin, Handshake) else None
        self._step_since = 0.0
        """When it first asked for the next step of its handshake."""
        self._unread = _NOTHING
        """Of its own: plaintext that there was no time for."""
        self._is_behind = False
        """There is such, or records that are not opened yet; `_catch_up` comes in the next turn."""
        self._unanswered = 0
        """PINGs, since anything was received."""
        self._is_held = False
        """It moves to another process, and reads no more here."""
        self._rests = False
        """Until `_catch_up`: it is behind with what its peer sends for nothing."""
        self._rest_seconds = 0.0
        loop.watch(sock.fileno(), READ, self)

    # ---- done by the layer above -----------------------------------------------------------------------------------

    @abstractmethod
    def _owner_accepts(self, peer: Identity) -> None:
        """The handshake is over. Raises PeerError when this peer is not to be talked to."""

    @abstractmethod
    def _owner_charges(self, seconds: float) -> float:
        """The peer has wasted so much CPU: for how long nothing more of it is looked at."""

    @abstractmethod
    def _owner_lets_rest(self) -> float:
        """For how much longer."""

    @abstractmethod
    def _dispatch(self, received: Received) -> None:
        """To the streams and the owner."""

    # ---- the loop's calls ------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        if events & WRITE:
            self._unblock()
        if self._is_behind:  # the loop tells it again in the next turn, but for one that rests
            if self._rests and events & (FAILED | HUNG_UP):
                self._lost("tunnel: the peer closed it")
        elif events & ~select.EPOLLOUT:
            if self._handshake is None:
                self._receive()
            else:
                self._step_since = self._step_since or self._loop.now
                self._loop.slow_step(self._step_since, self, self._take_step)

    def _take_step(self) -> None:
        self._step_since = 0.0
        self._receive()

    def _receive(self) -> None:
        if self._socket is None:
            return
        if self._kernel is not None:
            self._receive_from(self._kernel)
        elif not self._has_received():
            self._receive_slowly(self._socket)

    def _receive_slowly(self, sock: socket.socket) -> None:
        try:
            size = sock.recv_into(_CIPHERTEXT, self._move.read_at_most)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(f"tunnel: {error.strerror}")
            return
        if not size:
            self._lost("tunnel: the peer closed it")
            return
        self._unanswered = 0  # whatever it is, the peer lives
        try:
            if self._handshake is not None:
                self._shake_hands(self._handshake, size)
            elif self._channel is not None:
                self._channel.received(_CIPHERTEXT_VIEW[:size])
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))
            return
        self._look_at_records()

    def _receive_from(self, kernel: KernelChannel) -> None:
        try:
            size = kernel.receive_into(_PLAINTEXT)
        except BlockingIOError:
            return
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))
            return
        except OSError as error:
            self._lost(f"tunnel: {error.strerror}")
            return
        self._unanswered = 0
        if kernel.has_ended or kernel.is_closed:
            self._lost("tunnel: the peer closed it")
            return
        try:
            self._opened(_PLAINTEXT[:size])
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))
        if self._must_wait:
            self._go_on_later()
        self.flush_later()

    # ---- the joint with compiled code ------------------------------------------------------------------------------

    def _has_received(self) -> bool:
        """What there was, by compiled code; else nothing has happened."""
        done = lane.compiled.receive(self) if lane.compiled is not None else 0
        if done < 0:
            self._lost(f"tunnel: {os.strerror(-done)}")
        return done != 0

    def _go_on_slowly(self, plain: memoryview, work: int, ciphertext: memoryview, is_first: bool) -> None:  # noqa: FBT001
        """With what compiled code leaves: frames that may cost as much as `work`, then records."""
        try:
            if self._socket is not None:
                self._opened(plain, work)
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))
        if self._socket is not None and self._channel is not None:
            self._go_on_with_records(self._channel, ciphertext, is_first=is_first)

    def _broke(self, stream: Carried, error: Exception) -> None:
        """Compiled code has met a defect with this stream."""

        def fail() -> None:
            raise error

        self._loop.guarded(stream, fail)

    def _go_on_with_records(self, channel: Channel, ciphertext: memoryview, *, is_first: bool) -> None:
        """`is_first`: nothing was opened in this turn; else its share of work may be done, and the next one goes on."""
        if ciphertext:
            channel.received(ciphertext)
        if self._must_wait or (ciphertext and not is_first):
            channel.keep()
            self._go_on_later()
        elif ciphertext:
            self._look_at_records()
        if self.connection.has_pending or channel.has_control:
            self.flush_later()

    # ---- handshake and records -------------------------------------------------------------------------------------

    def _shake_hands(self, handshake: Handshake, size: int) -> None:
        """One step, with what was received."""
        handshake.received(_CIPHERTEXT_VIEW[:size])
        channel = handshake.shake_hands()
        self.flush_later()
        if channel is not None:
            self._channel = self._sending = channel
            self._handshake = None
            self.peer_certificates = handshake.peer_certificates()
            self._owner_accepts(handshake.peer_identity())

    def _handshake_timed_out(self) -> None:
        self._say_goodbye(Reason.TLS_TIMEOUT, "the handshake was not finished in time")

    def _look_at_records(self) -> None:
        try:
            if self._channel is not None:
                self._open_records(self._channel)
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))

    def _open_records(self, channel: Channel) -> None:
        if self._socket is None:
            return
        self._opened(_PLAINTEXT[: channel.open_into(_PLAINTEXT)])
        if self._must_wait or channel.has_more:
            channel.keep()
            self._go_on_later()
        elif channel.is_closed:
            self._lost("tunnel: the peer closed it")
        elif self._move.is_ahead:
            self._move.head_for_it(channel)
        if self._move.is_ahead or self.connection.has_pending or channel.has_control:
            self.flush_later()

    # ---- frames, as many as a turn may cost ------------------------------------------------------------------------

    def _opened(self, plain: memoryview, work: int = TURN_WORK) -> None:
        """As much of it as a turn may cost; the rest is `_unread`. Raises H2Error."""
        if plain:
            received = self.connection.received(plain, work)
            if received.unread:
                self._unread = memoryview(bytes(received.unread))
            self._dispatch(received)
            self._look_at_held()
            waste = self.connection.take_waste()
            if waste and self._socket is not None:
                self._rest_seconds = self._owner_charges((waste + _READ_WORK) * WORK_SECONDS)

    @property
    def _must_wait(self) -> bool:
        """What is left, or what comes next, is for a later turn."""
        return bool(self._unread) or self._rest_seconds > 0

    def _look_at_held(self) -> None:
        if HELD.size > HELD.most and self.connection.held_bytes > FAIR_BYTES:
            self.fail(Reason.MEMORY_LIMIT, f"{self.connection.held_bytes} bytes wait for applications")

    def _go_on_later(self) -> None:
        self._is_behind = True
        seconds, self._rest_seconds = self._rest_seconds, 0.0
        if seconds:
            self._rest(seconds)
        else:
            self._loop.next_turn(self, self._catch_up)

    def _rest(self, seconds: float) -> None:
        self._rests = True
        self._look_at_interest()
        self._loop.after(seconds, self, self._rested)

    def _rested(self) -> None:
        """Others of the same source may have wasted more meanwhile."""
        self._unanswered = 0  # it may have answered, and was not read
        if self._socket is not None and self._owner_lets_rest():
            self._rest(_REST_AGAIN_SECONDS)  # not all of them at the moment that the first will have passed
        else:
            self._catch_up()

    def _look_at_interest(self) -> None:
        interest = 0 if self._is_held or self._rests else READ
        if self._socket is not None and interest != self._interest:
            self._interest = interest
            self._loop.change(self._socket.fileno(), interest | (WRITE if self.is_blocked else 0))

    def _catch_up(self) -> None:
        """With what there was no time for."""
        self._is_behind = self._rests = False
        if self._socket is None:
            return
        self._look_at_interest()
        unread, self._unread = self._unread, _NOTHING
        try:
            self._opened(unread)
        except PeerError as error:
            self._say_goodbye(error.reason, str(error))
        if self._must_wait:
            self._go_on_later()
        else:
            self._look_at_records()
        self.flush_later()

    # ---- ends ------------------------------------------------------------------------------------------------------

    def _hear_last_words(self, error: str) -> None:
        if not self._is_behind:
            self._receive()
        self._lost(error)

    def _forget_socket(self) -> None:
        super()._forget_socket()
        self._unread = _NOTHING
