# SPDX-License-Identifier: Apache-2.0
"""Equal to the twin wherever the bytes are cut; everything that breaks TLS has its alert; every limit is reached."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.reason import Reason
from nodeagent.tls import opener as module
from nodeagent.tls.alert import Alert
from nodeagent.tls.error import AlertReceived, RecordError
from nodeagent.tls.handshake import key_update
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.opener import MOST_RECORDS
from nodeagent.tls.patience import MOST_IDLE_RECORDS, PAYLOADS_PER_IDLE_RECORD
from nodeagent.tls.record import LONGEST, RECORD_BYTES, SEALED_BYTES
from nodeagent.tls.traffic_key import RECORDS_PER_KEY, SEQUENCE_LIMIT
from tests.unit.tls.ends import Reader
from tests.unit.tls.rfc8448 import TRACES, Trace
from tests.unit.tls.twin import Twin, cut

TICKET = b"\x04\x00\x00\x0a" + bytes(10)
CLOSE_NOTIFY = Alert.CLOSE_NOTIFY.content

RECORDS = st.lists(
    st.one_of(
        st.tuples(st.just(23), st.binary(min_size=1, max_size=50), st.just(0)),
        st.tuples(st.just(23), st.sampled_from([b"", b"x" * RECORD_BYTES, b"y" * 5000]), st.just(0)),
        st.tuples(st.just(23), st.binary(max_size=20), st.integers(0, 300)),
        st.tuples(st.just(22), st.sampled_from([TICKET, key_update(requested=False)]), st.integers(0, 20)),
    ),
    max_size=8,
)
CUTS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 40_000)), max_size=5)


def seal(twin: Twin, records: list[tuple[int, bytes, int]]) -> bytes:
    stream = b""
    for kind, content, padding in records:
        stream += twin.seal(content, kind, padding)
        if kind == 22 and content[0] == 24:
            twin.update()
    return stream


def refused(reader: Reader, alert: Alert) -> str:
    """What the peer is told, and the operator."""
    assert isinstance(reader.error, RecordError)
    assert (reader.error.alert, reader.control.alert) == (alert, alert)
    assert reader.key.secret == bytes(len(reader.key.secret)), "the key is of no use any more"
    return str(reader.error)


# ---- what is right -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.section)
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_the_rfcs_records(trace: Trace, size: int) -> None:
    for side, plain, is_server in ((trace.client, trace.client_plain, True), (trace.server, trace.server_plain, False)):
        reader = Reader(is_server=is_server)
        reader.opener._key.__init__(Cipher.AES_128_GCM, side.secret)  # type: ignore[misc]  # another key, same reader
        reader.feed(*cut(b"".join(side.records), [size]))
        assert (reader.plain, reader.error, reader.opener.is_closed) == (plain, None, True)
        assert reader.opener.tickets == (0 if is_server else trace.tickets)


@pytest.mark.parametrize("cipher", Cipher)
@given(records=RECORDS, sizes=CUTS, room=st.sampled_from([LONGEST, LONGEST + 100, 3 * SEALED_BYTES, 1 << 18]))
def test_what_the_twin_sealed_is_opened_wherever_it_is_cut(
    cipher: Cipher, records: list[tuple[int, bytes, int]], sizes: list[int], room: int
) -> None:
    reader = Reader(cipher, room=room)
    reader.feed(*cut(seal(reader.twin, records), sizes))
    assert reader.error is None
    assert reader.plain == b"".join(content for kind, content, _ in records if kind == 23)
    assert reader.opener.tickets == sum(content == TICKET for _, content, _ in records)
    assert (bytes(reader.key.secret), reader.key.sequence) == (reader.twin.secret, reader.twin.sequence)


@given(records=RECORDS, sizes=CUTS, damaged=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_the_cuts_do_not_change_what_is_given_before_an_error(
    records: list[tuple[int, bytes, int]], sizes: list[int], damaged: int, bit: int
) -> None:
    whole, in_pieces = Reader(), Reader()
    stream = bytearray(seal(whole.twin, [*records, (23, b"last", 0)]))
    stream[damaged % len(stream)] ^= 1 << bit
    whole.feed(bytes(stream))
    in_pieces.feed(*cut(bytes(stream), sizes))
    assert in_pieces.plain == whole.plain
    assert str(in_pieces.error) == str(whole.error)


def test_a_buffer_without_room_is_called_for_again() -> None:
    reader = Reader()
    stream, buffer = reader.twin.seal(b"a" * 100) + reader.twin.seal(b"b" * 16_384), memoryview(bytearray(LONGEST))
    reader.opener.received(memoryview(stream))
    assert reader.opener.open_into(buffer) == 100
    assert reader.opener.has_more
    assert reader.opener.open_into(buffer) == 16_384
    assert not reader.opener.has_more


def test_tiny_records_are_opened_in_portions_and_kept_meanwhile() -> None:
    """The buffer of what was received is somebody else's between two portions."""
    reader = Reader()
    stream, buffer = (
        bytearray(b"".join(reader.twin.seal(b"x") for _ in range(MOST_RECORDS * 2 + 1))),
        bytearray(LONGEST),
    )
    stream += b"\x17"  # and the beginning of another
    reader.opener.received(memoryview(stream))
    sizes = []
    while reader.opener.has_more:
        sizes.append(reader.opener.open_into(memoryview(buffer)))
        if len(sizes) == 1:
            reader.opener.keep()
            stream[:] = bytes(len(stream))
    assert sizes == [MOST_RECORDS, MOST_RECORDS, 1]
    assert reader.opener.rest() == b"\x17"


