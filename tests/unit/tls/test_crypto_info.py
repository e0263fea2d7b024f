# SPDX-License-Identifier: Apache-2.0
"""The layout of linux/tls.h, byte by byte."""

import pytest

from nodeagent.tls.crypto_info import info_bytes, pack_crypto_info, read_sequence
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.traffic_key import TrafficKey
from tests.unit.tls.ends import secret_of


@pytest.mark.parametrize(("cipher", "number", "size"), [(Cipher.AES_128_GCM, 51, 40), (Cipher.AES_256_GCM, 52, 56)])
def test_a_key_as_the_kernel_wants_it(cipher: Cipher, number: int, size: int) -> None:
    key = TrafficKey(cipher, secret_of(cipher), 0x0102)
    info = bytes(pack_crypto_info(key))
    assert len(info) == info_bytes(cipher) == size
    assert int.from_bytes(info[:2], "little") == 0x0304  # native: no machine that we run on is big endian
    assert int.from_bytes(info[2:4], "little") == number
    iv = key.iv.to_bytes(12, "big")
    assert (info[-12:-8], info[4:12]) == (iv[:4], iv[4:])
    assert info[12:-12] == key.key
    assert info[-8:] == bytes((0, 0, 0, 0, 0, 0, 1, 2))
    assert read_sequence(info) == read_sequence(memoryview(info)) == 0x0102
