# SPDX-License-Identifier: Apache-2.0
"""Handshake messages behind the handshake: cut out of records, and what each of them asks of us (RFC 8446 §4.6).

- A message may go over several records, and a record may hold several messages (§5.1).
- NewSessionTicket is for clients only and is dropped: a resumed session would not prove the current certificate.
- KeyUpdate must end its record, since what follows it has another key (§5.1).
- Anything else is unexpected: nobody here offers authentication behind the handshake.
"""

import enum

from nodeagent.tls.alert import Alert
from nodeagent.tls.error import RecordError
from nodeagent.tls.record import RECORD_BYTES

NEW_SESSION_TICKET = 4
KEY_UPDATE = 24
_HEAD_BYTES = 4
LONGEST_MESSAGE = RECORD_BYTES
"""Without its head. A ticket with a certificate chain in it has some KiB; this bounds what is kept of a message."""


class Message(enum.Enum):
    """What came; the names say all that is used of it."""

    TICKET = "a session ticket"
    KEY_UPDATE = "a KeyUpdate"
    KEY_UPDATE_REQUESTED = "a KeyUpdate that asks for ours"


class HandshakeMessages:
    """Of one connection."""

    __slots__ = ("_is_server", "partial")

    def __init__(self, partial: bytes = b"", *, is_server: bool) -> None:
        self._is_server = is_server
        self.partial = partial
        """The beginning of a message whose rest has not come. Nothing else may come before that."""

    def received(self, fragment: bytes) -> list[Message]:
        """`fragment` is the content of a record. Raises RecordError."""
        if not fragment:
            raise RecordError(Alert.UNEXPECTED_MESSAGE, "an empty handshake record")  # §5.4
        pending, at, messages = self.partial + fragment, 0, []
        while len(pending) - at >= _HEAD_BYTES:
            length = int.from_bytes(pending[at + 1 : at + _HEAD_BYTES], "big")
            kind = self._check(pending[at], length)
            stop = at + _HEAD_BYTES + length
            if stop > len(pending):
                break
            messages.append(Message.TICKET if kind == NEW_SESSION_TICKET else _read_key_update(pending[stop - 1]))
            at = stop
            if kind == KEY_UPDATE and at < len(pending):
                raise RecordError(Alert.UNEXPECTED_MESSAGE, "a KeyUpdate does not end its record")
        self.partial = pending[at:]
        return messages

    def _check(self, kind: int, length: int) -> int:
        """Before the message is whole, so that nothing is kept that would be refused."""
        if kind not in {NEW_SESSION_TICKET, KEY_UPDATE} or (kind == NEW_SESSION_TICKET and self._is_server):
            raise RecordError(Alert.UNEXPECTED_MESSAGE, f"a handshake message of type {kind} behind the handshake")
        if length > LONGEST_MESSAGE or (kind == KEY_UPDATE and length != 1):
            raise RecordError(Alert.DECODE_ERROR, f"a handshake message of type {kind} with {length} bytes")
        return kind


def key_update(*, requested: bool) -> bytes:
    """The message (§4.6.3). `requested`: the peer shall change its own key as well."""
    return bytes((KEY_UPDATE, 0, 0, 1, requested))


def _read_key_update(request: int) -> Message:
    if request > 1:
        raise RecordError(Alert.ILLEGAL_PARAMETER, f"a KeyUpdate that asks for {request}")
    return Message.KEY_UPDATE_REQUESTED if request else Message.KEY_UPDATE
