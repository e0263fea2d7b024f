# SPDX-License-Identifier: Apache-2.0
"""A traffic key in the words of the kernel: struct tls12_crypto_info_aes_gcm_128 and _256 of linux/tls.h.

    version, cipher type | iv    | key         | salt  | sequence number
    2 + 2 bytes, native  | 8     | 16 or 32    | 4     | 8, big endian

Salt and iv are the two parts of the IV of TLS 1.3, in this order (RFC 8446 §5.3), and go by the names of TLS 1.2.
"""

import struct

from nodeagent.tls.key_schedule import IV_BYTES, Cipher
from nodeagent.tls.traffic_key import TrafficKey

_HEAD = struct.Struct("=HH")
_VERSION = 0x0304
_TYPES = {Cipher.AES_128_GCM: 51, Cipher.AES_256_GCM: 52}
_SALT_BYTES, SEQUENCE_BYTES = 4, 8


def info_bytes(cipher: Cipher) -> int:
    """Size of the struct."""
    return _HEAD.size + IV_BYTES + cipher.key_bytes + SEQUENCE_BYTES


def pack_crypto_info(key: TrafficKey) -> bytearray:
    """The caller overwrites it when the kernel has it."""
    iv = key.iv.to_bytes(IV_BYTES, "big")
    info = bytearray(_HEAD.pack(_VERSION, _TYPES[key.cipher]))
    info += iv[_SALT_BYTES:]
    info += key.key
    info += iv[:_SALT_BYTES]
    info += key.sequence.to_bytes(SEQUENCE_BYTES, "big")
    return info


def read_sequence(info: bytes | memoryview) -> int:
    """Of the next record, from the end of the struct as the kernel gives it back."""
    return int.from_bytes(info[-SEQUENCE_BYTES:], "big")
