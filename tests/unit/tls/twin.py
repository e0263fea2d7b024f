# SPDX-License-Identifier: Apache-2.0
"""One direction of a connection as the RFC reads, slow and obvious: what the sealer and the opener must equal.

It shares nothing with them, HKDF included, but the AEAD.
"""

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodeagent.tls.key_schedule import Cipher

DIGESTS = {Cipher.AES_128_GCM: hashlib.sha256, Cipher.AES_256_GCM: hashlib.sha384}


class Twin:
    def __init__(self, cipher: Cipher, secret: bytes, sequence: int = 0) -> None:
        self._digest, self._key_bytes = DIGESTS[cipher], cipher.key_bytes
        self.secret, self.sequence = secret, sequence

    def expand(self, label: bytes, length: int) -> bytes:
        """RFC 8446 §7.1, RFC 5869 §2.3: one round is enough for all that TLS needs."""
        assert length <= self._digest().digest_size
        full = b"tls13 " + label
        text = length.to_bytes(2, "big") + bytes([len(full)]) + full + bytes([0]) + bytes([1])
        return hmac.new(self.secret, text, self._digest).digest()[:length]

    def update(self) -> None:
        self.secret, self.sequence = self.expand(b"traffic upd", self._digest().digest_size), 0

    def seal(self, content: bytes, kind: int = 23, padding: int = 0) -> bytes:
        """One record."""
        return self.seal_inner(content + bytes([kind]) + bytes(padding))

    def seal_inner(self, inner: bytes, outer: bytes = b"\x17\x03\x03") -> bytes:
        header = outer + (len(inner) + 16).to_bytes(2, "big")
        return header + AESGCM(self.expand(b"key", self._key_bytes)).encrypt(self._nonce(), inner, header)

    def seal_all(self, plain: bytes, record_bytes: int = 16384) -> bytes:
        """In records of this size."""
        return b"".join(self.seal(plain[at : at + record_bytes]) for at in range(0, len(plain), record_bytes))

    def open(self, stream: bytes) -> list[tuple[int, bytes]]:
        """Type and content of each record; follows each KeyUpdate."""
        opened = []
        while stream:
            size = 5 + int.from_bytes(stream[3:5], "big")
            key = AESGCM(self.expand(b"key", self._key_bytes))
            inner = key.decrypt(self._nonce(), stream[5:size], stream[:5]).rstrip(b"\0")
            opened.append((inner[-1], inner[:-1]))
            if opened[-1][0] == 22 and inner[0] == 24:
                self.update()
            stream = stream[size:]
        return opened

    def _nonce(self) -> bytes:
        padded = self.sequence.to_bytes(12, "big")
        self.sequence += 1
        return bytes(one ^ other for one, other in zip(self.expand(b"iv", 12), padded, strict=True))


def application_data(records: list[tuple[int, bytes]]) -> bytes:
    return b"".join(content for kind, content in records if kind == 23)


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    """In pieces of these sizes, over and over; none means one piece."""
    pieces, at, turn = [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)] if sizes else len(stream)
        pieces.append(stream[at : at + size])
        at, turn = at + size, turn + 1
    return pieces
