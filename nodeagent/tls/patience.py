# SPDX-License-Identifier: Apache-2.0
"""How many records a peer may send that carry no payload: each costs us an AEAD call, a KeyUpdate a new key.

Tickets, KeyUpdates and empty records draw on one account, and records with payload fill it up again. Honest peers send
a ticket or two after the handshake and a KeyUpdate every few GiB. There is no clock in this room.
"""

from nodeagent.tls.alert import Alert
from nodeagent.tls.error import RecordError

MOST_IDLE_RECORDS = 64
"""In a row. BoringSSL puts up with 32 of each kind."""
PAYLOADS_PER_IDLE_RECORD = 16
"""Records with payload that pay for one without. A KeyUpdate costs us as much as opening five small records, so a peer
makes us work a third more at most; and HTTP/2 PINGs alone pay for a ticket every few minutes."""


class Patience:
    __slots__ = ("_counted", "left")

    def __init__(self, left: int = MOST_IDLE_RECORDS, sequence: int = 0) -> None:
        """`sequence` is that of the next record."""
        self.left = left
        self._counted = sequence
        """Records of this key that were counted already; the hot path counts none, the sequence number does."""

    def idle_record(self, what: str, sequence: int) -> None:
        """`sequence` is that of this record. Raises RecordError when there were too many."""
        earned, rest = divmod(sequence - self._counted, PAYLOADS_PER_IDLE_RECORD)
        self._counted = sequence + 1 - rest
        self.left = min(self.left + earned, MOST_IDLE_RECORDS) - 1
        if self.left < 0:
            raise RecordError(Alert.UNEXPECTED_MESSAGE, f"too many records without payload; the last was {what}")

    def key_changed(self) -> None:
        """The next record has number 0."""
        self._counted = 0