def test_so_is_one_without_room_for_the_record_that_was_begun() -> None:
    reader = Reader()
    stream, buffer = reader.twin.seal(b"a" * 100) + reader.twin.seal(b"b"), memoryview(bytearray(LONGEST))
    steps = []
    for piece, rooms in ((stream[:50], [LONGEST]), (stream[50:], [50, LONGEST])):
        reader.opener.received(memoryview(piece))
        steps += [(reader.opener.open_into(buffer[:room]), reader.opener.has_more) for room in rooms]
    assert steps == [(0, False), (0, True), (101, False)]
    assert bytes(buffer[:101]) == b"a" * 100 + b"b"


def test_nothing_is_received_over_what_is_unread() -> None:
    reader = Reader()
    reader.opener.received(memoryview(b"x"))
    with pytest.raises(AssertionError):
        reader.opener.received(memoryview(b"y"))


def test_the_beginning_of_a_record_is_all_that_is_kept() -> None:
    reader = Reader()
    stream = reader.twin.seal(b"x" * RECORD_BYTES)
    reader.feed(*cut(stream[:-1], [4]))
    assert len(reader.opener.rest()) == SEALED_BYTES - 1
    reader.feed(stream[-1:])
    assert reader.opener.rest() == b""
    assert len(reader.plain) == RECORD_BYTES


# ---- the end -----------------------------------------------------------------------------------------------------


def test_close_notify_ends_it_and_what_follows_is_ignored() -> None:
    reader = Reader()
    stream = reader.twin.seal(b"last") + reader.twin.seal(CLOSE_NOTIFY, 21)
    reader.feed(stream + b"whatever", b"and more", b"")
    assert (reader.plain, reader.opener.is_closed, reader.error) == (b"last", True, None)
    assert (reader.opener.rest(), reader.opener.has_more) == (b"", False)
    assert reader.key.secret == bytes(32)


