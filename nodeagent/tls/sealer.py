# SPDX-License-Identifier: Apache-2.0
"""The sending half: plaintext to records, with one AEAD call for each and no copy of what is in a full one.

The type of a record follows its plaintext inside the ciphertext (RFC 8446 §5.2), so for the time of the AEAD call the
byte behind a chunk is borrowed and put back. Copied is only what has no byte of ours behind it: the last chunk of what
is given, and bytes that may not be written to. tests/unit/tls/twin.py has the slow twin that this must equal.
"""

from nodeagent.tls.handshake import key_update
from nodeagent.tls.key_schedule import IV_BYTES
from nodeagent.tls.record import (
    APPLICATION_DATA,
    HANDSHAKE,
    HEADER,
    HEADER_BYTES,
    LONGEST,
    OVERHEAD,
    PREFIX,
    RECORD_BYTES,
    SEALED_BYTES,
)
from nodeagent.tls.traffic_key import RECORDS_PER_KEY, TrafficKey

_SCRATCH = memoryview(bytearray(RECORD_BYTES + 1))
"""Of the process, like every buffer that is empty between two calls; a worker has one thread."""
_pack = HEADER.pack
_FULL_HEADER = _pack(PREFIX, LONGEST)
CONTROL_BYTES = 64
"""What an alert and a KeyUpdate need at most, sealed: 24 and 27 bytes."""


class Sealer:
    __slots__ = ("_key",)

    def __init__(self, key: TrafficKey) -> None:
        self._key = key

    def seal_into(self, plain: memoryview, out: memoryview, at: int = 0) -> tuple[int, int]:
        """Seals what fits into `out` from `at` on. Returns how far it came in `plain`, and in `out`.

        `out` has room for CONTROL_BYTES and one full record. A record is full unless it is the last of `plain`.
        When the key is worn a KeyUpdate goes first.
        """
        key, start, stop = self._key, 0, len(plain)
        if key.sequence >= RECORDS_PER_KEY and stop:
            at = self.key_update_into(out, at, requested=False)
        if stop > RECORD_BYTES and not plain.readonly:
            start, at = self._seal_in_place(plain, out, at)
        while start < stop:
            chunk = plain[start : start + RECORD_BYTES]
            length, body = len(chunk), at + HEADER_BYTES
            end = body + length + OVERHEAD
            if end > len(out):
                break
            header = out[at:body] = _pack(PREFIX, length + OVERHEAD)
            _SCRATCH[:length] = chunk
            _SCRATCH[length] = APPLICATION_DATA
            sequence = key.sequence
            key.sequence = sequence + 1  # before the AEAD call: whatever becomes of it, no nonce is used twice
            nonce = (key.iv ^ sequence).to_bytes(IV_BYTES, "big")
            key.encrypt_into(nonce, _SCRATCH[: length + 1], header, out[body:end])
            start, at = start + length, end
        return start, at

    def _seal_in_place(self, plain: memoryview, out: memoryview, at: int) -> tuple[int, int]:
        """As `seal_into`, but only full records that have another byte of `plain` behind them, which is borrowed."""
        key, start, last, last_at = self._key, 0, len(plain) - RECORD_BYTES, len(out) - SEALED_BYTES
        encrypt, iv, sequence = key.encrypt_into, key.iv, key.sequence
        while start < last and at <= last_at:
            body, behind, end = at + HEADER_BYTES, start + RECORD_BYTES, at + SEALED_BYTES
            out[at:body] = _FULL_HEADER
            nonce = (iv ^ sequence).to_bytes(IV_BYTES, "big")
            sequence += 1
            key.sequence = sequence
            borrowed = plain[behind]
            plain[behind] = APPLICATION_DATA
            try:
                encrypt(nonce, plain[start : behind + 1], _FULL_HEADER, out[body:end])
            finally:
                plain[behind] = borrowed
            start, at = behind, end
        return start, at

    def control_into(self, kind: int, content: bytes, out: memoryview, at: int = 0) -> int:
        """Seals one record of another kind. Returns how far it came in `out`."""
        key = self._key
        body, end = at + HEADER_BYTES, at + HEADER_BYTES + len(content) + OVERHEAD
        HEADER.pack_into(out, at, PREFIX, len(content) + OVERHEAD)
        nonce = (key.iv ^ key.sequence).to_bytes(IV_BYTES, "big")
        key.sequence += 1
        key.encrypt_into(nonce, content + bytes((kind,)), out[at:body], out[body:end])
        return end

    def key_update_into(self, out: memoryview, at: int = 0, *, requested: bool) -> int:
        """The last record of this key. `requested`: the peer shall change its own as well (RFC 8446 §4.6.3)."""
        at = self.control_into(HANDSHAKE, key_update(requested=requested), out, at)
        self._key.advance()
        return at
