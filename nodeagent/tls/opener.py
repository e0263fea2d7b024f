# SPDX-License-Identifier: Apache-2.0
"""The receiving half: records to plaintext, straight from the buffer of the socket into the caller's.

- Ciphertext is cut anywhere. The beginning of a record is kept until it is whole, at most SEALED_BYTES.
- A record's place in the caller's buffer holds its type and padding as well for a moment, and after a wrong tag what
  must not be used: only what `open_into` counts is plaintext.
- What breaks TLS raises RecordError, an alert AlertReceived, once; what was opened before it is given first, so the
  result does not depend on the cuts.
- After an error, and after close_notify (RFC 8446 §6.1), everything is ignored. An end of the stream without
  close_notify, or inside of a record, is a truncation: then `is_closed` is False, and it is for the caller to say so.

Hot path: `open_into` handles whole records of plain application data inline: for each one unpack, one AEAD call, three
slices, a nonce. Everything else takes the slow lane: the record whose beginning was kept, padding, tickets, KeyUpdate,
alerts, empty records. tests/unit/tls/twin.py has the slow twin that both must equal.
"""

from cryptography.exceptions import InvalidTag

from nodeagent.tls import record
from nodeagent.tls.alert import Alert
from nodeagent.tls.control import Control
from nodeagent.tls.error import AlertReceived, RecordError, alert_number
from nodeagent.tls.handshake import HandshakeMessages, Message
from nodeagent.tls.key_schedule import IV_BYTES
from nodeagent.tls.patience import Patience
from nodeagent.tls.record import (
    APPLICATION_DATA,
    HANDSHAKE,
    HEADER,
    HEADER_BYTES,
    LONGEST,
    OVERHEAD,
    PREFIX,
    TAG_BYTES,
    check_header,
)
from nodeagent.tls.traffic_key import RECORDS_PER_KEY, SEQUENCE_LIMIT, TrafficKey

MOST_RECORDS = 256
"""That are opened at once, in a third of a millisecond: eight times as many as a read has that are full."""
_NOTHING = memoryview(b"")