@pytest.mark.parametrize("at", [1, 5, 20, 23])
def test_what_follows_a_close_notify_that_was_cut_is_ignored_too(at: int) -> None:
    reader = Reader()
    closing, late = reader.twin.seal(CLOSE_NOTIFY, 21), reader.twin.seal(b"late")
    reader.feed(closing[:at], closing[at:] + late, late)
    assert (reader.plain, reader.opener.is_closed, reader.error) == (b"", True, None)
    assert (reader.opener.rest(), reader.opener.has_more) == (b"", False)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_level_of_an_alert_says_nothing(level: int) -> None:
    closed, failed = Reader(), Reader()
    assert closed.feed(closed.twin.seal(bytes((level, 0)), 21)).opener.is_closed
    failed.feed(failed.twin.seal(bytes((level, 40)), 21))
    assert isinstance(failed.error, AlertReceived)


def test_the_end_of_the_stream_is_a_truncation_wherever_it_comes() -> None:
    whole = Reader().twin.seal(b"something")
    for length in range(len(whole)):
        assert not Reader().feed(whole[:length]).opener.is_closed


def test_an_alert_comes_behind_what_was_sent_before_it_and_nothing_is_answered() -> None:
    reader = Reader()
    reader.feed(reader.twin.seal(b"before") + reader.twin.seal(bytes((2, 48)), 21) + reader.twin.seal(b"behind"))
    assert reader.plain == b"before"
    assert isinstance(reader.error, AlertReceived)
    assert reader.error.reason is Reason.TLS_UNKNOWN_CA
    assert (reader.control.is_shut, reader.control.has_records) == (True, False)


def test_user_canceled_is_followed_by_the_end() -> None:
    reader = Reader()
    reader.feed(reader.twin.seal(Alert.USER_CANCELED.content, 21) + reader.twin.seal(CLOSE_NOTIFY, 21))
    assert (reader.error, reader.opener.is_closed) == (None, True)


def test_after_an_error_everything_is_ignored() -> None:
    reader = Reader()
    reader.feed(b"\x14\x03\x03\x00\x01\x01")
    assert isinstance(reader.error, RecordError)
    reader.error = None
    reader.feed(reader.twin.seal(b"more"), b"\x14")
    assert (reader.plain, reader.error) == (b"", None)
    assert (reader.opener.has_more, reader.opener.rest()) == (False, b"")


def test_an_error_that_was_raised_is_not_held() -> None:
    """Its traceback has the opener in it: each connection that failed would wait for the garbage collector."""
    reader = Reader()
    reader.feed(reader.twin.seal(b"given first") + b"\x14\x03\x03\x00\x01\x01")
    assert isinstance(reader.error, RecordError)
    assert reader.error not in gc.get_referents(reader.opener)


# ---- KeyUpdate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requested", [False, True])
@pytest.mark.parametrize("size", [3, 100])
def test_a_key_update_changes_the_key_and_is_answered_when_asked_for(*, requested: bool, size: int) -> None:
    reader = Reader()
    stream = seal(reader.twin, [(23, b"old", 0), (22, key_update(requested=requested), 0), (23, b"new", 0)])
    reader.feed(*cut(stream, [size]))
    assert (reader.plain, reader.opener.key_updates) == (b"oldnew", 1)
    assert reader.control.owes_key_update is requested


def test_a_record_of_the_former_key_is_forged() -> None:
    reader = Reader()
    update = reader.twin.seal(key_update(requested=False), 22)
    assert "forged" in refused(reader.feed(update + reader.twin.seal(b"old key")), Alert.BAD_RECORD_MAC)


def test_a_peer_whose_key_is_worn_is_asked_for_another_once() -> None:
    reader, asked = Reader(sequence=RECORDS_PER_KEY - 2), []
    for _ in range(4):
        reader.feed(reader.twin.seal(b"."))
        asked.append(reader.control.asks_for_key_update)
        reader.control.key_updated()
    assert asked == [False, True, False, False]
    assert reader.opener.has_asked
    reader.feed(seal(reader.twin, [(22, key_update(requested=False), 0)]))
    assert [reader.opener.has_asked] == [False]


