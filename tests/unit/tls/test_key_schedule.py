# SPDX-License-Identifier: Apache-2.0
"""Against RFC 8448, and against a twin that is HKDF by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.tls.key_schedule import Cipher, expand_label, following_secret, write_iv, write_key
from tests.unit.tls.rfc8448 import TRACES, Side
from tests.unit.tls.twin import Twin

SIDES = [
    pytest.param(side, id=f"{trace.section}, {role}")
    for trace in TRACES
    for role, side in (("client", trace.client), ("server", trace.server))
    if side.key
]


@pytest.mark.parametrize("side", SIDES)
def test_keys_and_ivs_of_the_rfc(side: Side) -> None:
    secret = bytearray(side.secret)
    assert write_key(Cipher.AES_128_GCM, secret) == side.key
    assert write_iv(Cipher.AES_128_GCM, secret) == side.iv
    assert secret == side.secret


def test_every_trace_of_the_rfc_is_here() -> None:
    assert len(SIDES) == 9  # section 4 leaves out the client's


@pytest.mark.parametrize("cipher", Cipher)
@given(st.binary(min_size=48, max_size=48))
def test_equal_to_the_twin(cipher: Cipher, seed: bytes) -> None:
    secret = bytearray(seed[: cipher.secret_bytes])
    twin = Twin(cipher, bytes(secret))
    assert write_key(cipher, secret) == twin.expand(b"key", cipher.key_bytes)
    assert write_iv(cipher, secret) == twin.expand(b"iv", 12)
    assert following_secret(cipher, secret) == twin.expand(b"traffic upd", cipher.secret_bytes)
    assert expand_label(cipher.hash, secret, b"any", 17) == twin.expand(b"any", 17)


def test_what_is_derived_can_be_overwritten() -> None:
    assert isinstance(write_key(Cipher.AES_256_GCM, bytearray(48)), bytearray)


@pytest.mark.parametrize(
    ("name", "cipher"),
    [
        ("TLS_AES_128_GCM_SHA256", Cipher.AES_128_GCM),
        ("TLS_AES_256_GCM_SHA384", Cipher.AES_256_GCM),
        ("TLS_CHACHA20_POLY1305_SHA256", None),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", None),
        ("", None),
    ],
)
def test_suites_by_name(name: str, cipher: Cipher | None) -> None:
    assert Cipher.find(name) is cipher


def test_sizes() -> None:
    assert [(cipher.key_bytes, cipher.secret_bytes) for cipher in Cipher] == [(16, 32), (32, 48)]
