# SPDX-License-Identifier: Apache-2.0
"""Two ends without a network: data both ways, control records, ends, and going on in another process."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.tls import opener as opener_module
from nodeagent.tls import sealer as sealer_module
from nodeagent.tls.alert import Alert
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.error import AlertReceived, RecordError
from nodeagent.tls.handshake import key_update
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.output import OUTPUT_BYTES
from nodeagent.tls.record import RECORD_BYTES
from nodeagent.tls.state import State
from nodeagent.tls.traffic_key import RECORDS_PER_KEY, KeyWasWiped, TrafficKey
from tests.unit.tls.ends import CIPHER, SECRET, open_all, pair, seal, secret_of, take
from tests.unit.tls.twin import Twin, application_data, cut

CUTS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 40_000)), max_size=4)


@pytest.mark.parametrize("cipher", Cipher)
@given(plains=st.lists(st.integers(0, 70_000).map(lambda size: b"7" * size), max_size=3), sizes=CUTS)
def test_what_one_end_seals_the_other_opens(cipher: Cipher, plains: list[bytes], sizes: list[int]) -> None:
    client, server = pair(cipher)
    for one, other in ((client, server), (server, client)):
        for plain in plains:
            assert open_all(other, cut(seal(one, plain), sizes)) == plain
    assert not client.is_closed


def test_a_batch_is_as_large_as_the_buffer() -> None:
    client, server = pair()
    plain = memoryview(bytearray(1 << 20))
    assert client.seal(plain) == 32 * RECORD_BYTES
    assert 0 < OUTPUT_BYTES - len(client.unsent) <= 64
    assert client.seal(plain) == 0, "what is unsent goes first"
    assert len(open_all(server, [take(client)])) == 32 * RECORD_BYTES


def test_a_socket_that_takes_little_gets_it_all_in_order() -> None:
    client, server = pair()
    plain, sent = bytes(range(256)) * 500, []
    view = memoryview(plain)
    while view:
        view = view[client.seal(view) :]
        while len(client.unsent):
            sent.append(take(client, 30_001))
            client.blocked()
    assert open_all(server, sent) == plain


def test_nothing_to_say_is_nothing_to_send() -> None:
    client, _ = pair()
    assert not client.has_control
    assert client.seal(memoryview(b"")) == 0
    assert len(client.unsent) == 0


# ---- KeyUpdate ---------------------------------------------------------------------------------------------------


def test_a_request_is_answered_before_the_next_payload() -> None:
    client, _ = pair()
    peer, reading = Twin(CIPHER, secret_of(CIPHER, seed=100)), Twin(CIPHER, SECRET)
    for _ in range(3):  # one answer for all of them
        client.received(memoryview(peer.seal(key_update(requested=True), 22)))
        client.open_into(memoryview(bytearray(20_000)))
        peer.update()
    assert client.has_control
    assert reading.open(seal(client, b"payload")) == [(22, key_update(requested=False)), (23, b"payload")]
    assert not client.has_control


def test_an_answer_can_go_without_payload() -> None:
    client, server = pair()
    server._control.ask_for_key_update()
    open_all(client, [seal(server)])
    open_all(server, [seal(client)])
    assert server._opener.key_updates == client._opener.key_updates == 1
    assert open_all(server, [seal(client, b"new keys")]) == b"new keys"
    assert open_all(client, [seal(server, b"both ways")]) == b"both ways"


def test_both_ends_change_their_keys_before_they_are_worn(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sealer_module, opener_module):
        monkeypatch.setattr(module, "RECORDS_PER_KEY", 5)
    client, server = pair()
    for n in range(100):
        assert open_all(server, [seal(client, b"%d" % n)]) == b"%d" % n
    assert server._opener.key_updates == 19


def test_a_worn_key_of_the_peer_is_asked_for_even_by_who_only_listens() -> None:
    client = RecordChannel(TrafficKey(CIPHER, SECRET), TrafficKey(CIPHER, SECRET, RECORDS_PER_KEY), is_server=False)
    open_all(client, [Twin(CIPHER, SECRET, RECORDS_PER_KEY).seal(b"x")])
    assert Twin(CIPHER, SECRET).open(seal(client)) == [(22, key_update(requested=True))]
    assert not client.has_control


# ---- ends --------------------------------------------------------------------------------------------------------


def test_close_notify_is_the_last_word() -> None:
    client, server = pair()
    last = seal(client, b"last")
    client.close()
    goodbye = seal(client)
    assert len(goodbye) == 24
    client.close()
    assert not client.has_control
    assert client.seal(memoryview(b"too late")) == len("too late")
    assert len(client.unsent) == 0
    assert open_all(server, [last, goodbye]) == b"last"
    assert server.is_closed
    assert client._writing.secret == bytes(32)


def test_one_direction_may_end_before_the_other() -> None:
    client, server = pair()
    client.close()
    open_all(server, [seal(client)])
    assert server.is_closed
    assert open_all(client, [seal(server, b"still here")]) == b"still here"


def test_a_pending_answer_goes_out_before_the_end() -> None:
    client, _ = pair()
    client._control.key_update()
    client.close()
    assert [kind for kind, _ in Twin(CIPHER, SECRET).open(seal(client))] == [22, 21]


def test_who_breaks_tls_is_told_and_nothing_else_is_said() -> None:
    client, server = pair()
    damaged = bytearray(seal(client, b"payload"))
    damaged[-1] ^= 1
    with pytest.raises(RecordError) as caught:
        open_all(server, [bytes(damaged)])
    assert caught.value.alert is Alert.BAD_RECORD_MAC
    server.close()
    with pytest.raises(AlertReceived) as heard:
        open_all(client, [seal(server, b"never sent")])
    assert heard.value.number == Alert.BAD_RECORD_MAC
    client.close()
    assert not client.has_control
    assert seal(client, b"to whom?") == b""


def test_a_socket_that_is_gone_leaves_no_key() -> None:
    client, _ = pair()
    client.seal(memoryview(b"never sent"))
    client.forget()
    assert client._writing.secret == client._reading.secret == bytes(32)
    assert len(client.unsent) == 0
    client.close()
    assert not client.has_control


# ---- another process ---------------------------------------------------------------------------------------------


def move(channel: RecordChannel) -> RecordChannel:
    """By a socket to another process."""
    return RecordChannel.resume(msgspec.msgpack.decode(msgspec.msgpack.encode(channel.surrender()), type=State))


@pytest.mark.parametrize("cipher", Cipher)
@given(sizes=CUTS, at=st.integers(0, 60_000), sent=st.integers(0, 60_000))
def test_a_connection_goes_on_in_another_process_wherever_it_was(
    cipher: Cipher, sizes: list[int], at: int, sent: int
) -> None:
    client, server = pair(cipher)
    first, second = b"1" * 20_000, b"2" * 30_000
    client.seal(memoryview(first))
    stream = take(client, sent)
    client = move(client)
    stream += take(client) + seal(client, second)
    got = open_all(server, cut(stream[:at], sizes))
    server = move(server)
    got += open_all(server, cut(stream[at:], sizes))
    assert got == first + second
    assert open_all(client, [seal(server, b"answer")]) == b"answer"


def test_whole_records_that_were_not_opened_go_along() -> None:
    client, server = pair()
    server.received(memoryview(seal(client, b"a" * 16_384) + seal(client, b"b" * 100)))
    buffer = memoryview(bytearray(16_401))
    assert server.open_into(buffer) == 16_384
    server = move(server)
    assert server.has_more
    assert server.open_into(buffer) == 100


def test_what_was_due_is_due_there() -> None:
    client, server = pair()
    server._control.ask_for_key_update()
    open_all(client, [seal(server)])
    client._opener.has_asked = True
    client = move(client)
    assert client.has_control
    assert client._opener.has_asked
    client.close()
    client = move(client)
    open_all(server, [seal(client)])
    assert server._opener.key_updates == 1
    assert server.is_closed
    assert move(server).is_closed


def test_half_a_message_goes_along() -> None:
    client, _ = pair()
    peer = Twin(CIPHER, secret_of(CIPHER, seed=100))
    ticket = b"\4\0\0\x14" + bytes(20)
    open_all(client, [peer.seal(ticket[:10], 22)])
    client = move(client)
    open_all(client, [peer.seal(ticket[10:], 22)])
    assert client._opener.tickets == 1


def test_so_does_the_peers_account() -> None:
    client, _ = pair()
    peer = Twin(CIPHER, secret_of(CIPHER, seed=100))
    open_all(client, [peer.seal(b"") for _ in range(40)])
    client = move(client)
    with pytest.raises(RecordError, match="too many"):
        open_all(client, [peer.seal(b"") for _ in range(25)])


def test_who_surrendered_can_neither_seal_nor_open() -> None:
    """Two that go on with one key would use a nonce twice."""
    client, server = pair()
    state = server.surrender()
    assert server.seal(memoryview(b"x")) == 1
    assert len(server.unsent) == 0
    server.received(memoryview(seal(client, b"x")))
    with pytest.raises(KeyWasWiped):
        server.open_into(memoryview(bytearray(20_000)))
    assert state.is_shut is False


def test_one_that_was_shut_stays_shut() -> None:
    client, _ = pair()
    client.close()
    seal(client)
    client = move(client)
    assert seal(client, b"x") == b""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 1),
        ("is_in_kernel", True),
        ("cipher", "TLS_CHACHA20_POLY1305_SHA256"),
        ("cipher", "TLS_AES_256_GCM_SHA384"),
    ],
)
def test_a_state_that_is_not_understood_is_refused(field: str, value: object) -> None:
    client, _ = pair()
    state = msgspec.structs.replace(client.surrender(), **{field: value})
    with pytest.raises(ValueError, match=r"version|secret"):
        RecordChannel.resume(state)


def test_sealed_by_the_channel_opened_by_the_twin() -> None:
    client, _ = pair()
    assert application_data(Twin(CIPHER, SECRET).open(seal(client, b"z" * 100_000))) == b"z" * 100_000