def test_a_key_that_is_never_changed_ends() -> None:
    reader = Reader(sequence=SEQUENCE_LIMIT - 1)
    reader.feed(reader.twin.seal(b"the last"))
    assert "used up" in refused(reader, Alert.INTERNAL_ERROR)


# ---- what breaks TLS ---------------------------------------------------------------------------------------------


def test_every_bit_of_a_record_matters() -> None:
    """A changed length may leave the opener waiting for more; what it never does is give anything."""
    sealed = Reader().twin.seal(b"payload")
    behind = bytes(SEALED_BYTES)
    for at in range(len(sealed)):
        for bit in range(8):
            damaged = bytearray(sealed)
            damaged[at] ^= 1 << bit
            reader = Reader().feed(bytes(damaged), behind, behind)
            assert reader.plain == b""
            assert isinstance(reader.error, RecordError), (at, bit)


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize(
    ("kind", "content", "alert"),
    [
        pytest.param(20, b"\1", Alert.UNEXPECTED_MESSAGE, id="ChangeCipherSpec, sealed"),
        pytest.param(24, b"heartbeat", Alert.UNEXPECTED_MESSAGE, id="an unknown type"),
        pytest.param(0, b"", Alert.UNEXPECTED_MESSAGE, id="nothing but zeros"),
        pytest.param(21, b"", Alert.DECODE_ERROR, id="an empty alert"),
        pytest.param(21, b"\2", Alert.DECODE_ERROR, id="half an alert"),
        pytest.param(21, CLOSE_NOTIFY * 2, Alert.DECODE_ERROR, id="two alerts"),
        pytest.param(22, b"", Alert.UNEXPECTED_MESSAGE, id="an empty handshake record"),
        pytest.param(22, b"\x0d\0\0\1\0", Alert.UNEXPECTED_MESSAGE, id="a CertificateRequest"),
        pytest.param(22, b"\x18\0\0\1\7", Alert.ILLEGAL_PARAMETER, id="a KeyUpdate that makes no sense"),
    ],
)
def test_what_is_refused(kind: int, content: bytes, alert: Alert, size: int) -> None:
    reader = Reader()
    refused(reader.feed(*cut(reader.twin.seal(content, kind, padding=9), [size])), alert)


@given(
    records=st.lists(
        st.tuples(
            st.one_of(st.sampled_from([20, 21, 22, 23]), st.integers(0, 255)),
            st.one_of(st.binary(max_size=30), st.sampled_from([TICKET, key_update(requested=True)])),
            st.integers(0, 5),
        ),
        max_size=6,
    ),
    sizes=CUTS,
    is_server=st.booleans(),
)
def test_whatever_a_peer_seals_is_nothing_but_our_own_errors(
    records: list[tuple[int, bytes, int]], sizes: list[int], *, is_server: bool
) -> None:
    reader = Reader(is_server=is_server)
    reader.feed(*cut(b"".join(reader.twin.seal(content, kind, padding) for kind, content, padding in records), sizes))
    assert reader.error is None or isinstance(reader.error, RecordError | AlertReceived)


@given(stream=st.binary(max_size=200), sizes=CUTS)
def test_so_is_whatever_anybody_sends(stream: bytes, sizes: list[int]) -> None:
    for prefix in (b"", b"\x17\x03\x03"):
        reader = Reader()
        reader.feed(*cut(prefix + stream, sizes))
        assert reader.plain == b""
        assert reader.error is None or isinstance(reader.error, RecordError)


@pytest.mark.parametrize("kind", [21, 23])
def test_nothing_comes_between_the_pieces_of_a_message(kind: int) -> None:
    reader = Reader()
    stream = reader.twin.seal(TICKET[:5], 22) + reader.twin.seal(CLOSE_NOTIFY, kind)
    assert "inside of a handshake message" in refused(reader.feed(stream), Alert.UNEXPECTED_MESSAGE)


