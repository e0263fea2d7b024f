# SPDX-License-Identifier: Apache-2.0
"""What one direction of a connection is sealed with now, and how often it was used.

What Python can overwrite (the secret and the key, which are bytearrays) is overwritten when it is no longer needed:
after a KeyUpdate, on `wipe`, and at the latest when the object goes. What it cannot: OpenSSL's own copy inside the
AEAD, which the library clears when it frees it; the IV, an integer, worth nothing without the key; the bytes that a
secret came in (a line of the key log, a decoded state), which lie in memory until it is used again. So this narrows a
window; that no other process may read this one's memory is what protects the keys.
"""

from collections.abc import Callable
from typing import NoReturn

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodeagent.tls import key_schedule
from nodeagent.tls.key_schedule import Cipher

RECORDS_PER_KEY = 1 << 23
"""Then comes a KeyUpdate: 128 GiB of full records, a third of the 2^24.5 that AES-GCM is good for (RFC 8446 §5.5)."""
SEQUENCE_LIMIT = 1 << 63
"""A key whose peer never updates it ends here. Half of what §5.3 allows, so that one look per batch is enough."""


class KeyWasWiped(RuntimeError):
    """A bug: the connection was closed, or another process has it. Going on could use a nonce twice."""


def _refuse(*_: object) -> NoReturn:
    raise KeyWasWiped


class TrafficKey:
    __slots__ = ("cipher", "decrypt_into", "encrypt_into", "iv", "iv_bytes", "key", "secret", "sequence")

    encrypt_into: Callable[..., int]
    """Of AESGCM, bound once a key: nonce, plaintext, additional data, and a buffer of exactly the result's size."""
    decrypt_into: Callable[..., int]

    def __init__(self, cipher: Cipher, secret: bytes | bytearray, sequence: int = 0) -> None:
        """`secret` is copied. Raises ValueError for one of the wrong length, and for an impossible `sequence`."""
        if len(secret) != cipher.secret_bytes:
            raise ValueError(f"a secret of {len(secret)} bytes for {cipher.value}")
        if not 0 <= sequence <= SEQUENCE_LIMIT:
            raise ValueError(f"sequence number {sequence}")
        self.cipher = cipher
        self.secret = bytearray(secret)
        self.sequence = sequence
        """Of the next record. Users keep it in a local variable while they work, and write it back."""
        self._arm()

    def advance(self) -> None:
        """To the next generation (RFC 8446 §7.2)."""
        following = key_schedule.following_secret(self.cipher, self.secret)
        self.wipe()
        self.secret = following
        self.sequence = 0
        self._arm()

    def wipe(self) -> None:
        self.encrypt_into = self.decrypt_into = _refuse
        for secret in (self.secret, self.key):
            secret[:] = bytes(len(secret))

    def _arm(self) -> None:
        self.key = key_schedule.write_key(self.cipher, self.secret)
        """For whoever seals with it elsewhere: the kernel (crypto_info.py)."""
        iv = key_schedule.write_iv(self.cipher, self.secret)
        self.iv = int.from_bytes(iv, "big")
        """As a number, since the nonce is this xor the sequence number (§5.3)."""
        self.iv_bytes = bytes(iv)
        """The same, for compiled code."""
        iv[:] = bytes(len(iv))
        # Where OpenSSL is older than 3.2 the library may look at the key again later, so ours lives as long as this.
        aead = AESGCM(self.key)
        self.encrypt_into, self.decrypt_into = aead.encrypt_into, aead.decrypt_into

    def __repr__(self) -> str:
        return f"TrafficKey({self.cipher.value}, record {self.sequence})"

    def __del__(self) -> None:
        if hasattr(self, "key"):  # not when the constructor refused
            self.wipe()
