# SPDX-License-Identifier: Apache-2.0
"""The shape of a protected record (RFC 8446 §5.2), and how large it may be.

    header: 23, 3, 3, length | plaintext, its type, zeros | tag
            5 bytes          | at most 16385 bytes        | 16 bytes

Whatever is inside, the header says application data; so the header is what `PREFIX` says, or it is wrong.
"""

import struct

from nodeagent.tls.alert import Alert
from nodeagent.tls.error import RecordError

CHANGE_CIPHER_SPEC = 20
ALERT = 21
HANDSHAKE = 22
APPLICATION_DATA = 23

HEADER = struct.Struct(">3sH")
HEADER_BYTES = HEADER.size
PREFIX = bytes((APPLICATION_DATA, 3, 3))
TAG_BYTES = 16
OVERHEAD = 1 + TAG_BYTES
"""What the ciphertext of a record has more than its plaintext: the type and the tag."""
RECORD_BYTES = 1 << 14
"""Plaintext of one record at most (§5.1)."""
LONGEST = RECORD_BYTES + OVERHEAD
"""Ciphertext of one record at most. §5.2 has 2^14 + 256, for ciphers with larger tags; but plaintext, type and padding
are 2^14 + 1 together at most (§5.4), so a longer one is refused before it is opened."""
SEALED_BYTES = HEADER_BYTES + LONGEST
"""A full record on the wire."""


def check_header(prefix: bytes, length: int) -> None:
    """Raises RecordError, with the alerts of §5.1 and §5.2, for the header of a record that we would not open."""
    if prefix[0] != APPLICATION_DATA:
        # ChangeCipherSpec as well: it is ignored only until the peer's Finished (§5).
        raise RecordError(Alert.UNEXPECTED_MESSAGE, f"a record of type {prefix[0]} behind the handshake")
    if prefix != PREFIX:
        raise RecordError(Alert.DECODE_ERROR, f"a record of version {prefix[1]}.{prefix[2]}")
    if length > LONGEST:
        raise RecordError(Alert.RECORD_OVERFLOW, f"a record of {length} bytes")
    if length < OVERHEAD:
        raise RecordError(Alert.DECODE_ERROR, f"a record of {length} bytes has no content")