@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_a_record_that_is_too_long_is_refused_by_its_header(size: int) -> None:
    reader = Reader()
    header = b"\x17\x03\x03" + (LONGEST + 1).to_bytes(2, "big")
    refused(reader.feed(*cut(header + b"x" * 100, [size])), Alert.RECORD_OVERFLOW)
    assert reader.opener.rest() == b""


def test_plaintext_and_padding_together_have_the_limit() -> None:
    reader = Reader()
    longest = reader.twin.seal(b"x" * 100, padding=RECORD_BYTES - 100)
    assert len(longest) == SEALED_BYTES
    assert reader.feed(longest).plain == b"x" * 100
    refused(reader.feed(reader.twin.seal(b"x" * 100, padding=RECORD_BYTES - 99)), Alert.RECORD_OVERFLOW)


def test_records_in_plain_text_are_refused() -> None:
    for kind in (20, 21, 22):
        refused(Reader().feed(bytes((kind, 3, 3, 0, 2, 1, 0))), Alert.UNEXPECTED_MESSAGE)
    reader = Reader()
    refused(reader.feed(reader.twin.seal_inner(b"x\x17", b"\x17\x03\x04")), Alert.DECODE_ERROR)


# ---- floods ------------------------------------------------------------------------------------------------------

IDLE = {
    "empty records": (23, b""),
    "padded empty records": (23, b""),
    "tickets": (22, TICKET),
    "KeyUpdates": (22, key_update(requested=True)),
    "user canceled": (21, Alert.USER_CANCELED.content),
}


@pytest.mark.parametrize("what", IDLE)
def test_a_flood_of_records_without_payload_ends_it(what: str) -> None:
    kind, content = IDLE[what]
    padding = 100 if "padded" in what else 0
    allowed, flooded = Reader(), Reader()
    for reader, count in ((allowed, MOST_IDLE_RECORDS), (flooded, MOST_IDLE_RECORDS + 1)):
        reader.feed(seal(reader.twin, [(kind, content, padding)] * count + [(23, b"alive", 0)]))
    assert (allowed.error, allowed.plain) == (None, b"alive")
    assert "too many" in refused(flooded, Alert.UNEXPECTED_MESSAGE)
    assert flooded.plain == b""


def test_a_flood_of_pieces_of_a_message_ends_it() -> None:
    reader = Reader()
    ticket = b"\4\0\x40\0" + bytes(MOST_IDLE_RECORDS)
    stream = b"".join(reader.twin.seal(ticket[n : n + 1], 22) for n in range(MOST_IDLE_RECORDS + 1))
    assert "a piece" in refused(reader.feed(stream), Alert.UNEXPECTED_MESSAGE)


def test_many_tickets_in_one_record_count_each() -> None:
    reader = Reader()
    refused(reader.feed(reader.twin.seal(TICKET * (MOST_IDLE_RECORDS + 1), 22)), Alert.UNEXPECTED_MESSAGE)


@pytest.mark.parametrize("what", IDLE)
def test_a_peer_that_sends_payload_may_go_on_for_ever(what: str) -> None:
    kind, content = IDLE[what]
    turn = [(kind, content, 0)] + [(23, b"x", 0)] * PAYLOADS_PER_IDLE_RECORD
    reader = Reader()
    reader.feed(seal(reader.twin, turn * (2 * MOST_IDLE_RECORDS)))
    assert reader.error is None
    assert len(reader.plain) == 2 * MOST_IDLE_RECORDS * PAYLOADS_PER_IDLE_RECORD


def test_the_hot_path_really_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law that both lanes are equal would hold as well if all went the slow one."""
    slow: list[int] = []
    rare = module.Opener._rare

    def counted(opener: module.Opener, padded: memoryview) -> int:
        slow.append(len(padded))
        return rare(opener, padded)

    monkeypatch.setattr(module.Opener, "_rare", counted)
    reader = Reader()
    reader.feed(reader.twin.seal_all(bytes(100_000)))
    assert (len(reader.plain), slow) == (100_000, [])
