# SPDX-License-Identifier: Apache-2.0
"""An established connection whose records the kernel seals and opens; what is left to us are those without payload.

Rules:
- A tunnel moves between two records, once. From then on its socket takes and gives plaintext, in whatever process.
- Where neither end changes its keys, ours leave this process. Else they stay for what follows a KeyUpdate, which needs
  Linux 6.14: ours goes out before the key is worn, the peer's is followed and, if it asks, answered.
- A KeyUpdate that cannot be followed ends the connection with a reason of its own: nothing behind it can be opened.
- As in nodeagent/tls/channel.py a RecordError queues its alert, and behind an alert nothing is sent.

The kernel does not look at the type that a record shows outside, only at the one that is sealed in it.
Empty records the kernel passes over by itself; all others without payload are on the peer's account of idle records
(nodeagent/tls/patience.py).
"""

import enum
import errno
import socket
from typing import Self

from nodeagent.errors import PeerError
from nodeagent.model.reason import Reason
from nodeagent.proxy import kernel_tls
from nodeagent.proxy.kernel_tls import TLS_RX, TLS_TX, receive_records, send_record
from nodeagent.tls.alert import Alert
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.control import Control
from nodeagent.tls.error import AlertReceived, RecordError, alert_number
from nodeagent.tls.handshake import HandshakeMessages, Message, key_update
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.patience import Patience
from nodeagent.tls.record import ALERT, APPLICATION_DATA, HANDSHAKE
from nodeagent.tls.state import VERSION, Direction, State
from nodeagent.tls.traffic_key import RECORDS_PER_KEY, TrafficKey

LAST_RECORD = 2 * RECORDS_PER_KEY
"""Of a key that cannot be changed, with a fifth to spare for the time between two looks (RFC 8446 §5.5: 2^24.5)."""

_BROKEN = {
    errno.EBADMSG: (Alert.BAD_RECORD_MAC, "a record was forged or damaged"),
    errno.EMSGSIZE: (Alert.RECORD_OVERFLOW, "a record is too long"),
    errno.EINVAL: (Alert.DECODE_ERROR, "what came is no record"),
}
"""What recvmsg says of a record that breaks TLS."""


class Wear(enum.Enum):
    """Of the key that we send with, where it cannot be changed."""

    NONE = enum.auto()
    WORN = enum.auto()
    """The tunnel is to be replaced by another."""
    EXHAUSTED = enum.auto()
    """Nothing more may be sent."""


class KeyUpdateReceived(PeerError):
    reason = Reason.TLS_KEY_CHANGED


class CannotMove(Exception):
    """The kernel did not take the keys. `channel` goes on as before; without one the socket is of no use any more."""

    def __init__(self, why: str, channel: RecordChannel | None) -> None:
        super().__init__(why)
        self.channel = channel


def move_into_kernel(sock: socket.socket, channel: RecordChannel, *, keeps_keys: bool) -> "KernelChannel":
    """`channel` is between two records, and is of no use afterwards. Raises CannotMove.

    keeps_keys: neither end ever changes them.
    """
    assert channel.is_between_records
    cipher, state = channel.cipher, channel.surrender()
    writing, reading = (
        TrafficKey(cipher, direction.secret, direction.sequence) for direction in (state.writing, state.reading)
    )
    try:
        kernel_tls.attach(sock)
        kernel_tls.install(sock, TLS_TX, writing)
    except OSError as error:
        raise CannotMove(str(error.strerror), RecordChannel.resume(state)) from error
    try:
        kernel_tls.install(sock, TLS_RX, reading)
    except OSError as error:
        # What we sealed would be sealed once more.
        raise CannotMove(str(error.strerror), None) from error
    _skip_padding(sock)
    keys = (None, None) if keeps_keys else (writing, reading)
    return KernelChannel(sock, cipher, state, *keys)


def _skip_padding(sock: socket.socket) -> None:
    try:
        kernel_tls.expect_no_padding(sock)
    except OSError:
        return  # before Linux 6.0: a copy more for each record


