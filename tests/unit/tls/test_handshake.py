# SPDX-License-Identifier: Apache-2.0
"""Messages behind the handshake, in whatever pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.tls.alert import Alert
from nodeagent.tls.error import RecordError
from nodeagent.tls.handshake import LONGEST_MESSAGE, HandshakeMessages, Message, key_update
from tests.unit.tls.twin import cut


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


TICKET = message(4, b"t" * 200)


def client() -> HandshakeMessages:
    return HandshakeMessages(is_server=False)


@pytest.mark.parametrize(
    ("fragment", "messages"),
    [
        pytest.param(TICKET, [Message.TICKET], id="a ticket"),
        pytest.param(TICKET + TICKET, [Message.TICKET, Message.TICKET], id="two in one record"),
        pytest.param(key_update(requested=False), [Message.KEY_UPDATE], id="a KeyUpdate"),
        pytest.param(key_update(requested=True), [Message.KEY_UPDATE_REQUESTED], id="one that asks"),
        pytest.param(TICKET + key_update(requested=True), [Message.TICKET, Message.KEY_UPDATE_REQUESTED], id="both"),
        pytest.param(message(4, b""), [Message.TICKET], id="an empty ticket: nobody reads it"),
        pytest.param(message(4, bytes(LONGEST_MESSAGE)), [Message.TICKET], id="the longest"),
        pytest.param(TICKET[:-1], [], id="the beginning of one"),
    ],
)
def test_what_comes(fragment: bytes, messages: list[Message]) -> None:
    assert client().received(fragment) == messages


@given(st.lists(st.integers(1, 300), max_size=5))
def test_the_pieces_do_not_matter(sizes: list[int]) -> None:
    received, messages = client(), []
    for fragment in cut(TICKET * 3 + key_update(requested=False), sizes):
        messages += received.received(fragment)
    assert messages == [Message.TICKET] * 3 + [Message.KEY_UPDATE]
    assert received.partial == b""


@pytest.mark.parametrize(
    ("fragment", "alert"),
    [
        pytest.param(b"", Alert.UNEXPECTED_MESSAGE, id="an empty record"),
        pytest.param(message(13, b"x"), Alert.UNEXPECTED_MESSAGE, id="CertificateRequest"),
        pytest.param(message(1, b"x"), Alert.UNEXPECTED_MESSAGE, id="ClientHello: renegotiation is no more"),
        pytest.param(message(20, bytes(32)), Alert.UNEXPECTED_MESSAGE, id="Finished"),
        pytest.param(b"\x0d\0\0\1", Alert.UNEXPECTED_MESSAGE, id="only the head of one"),
        pytest.param(message(24, b"\2"), Alert.ILLEGAL_PARAMETER, id="a KeyUpdate that asks for 2"),
        pytest.param(message(24, b""), Alert.DECODE_ERROR, id="a KeyUpdate without a request"),
        pytest.param(message(24, b"\0\0"), Alert.DECODE_ERROR, id="a KeyUpdate with more"),
        pytest.param(message(24, b"\0") + TICKET, Alert.UNEXPECTED_MESSAGE, id="something behind a KeyUpdate"),
        pytest.param(message(24, b"\0") + b"\4", Alert.UNEXPECTED_MESSAGE, id="a beginning behind a KeyUpdate"),
        pytest.param(b"\4\0\x40\1", Alert.DECODE_ERROR, id="longer than anybody needs"),
    ],
)
def test_what_is_refused(fragment: bytes, alert: Alert) -> None:
    with pytest.raises(RecordError) as caught:
        client().received(fragment)
    assert caught.value.alert is alert


def test_a_client_sends_no_tickets() -> None:
    with pytest.raises(RecordError) as caught:
        HandshakeMessages(is_server=True).received(TICKET)
    assert caught.value.alert is Alert.UNEXPECTED_MESSAGE


def test_no_more_is_kept_than_one_message() -> None:
    received = client()
    received.received(message(4, bytes(LONGEST_MESSAGE))[:-1])
    assert len(received.partial) < LONGEST_MESSAGE + 4