class Opener:
    __slots__ = (
        "_control",
        "_failure",
        "_is_over",
        "_key",
        "_messages",
        "_partial",
        "_patience",
        "_unread",
        "has_asked",
        "has_more",
        "is_closed",
        "key_updates",
        "tickets",
    )

    def __init__(self, key: TrafficKey, messages: HandshakeMessages, patience: Patience, control: Control) -> None:
        self._key = key
        self._messages = messages
        self._patience = patience
        self._control = control
        self._partial = bytearray()
        self._unread = _NOTHING
        self._failure: RecordError | AlertReceived | None = None
        """It waits until what came before it was given."""
        self._is_over = False
        self.has_more = False
        """`open_into` has to be called before more is received."""
        self.is_closed = False
        """The peer said close_notify."""
        self.has_asked = False
        """The peer's key is worn, and it was asked for another."""
        self.key_updates = self.tickets = 0

    def received(self, ciphertext: memoryview) -> None:
        """`ciphertext` is looked at until `open_into` has left `has_more` False, and not after that."""
        assert not self.has_more  # what was received before is overwritten by now
        self._unread = ciphertext
        self.has_more = True

    def open_into(self, buffer: memoryview) -> int:
        """Plaintext of as many records as are complete and fit into `buffer`, which has room for LONGEST at least.

        Of MOST_RECORDS at most, so that small ones cost no more than large ones.

        0 when more ciphertext is needed, or when none comes any more. Raises RecordError and AlertReceived, after
        everything that was opened before has been given.
        """
        size = 0
        self.has_more = False
        try:
            if self._partial or self._is_over:
                size = self._begin_slowly(buffer)
                if self.has_more:
                    return size
            key, messages, ciphertext = self._key, self._messages, self._unread
            position, end, room = 0, len(ciphertext), len(buffer)
            unpack, decrypt, iv, sequence = HEADER.unpack_from, key.decrypt_into, key.iv, key.sequence
            last = sequence + MOST_RECORDS
            while end - position >= HEADER_BYTES and sequence < last:
                prefix, length = unpack(ciphertext, position)
                body = position + HEADER_BYTES
                stop, inner_end = body + length, size + length - TAG_BYTES
                if prefix != PREFIX or not OVERHEAD <= length <= LONGEST or stop > end or inner_end > room:
                    check_header(prefix, length)
                    self.has_more = stop <= end
                    break
                nonce = (iv ^ sequence).to_bytes(IV_BYTES, "big")
                decrypt(nonce, ciphertext[body:stop], ciphertext[position:body], buffer[size:inner_end])
                sequence += 1
                position = stop
                if buffer[inner_end - 1] == APPLICATION_DATA and length > OVERHEAD and not messages.partial:
                    size = inner_end - 1
                    continue
                key.sequence = sequence
                size += self._rare(buffer[size:inner_end])
                if self._is_over:
                    break
                decrypt, iv, sequence = key.decrypt_into, key.iv, key.sequence
            self.has_more = self.has_more or (sequence == last and position < end)
            key.sequence = sequence
            if sequence >= RECORDS_PER_KEY:
                self._key_is_worn()
        except (InvalidTag, RecordError, AlertReceived) as error:
            return self._fail(error, size)
        if position < end:
            self._keep(ciphertext[position:])
        else:
            self._unread = _NOTHING  # not an empty slice, which would hold the buffer
        return size

    def keep(self) -> None:
        """While `has_more`: what was received is copied, and its buffer may be used for something else."""
        self._unread = memoryview(bytes(self._unread))

    @property
    def missing(self) -> int:
        """Bytes up to the end of the record that was begun, or of its header; 0 between two records."""
        partial = self._partial
        if not partial:
            return 0
        if len(partial) < HEADER_BYTES:
            return HEADER_BYTES - len(partial)
        length: int = HEADER.unpack_from(partial)[1]
        return HEADER_BYTES + length - len(partial)

    def rest(self) -> bytes:
        """Ciphertext that is not opened yet."""
        return bytes(self._partial) + bytes(self._unread)

    def goes_on(self, *, is_closed: bool, has_asked: bool) -> None:
        """From where another process was."""
        self.is_closed = self._is_over = is_closed
        self.has_asked = has_asked

    # ---- the slow lane ---------------------------------------------------------------------------------------------

    def _keep(self, rest: memoryview) -> None:
        """`rest` has no room in the caller's buffer, or is the beginning of a record; or nobody wants it any more."""
        self._unread = rest if self.has_more else _NOTHING
        if not self.has_more and not self._is_over:
            self._partial = bytearray(rest)

    def _begin_slowly(self, buffer: memoryview) -> int:
        """Completes and opens the record whose beginning was kept, unless all is over. Returns its payload's size."""
        if self._is_over:
            self._unread = _NOTHING
            if self._failure is not None:
                raise self._failure
            return 0
        if not self._fill_up_to(HEADER_BYTES):
            return 0
        prefix, length = HEADER.unpack_from(self._partial)
        check_header(prefix, length)
        if not self._fill_up_to(HEADER_BYTES + length):
            return 0
        inner = length - TAG_BYTES
        if inner > len(buffer):
            self.has_more = True
            return 0
        key, whole = self._key, memoryview(self._partial)
        nonce = (key.iv ^ key.sequence).to_bytes(IV_BYTES, "big")
        key.decrypt_into(nonce, whole[HEADER_BYTES:], whole[:HEADER_BYTES], buffer[:inner])
        key.sequence += 1
        self._partial = bytearray()
        size = self._rare(buffer[:inner])
        if self.is_closed:  # by this record, and the key is gone
            self._unread = _NOTHING
        return size

    def _fill_up_to(self, wanted: int) -> bool:
        """True when `wanted` bytes of the record that was begun are there."""
        missing = wanted - len(self._partial)
        if missing > 0:
            self._partial += self._unread[:missing]
            self._unread = self._unread[missing:]
        return missing <= 0 or len(self._partial) == wanted

    def _rare(self, padded: memoryview) -> int:
        """Any record, opened: plaintext, type, zeros. Returns the size of its payload."""
        inner = bytes(padded).rstrip(b"\0")
        if not inner:
            raise RecordError(Alert.UNEXPECTED_MESSAGE, "a record of nothing but zeros")
        kind, content = inner[-1], inner[:-1]
        if self._messages.partial and kind != HANDSHAKE:
            raise RecordError(Alert.UNEXPECTED_MESSAGE, f"a record of type {kind} inside of a handshake message")
        match kind:
            case record.APPLICATION_DATA:
                if not content:
                    self._idle("empty")
                return len(content)
            case record.HANDSHAKE:
                self._handshake(content)
            case record.ALERT:
                self._alert(content)
            case _:
                raise RecordError(Alert.UNEXPECTED_MESSAGE, f"a record of inner type {kind}")
        return 0

    def _handshake(self, content: bytes) -> None:
        messages = self._messages.received(content)
        if not messages:
            self._idle("a piece of a handshake message")
        for message in messages:
            self._idle(message.value)
            if message is Message.TICKET:
                self.tickets += 1
            else:
                self._key.advance()
                self._patience.key_changed()
                self.key_updates += 1
                self.has_asked = False
                if message is Message.KEY_UPDATE_REQUESTED:
                    self._control.key_update()

    def _alert(self, content: bytes) -> None:
        number = alert_number(content)
        if number == Alert.CLOSE_NOTIFY:
            self.is_closed = self._is_over = True
            self._key.wipe()
        elif number == Alert.USER_CANCELED:
            self._idle("user canceled")  # close_notify follows (§6.1)
        else:
            raise AlertReceived(number)

    def _idle(self, what: str) -> None:
        self._patience.idle_record(what, self._key.sequence - 1)

    def _key_is_worn(self) -> None:
        if self._key.sequence >= SEQUENCE_LIMIT:
            raise RecordError(Alert.INTERNAL_ERROR, "the peer has used up its key")
        if not self.has_asked:
            self.has_asked = True
            self._control.ask_for_key_update()

    def _fail(self, error: InvalidTag | RecordError | AlertReceived, size: int) -> int:
        """Raises `error`, now or, when something was opened before, at the next call."""
        if isinstance(error, InvalidTag):
            error = RecordError(Alert.BAD_RECORD_MAC, "a record was forged or damaged")
        if isinstance(error, RecordError):
            self._control.end(error.alert)
        else:
            self._control.shut()
        self._partial, self._unread, self._is_over = bytearray(), _NOTHING, True
        self._key.wipe()
        self.has_more = size > 0
        # Not kept when it is raised: its traceback leads to this object, and that would be a circle.
        self._failure = error if size else None
        if not size:
            raise error
        return size
