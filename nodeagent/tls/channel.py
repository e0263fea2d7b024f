# SPDX-License-Identifier: Apache-2.0
"""Both halves of a connection behind its handshake: ciphertext in, plaintext out, and back.

Receiving: `received` with what the socket gave, then `open_into` until `has_more` is False.
Sending: while `unsent` is not empty give it to the socket and say how much it took with `sent`, or that it took no more
with `blocked`. When it is empty, `seal` what there is, also if that is nothing but `has_control`.

Rules (RFC 8446):
- A KeyUpdate that is asked for is answered before the next application data (§4.6.3), once for however many.
- Our key is changed before it is worn (§5.5), and a peer that never changes its own is asked to.
- A RecordError queues its alert (§6.2). Behind an alert, close_notify as well, nothing is sealed.
- A nonce is never used twice: who surrenders the state cannot go on.
"""

from typing import Self

from nodeagent.tls.alert import Alert
from nodeagent.tls.control import Control
from nodeagent.tls.handshake import HandshakeMessages
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.opener import Opener
from nodeagent.tls.output import Output
from nodeagent.tls.patience import Patience
from nodeagent.tls.record import ALERT
from nodeagent.tls.sealer import Sealer
from nodeagent.tls.state import VERSION, Direction, State
from nodeagent.tls.traffic_key import TrafficKey


class RecordChannel:
    """One end of an established connection."""

    def __init__(
        self,
        writing: TrafficKey,
        reading: TrafficKey,
        *,
        is_server: bool,
        output: Output | None = None,
        control: Control | None = None,
        messages: HandshakeMessages | None = None,
        patience: Patience | None = None,
    ) -> None:
        """The last four are for one that goes on in another process."""
        self._writing, self._reading, self._is_server = writing, reading, is_server
        self._output = output or Output()
        self._control = control or Control()
        self._messages = messages or HandshakeMessages(is_server=is_server)
        self._patience = patience or Patience()
        self._sealer = Sealer(writing)
        self._opener = Opener(reading, self._messages, self._patience, self._control)
        # Bound once: one call less per batch.
        self.received, self.open_into, self.keep = self._opener.received, self._opener.open_into, self._opener.keep
        self.sent, self.blocked = self._output.sent, self._output.blocked

    # ---- receiving -------------------------------------------------------------------------------------------------

    @property
    def has_more(self) -> bool:
        """Ciphertext is left that `open_into` had no room for, or an error that comes behind what it gave."""
        return self._opener.has_more

    @property
    def is_closed(self) -> bool:
        """The peer said close_notify. An end of the stream without it is a truncation."""
        return self._opener.is_closed

    @property
    def missing(self) -> int:
        """Bytes up to the end of the record that has begun, or of its header; 0: all that was received is opened."""
        return self._opener.missing

    # ---- sending ---------------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> memoryview:
        """What the socket takes next."""
        return self._output.unsent

    @property
    def has_control(self) -> bool:
        """There is something to `seal` though there may be no plaintext: an alert, a KeyUpdate."""
        return self._control.has_records

    def seal(self, plain: memoryview) -> int:
        """Seals control records that are due and as much of `plain` as fits, into `unsent`. Returns how much that was.

        0 while something is unsent. A byte of `plain` that is writable may change during the call and is put back.
        Behind an alert nothing is sealed: what is given is dropped and counts as sealed.
        """
        output = self._output
        if output.unsent:
            return 0
        buffer = output.borrow()
        at = 0
        if self._control.is_due:
            at = self._seal_control(buffer)
            if self._control.is_shut:
                output.filled(buffer, at)
                return len(plain)
        consumed, at = self._sealer.seal_into(plain, buffer, at)
        output.filled(buffer, at)
        return consumed

    def close(self) -> None:
        """Queues close_notify. What is to arrive before it must have been sealed."""
        self._control.end(Alert.CLOSE_NOTIFY)

    def forget(self) -> None:
        """The socket is gone: overwrites the keys and gives the buffer back."""
        self._control.shut()
        self._writing.wipe()
        self._reading.wipe()
        self._output.drop()

    def _seal_control(self, buffer: memoryview) -> int:
        control, at = self._control, 0
        if control.is_shut:
            return 0
        if control.owes_key_update or control.asks_for_key_update:
            at = self._sealer.key_update_into(buffer, requested=control.asks_for_key_update)
            control.key_updated()
        if control.alert is not None:
            at = self._sealer.control_into(ALERT, Alert(control.alert).content, buffer, at)
            control.shut()
            self._writing.wipe()
        return at

    # ---- going on elsewhere ----------------------------------------------------------------------------------------

    @property
    def cipher(self) -> Cipher:
        return self._writing.cipher

    @property
    def is_between_records(self) -> bool:
        """Nothing was begun in either direction and nothing is due, so somebody else can go on with the next record."""
        opener = self._opener
        is_quiet = not (self._output.unsent or self._control.is_due or self._messages.partial)
        return is_quiet and not (opener.missing or opener.has_more or opener.is_closed)

    def surrender(self) -> State:
        """Everything that another process, or the kernel, needs to go on; we cannot any more: our keys are wiped."""
        opener, control = self._opener, self._control
        state = State(
            cipher=self._writing.cipher.value,
            is_server=self._is_server,
            writing=Direction(bytes(self._writing.secret), self._writing.sequence),
            reading=Direction(bytes(self._reading.secret), self._reading.sequence),
            unread=opener.rest(),
            message=self._messages.partial,
            unsent=bytes(self._output.unsent),
            is_closed=opener.is_closed,
            is_shut=control.is_shut,
            alert=control.alert,
            owes_key_update=control.owes_key_update,
            asks_for_key_update=control.asks_for_key_update,
            has_asked=opener.has_asked,
            patience=self._patience.left,
        )
        self.forget()
        return state

    @classmethod
    def resume(cls, state: State) -> Self:
        """Raises ValueError for a state of another version, and for an impossible one."""
        cipher = Cipher.find(state.cipher)
        if state.version != VERSION or cipher is None or state.is_in_kernel:
            raise ValueError(f"a connection of version {state.version} with {state.cipher}")
        channel = cls(
            TrafficKey(cipher, state.writing.secret, state.writing.sequence),
            TrafficKey(cipher, state.reading.secret, state.reading.sequence),
            is_server=state.is_server,
            output=Output(state.unsent),
            control=Control(
                state.alert,
                owes_key_update=state.owes_key_update,
                asks_for_key_update=state.asks_for_key_update,
                is_shut=state.is_shut,
            ),
            messages=HandshakeMessages(state.message, is_server=state.is_server),
            patience=Patience(state.patience, state.reading.sequence),
        )
        if state.unread:
            channel.received(memoryview(state.unread))
        channel._opener.goes_on(is_closed=state.is_closed, has_asked=state.has_asked)
        return channel
