# SPDX-License-Identifier: Apache-2.0
"""From a traffic secret to what records need: key, IV, and the secret that follows (RFC 8446 §7.1 to §7.3).

Everything is derived into buffers that the caller can overwrite; see traffic_key.py for what that is worth.
"""

import enum
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

IV_BYTES = 12


class Cipher(enum.Enum):
    """The AES-GCM suites. `value` is OpenSSL's name, which is the RFC's; `hash` is that of HKDF."""

    hash: hashes.HashAlgorithm
    key_bytes: int

    def __new__(cls, value: str, algorithm: hashes.HashAlgorithm, key_bytes: int) -> Self:
        row = object.__new__(cls)
        row._value_ = value
        row.hash = algorithm
        row.key_bytes = key_bytes
        return row

    AES_128_GCM = ("TLS_AES_128_GCM_SHA256", hashes.SHA256(), 16)
    AES_256_GCM = ("TLS_AES_256_GCM_SHA384", hashes.SHA384(), 32)

    @property
    def secret_bytes(self) -> int:
        return self.hash.digest_size

    @classmethod
    def find(cls, name: str) -> Self | None:
        """None for ChaCha20-Poly1305, and for every suite of an older TLS."""
        return next((cipher for cipher in cls if cipher.value == name), None)


def expand_label(algorithm: hashes.HashAlgorithm, secret: bytearray, label: bytes, length: int) -> bytearray:
    """HKDF-Expand-Label (§7.1) with an empty transcript, which is all that is needed behind a handshake."""
    full = b"tls13 " + label
    described = length.to_bytes(2, "big") + bytes((len(full),)) + full + b"\0"
    derived = bytearray(length)
    HKDFExpand(algorithm, length, described).derive_into(secret, derived)
    return derived


def write_key(cipher: Cipher, secret: bytearray) -> bytearray:
    return expand_label(cipher.hash, secret, b"key", cipher.key_bytes)


def write_iv(cipher: Cipher, secret: bytearray) -> bytearray:
    return expand_label(cipher.hash, secret, b"iv", IV_BYTES)


def following_secret(cipher: Cipher, secret: bytearray) -> bytearray:
    """application_traffic_secret_N+1 (§7.2), for a KeyUpdate."""
    return expand_label(cipher.hash, secret, b"traffic upd", cipher.secret_bytes)