class KernelChannel:
    """One end of the connection."""

    def __init__(
        self,
        sock: socket.socket,
        cipher: Cipher,
        state: State,
        writing: TrafficKey | None = None,
        reading: TrafficKey | None = None,
    ) -> None:
        """With the keys as they are now, or without if they stay what they are for ever."""
        self.has_ended = False
        """Nothing more will come: the end of the stream, which without `is_closed` is a truncation."""
        self.is_closed = state.is_closed
        """The peer said close_notify."""
        self._socket = sock
        self._cipher = cipher
        self._is_server = state.is_server
        self._writing, self._reading = writing, reading
        self._has_asked = state.has_asked
        self._messages = HandshakeMessages(state.message, is_server=state.is_server)
        self._patience = Patience(state.patience, state.reading.sequence)
        self._control = Control(
            state.alert,
            owes_key_update=state.owes_key_update,
            asks_for_key_update=state.asks_for_key_update,
            is_shut=state.is_shut,
        )

    # ---- receiving -------------------------------------------------------------------------------------------------

    def receive_into(self, buffer: memoryview) -> int:
        """Plaintext of as many records as are there and fit. 0: there was another record, or `has_ended`.

        Raises BlockingIOError, another OSError when the connection is lost, RecordError, AlertReceived and
        KeyUpdateReceived.
        """
        try:
            kind, size = receive_records(self._socket, buffer)
        except OSError as error:
            if error.errno in _BROKEN:
                raise self._broken(*_BROKEN[error.errno]) from error
            raise
        if kind == APPLICATION_DATA and not self._messages.partial:
            return size
        if kind is None:
            self.has_ended = True
            return 0
        try:
            self._rare(kind, bytes(buffer[:size]))
        except RecordError as error:
            self._control.end(error.alert)
            raise
        except AlertReceived:
            self._control.shut()
            raise
        return 0

    def _broken(self, alert: Alert, words: str) -> RecordError:
        self._control.end(alert)
        return RecordError(alert, words)

    def _rare(self, kind: int, content: bytes) -> None:
        if self._messages.partial and kind != HANDSHAKE:
            raise RecordError(Alert.UNEXPECTED_MESSAGE, f"a record of type {kind} inside of a handshake message")
        match kind:
            case _ if kind == HANDSHAKE:
                self._handshake(content)
            case _ if kind == ALERT:
                self._alert(content)
            case _:
                raise RecordError(Alert.UNEXPECTED_MESSAGE, f"a record of inner type {kind}")

    def _handshake(self, content: bytes) -> None:
        messages = self._messages.received(content)
        if not messages:
            self._idle("a piece of a handshake message")
        for message in messages:
            self._idle(message.value)
            if message is not Message.TICKET:
                self._follow(is_asked=message is Message.KEY_UPDATE_REQUESTED)

    def _follow(self, *, is_asked: bool) -> None:
        if self._reading is None:
            self._control.end(Alert.INTERNAL_ERROR)
            raise KeyUpdateReceived("TLS: the peer changed its key, which the kernel cannot")
        self._reading.advance()
        kernel_tls.install(self._socket, TLS_RX, self._reading)
        self._patience.key_changed()
        self._has_asked = False
        if is_asked:
            self._control.key_update()

    def _alert(self, content: bytes) -> None:
        number = alert_number(content)
        if number == Alert.CLOSE_NOTIFY:
            self.is_closed = True
        elif number == Alert.USER_CANCELED:
            self._idle("user canceled")  # close_notify follows (RFC 8446 §6.1)
        else:
            raise AlertReceived(number)

    def _idle(self, what: str) -> None:
        self._patience.idle_record(what, kernel_tls.sequence(self._socket, TLS_RX, self._cipher) - 1)

    # ---- sending ---------------------------------------------------------------------------------------------------

    @property
    def has_control(self) -> bool:
        """There is something to `send` though there may be no plaintext."""
        return self._control.has_records

    def send(self, plain: memoryview) -> int:
        """Control records that are due, then as much of `plain` as the socket takes: how much is returned.

        Behind an alert nothing is sent, and everything counts as taken. Raises BlockingIOError when nothing was taken,
        and another OSError when the connection is lost.
        """
        if self._control.is_due:
            self._send_control()
            if self._control.is_shut:
                return len(plain)
        return self._socket.send(plain) if plain else 0

    def close(self) -> None:
        """Queues close_notify."""
        self._control.end(Alert.CLOSE_NOTIFY)

    def look_at_keys(self) -> Wear:
        """To be called every few seconds. Queues KeyUpdates where keys can be changed. Raises OSError."""
        sent = kernel_tls.sequence(self._socket, TLS_TX, self._cipher)
        if self._writing is None:
            return Wear.NONE if sent < RECORDS_PER_KEY else Wear.WORN if sent < LAST_RECORD else Wear.EXHAUSTED
        if sent >= RECORDS_PER_KEY:
            self._control.key_update()
        if not self._has_asked and kernel_tls.sequence(self._socket, TLS_RX, self._cipher) >= RECORDS_PER_KEY:
            self._has_asked = True
            self._control.ask_for_key_update()
        return Wear.NONE

    def _send_control(self) -> None:
        control = self._control
        if control.is_shut:
            return
        if self._writing is not None and (control.owes_key_update or control.asks_for_key_update):
            send_record(self._socket, HANDSHAKE, key_update(requested=control.asks_for_key_update))
            control.key_updated()
            self._writing.advance()
            kernel_tls.install(self._socket, TLS_TX, self._writing)
        if control.alert is not None:
            send_record(self._socket, ALERT, Alert(control.alert).content)
            control.shut()

    def forget(self) -> None:
        """The socket is gone, or another's: overwrites the keys that are ours."""
        self._control.shut()
        for key in (self._writing, self._reading):
            if key is not None:
                key.wipe()

    # ---- going on in another process -------------------------------------------------------------------------------

    def surrender(self) -> State:
        """Everything that another process needs beside the socket. Raises OSError."""
        control = self._control
        state = State(
            cipher=self._cipher.value,
            is_server=self._is_server,
            writing=self._direction(TLS_TX, self._writing),
            reading=self._direction(TLS_RX, self._reading),
            unread=b"",
            message=self._messages.partial,
            unsent=b"",
            is_closed=self.is_closed,
            is_shut=control.is_shut,
            alert=control.alert,
            owes_key_update=control.owes_key_update,
            asks_for_key_update=control.asks_for_key_update,
            has_asked=self._has_asked,
            patience=self._patience.left,
            is_in_kernel=True,
        )
        self.forget()
        return state

    def _direction(self, direction: int, key: TrafficKey | None) -> Direction:
        secret = b"" if key is None else bytes(key.secret)
        return Direction(secret, kernel_tls.sequence(self._socket, direction, self._cipher))

    @classmethod
    def resume(cls, sock: socket.socket, state: State) -> Self:
        """Raises ValueError for a state of another version, and for an impossible one."""
        cipher = Cipher.find(state.cipher)
        if state.version != VERSION or cipher is None or not state.is_in_kernel or state.unread or state.unsent:
            raise ValueError(f"a connection of version {state.version} with {state.cipher}")
        keys = [
            TrafficKey(cipher, direction.secret, direction.sequence) if direction.secret else None
            for direction in (state.writing, state.reading)
        ]
        return cls(sock, cipher, state, *keys)
