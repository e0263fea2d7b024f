# SPDX-License-Identifier: Apache-2.0
"""Equal to the twin for every size, kind of buffer and room; what is borrowed comes back; keys change in time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.tls import sealer as module
from nodeagent.tls.alert import Alert
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.record import ALERT, RECORD_BYTES, SEALED_BYTES
from nodeagent.tls.sealer import CONTROL_BYTES, Sealer
from nodeagent.tls.traffic_key import RECORDS_PER_KEY, TrafficKey
from tests.unit.tls.ends import CIPHER, SECRET, secret_of
from tests.unit.tls.rfc8448 import SIMPLE
from tests.unit.tls.twin import Twin, application_data

SIZES = st.one_of(
    st.integers(0, 100),
    st.sampled_from([RECORD_BYTES * n + d for n in (1, 2, 3) for d in (-1, 0, 1)]),
    st.integers(0, 5 * RECORD_BYTES),
)


def pattern(size: int) -> bytearray:
    return bytearray((b"all that is sent, " * (size // 18 + 1))[:size])


def test_the_rfcs_records() -> None:
    out, sealer = memoryview(bytearray(200)), Sealer(TrafficKey(CIPHER, SIMPLE.client.secret))
    consumed, written = sealer.seal_into(memoryview(SIMPLE.client_plain), out)
    assert (consumed, bytes(out[:written])) == (50, SIMPLE.client.records[0])
    written = sealer.control_into(ALERT, Alert.CLOSE_NOTIFY.content, out)
    assert bytes(out[:written]) == SIMPLE.client.records[1]


@pytest.mark.parametrize("cipher", Cipher)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=4),
    room=st.integers(SEALED_BYTES + CONTROL_BYTES, 4 * SEALED_BYTES),
    at=st.integers(0, CONTROL_BYTES),
    is_writable=st.booleans(),
)
def test_every_way_to_seal_is_the_twins(
    cipher: Cipher, sizes: list[int], room: int, at: int, *, is_writable: bool
) -> None:
    sealer, twin = Sealer(TrafficKey(cipher, secret_of(cipher))), Twin(cipher, secret_of(cipher))
    for size in sizes:
        plain = pattern(size)
        view, out, stream = memoryview(plain if is_writable else bytes(plain)), memoryview(bytearray(room)), b""
        start = 0
        while start < size:
            consumed, end = sealer.seal_into(view[start:], out, at)
            assert consumed, "no record fits"
            start += consumed
            stream += bytes(out[at:end])
        assert stream == twin.seal_all(bytes(plain))
        assert plain == pattern(size), "a borrowed byte was kept"


def test_a_slice_of_a_larger_buffer_lends_nothing_behind_its_end() -> None:
    around = pattern(3 * RECORD_BYTES)
    twin, out = Twin(CIPHER, SECRET), memoryview(bytearray(3 * SEALED_BYTES))
    consumed, end = Sealer(TrafficKey(CIPHER, SECRET)).seal_into(memoryview(around)[100:20_000], out)
    assert (consumed, bytes(out[:end])) == (19_900, twin.seal_all(bytes(around[100:20_000])))
    assert around == pattern(3 * RECORD_BYTES)


def test_what_is_borrowed_comes_back_and_the_nonce_is_spent_whatever_happens() -> None:
    plain, key, saw = pattern(RECORD_BYTES + 1), TrafficKey(CIPHER, SECRET), []

    def fail(*_: object) -> int:
        saw.append(plain[RECORD_BYTES])
        raise MemoryError

    key.encrypt_into = fail
    with pytest.raises(MemoryError):
        Sealer(key).seal_into(memoryview(plain), memoryview(bytearray(SEALED_BYTES)))
    assert (saw, plain) == ([23], pattern(RECORD_BYTES + 1))
    assert key.sequence == 1
    with pytest.raises(MemoryError):
        Sealer(key).seal_into(memoryview(b"short"), memoryview(bytearray(SEALED_BYTES)))
    assert key.sequence == 2


def test_what_does_not_fit_waits() -> None:
    out = memoryview(bytearray(SEALED_BYTES))
    assert Sealer(TrafficKey(CIPHER, SECRET)).seal_into(memoryview(b"x" * 100), out, len(out) - 121) == (
        0,
        len(out) - 121,
    )


def test_control_records_fit_where_they_are_promised_to() -> None:
    sealer, out = Sealer(TrafficKey(CIPHER, SECRET)), memoryview(bytearray(CONTROL_BYTES))
    at = sealer.key_update_into(out, requested=True)
    at = sealer.control_into(ALERT, Alert.BAD_RECORD_MAC.content, out, at)
    assert Twin(CIPHER, SECRET).open(bytes(out[:at])) == [(22, b"\x18\0\0\1\1"), (21, b"\2\x14")]


def test_a_key_is_changed_long_before_it_is_worn() -> None:
    assert RECORDS_PER_KEY < 2**24.5 / 2
    last = RECORDS_PER_KEY - 1
    sealer, twin = Sealer(TrafficKey(CIPHER, SECRET, last)), Twin(CIPHER, SECRET, last)
    out = memoryview(bytearray(4 * SEALED_BYTES))
    for plain in (b"last", b"first"):
        _, end = sealer.seal_into(memoryview(plain), out)
        assert application_data(twin.open(bytes(out[:end]))) == plain
    assert twin.sequence == 1
    assert twin.secret != SECRET


def test_nothing_to_send_changes_no_key() -> None:
    sealer = Sealer(TrafficKey(CIPHER, SECRET, RECORDS_PER_KEY))
    assert sealer.seal_into(memoryview(b""), memoryview(bytearray(100))) == (0, 0)


def test_a_batch_that_passes_the_limit_ends_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look per batch: what a batch has too many is nothing beside what the limit leaves."""
    monkeypatch.setattr(module, "RECORDS_PER_KEY", 2)
    sealer, twin = Sealer(TrafficKey(CIPHER, SECRET)), Twin(CIPHER, SECRET)
    out, plain = memoryview(bytearray(8 * SEALED_BYTES)), pattern(3 * RECORD_BYTES)
    kinds = []
    for _ in range(3):
        _, end = sealer.seal_into(memoryview(plain), out)
        kinds += [kind for kind, _ in twin.open(bytes(out[:end]))]
    assert kinds == [23, 23, 23, 22, 23, 23, 23, 22, 23, 23, 23]
