# SPDX-License-Identifier: Apache-2.0
"""Generations of a key, what is overwritten, and what is never shown."""

import pytest

from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.traffic_key import SEQUENCE_LIMIT, KeyWasWiped, TrafficKey
from tests.unit.tls.ends import secret_of
from tests.unit.tls.rfc8448 import SIMPLE
from tests.unit.tls.twin import Twin


def test_the_rfcs_record_is_sealed() -> None:
    key = TrafficKey(Cipher.AES_128_GCM, SIMPLE.client.secret)
    record = SIMPLE.client.records[0]
    out = bytearray(len(record) - 5)
    key.encrypt_into(key.iv.to_bytes(12, "big"), SIMPLE.client_plain + b"\x17", record[:5], out)
    assert out == record[5:]


@pytest.mark.parametrize("cipher", Cipher)
def test_the_next_generation_is_the_twins(cipher: Cipher) -> None:
    key, twin = TrafficKey(cipher, secret_of(cipher), sequence=7), Twin(cipher, secret_of(cipher))
    for _ in range(3):
        key.advance()
        twin.update()
        assert (bytes(key.secret), key.sequence) == (twin.secret, 0)
        assert key.iv.to_bytes(12, "big") == twin.expand(b"iv", 12)


def test_what_can_be_overwritten_is() -> None:
    key = TrafficKey(Cipher.AES_256_GCM, secret_of(Cipher.AES_256_GCM))
    former = key.secret, key.key
    key.advance()
    assert former == (bytearray(48), bytearray(32))
    latter = key.secret, key.key
    key.wipe()
    assert latter == (bytearray(48), bytearray(32))
    assert len(key.secret) == 48  # a state that is exported afterwards has the right shape, and nothing in it


def test_a_key_that_is_dropped_is_overwritten() -> None:
    key = TrafficKey(Cipher.AES_128_GCM, secret_of(Cipher.AES_128_GCM))
    secret, written = key.secret, key.key
    del key
    assert (secret, written) == (bytearray(32), bytearray(16))


def test_the_callers_secret_is_left_alone() -> None:
    theirs = bytearray(secret_of(Cipher.AES_128_GCM))
    TrafficKey(Cipher.AES_128_GCM, theirs).wipe()
    assert theirs == secret_of(Cipher.AES_128_GCM)


def test_a_wiped_key_is_a_bug_and_not_a_key_of_zeros() -> None:
    key = TrafficKey(Cipher.AES_128_GCM, secret_of(Cipher.AES_128_GCM))
    key.wipe()
    with pytest.raises(KeyWasWiped):
        key.encrypt_into(bytes(12), b"plain", b"", bytearray(21))
    with pytest.raises(KeyWasWiped):
        key.decrypt_into(bytes(12), bytes(21), b"", bytearray(5))


def test_nothing_secret_is_shown() -> None:
    key = TrafficKey(Cipher.AES_128_GCM, b"s" * 32, sequence=5)
    assert repr(key) == str(key) == "TrafficKey(TLS_AES_128_GCM_SHA256, record 5)"


@pytest.mark.parametrize(
    ("secret", "sequence"), [(b"", 0), (bytes(48), 0), (bytes(32), -1), (bytes(32), SEQUENCE_LIMIT + 1)]
)
def test_what_cannot_be(secret: bytes, sequence: int) -> None:
    with pytest.raises(ValueError, match=r"secret of|sequence number"):
        TrafficKey(Cipher.AES_128_GCM, secret, sequence)
