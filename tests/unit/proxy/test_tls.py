# SPDX-License-Identifier: Apache-2.0
"""Two channels joined in memory, and what each refuses."""

import ssl
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy.tls import (
    SecureChannel,
    TlsError,
    explain,
    make_context,
    read_identity,
    require_identity,
    require_trust_domain,
)

CLIENT, SERVER = Identity("cluster.local", "a", "client"), Identity("cluster.local", "a", "server")
Issue = Callable[..., tuple[str, str]]


class Pair:
    def __init__(self, client: tuple[str, str], server: tuple[str, str]) -> None:
        self.client = SecureChannel(make_context(*client, is_server=False), is_server=False)
        self.server = SecureChannel(make_context(*server, is_server=True), is_server=True)

    def shake_hands(self) -> None:
        self.client.shake_hands()
        for _ in range(4):
            for one, other in ((self.client, self.server), (self.server, self.client)):
                ciphertext = one.take()
                if ciphertext:
                    other.received(memoryview(ciphertext))
                    if not other.is_established:
                        other.shake_hands()


@pytest.fixture
def issue(authority: Callable[[], Issue]) -> Issue:
    return authority()


@pytest.fixture
def pair(issue: Issue) -> Pair:
    made = Pair(issue(str(CLIENT)), issue(str(SERVER)))
    made.shake_hands()
    return made


def test_both_ends_know_each_other(pair: Pair) -> None:
    assert pair.client.is_established
    assert pair.server.is_established
    assert pair.client.peer_identity() == SERVER
    assert pair.server.peer_identity() == CLIENT


def test_the_server_sends_no_session_tickets(pair: Pair) -> None:
    """They would cost a third of the handshake, and nothing may be sent before the owner says so."""
    assert pair.server.take() == b""


@pytest.mark.parametrize("size", [1, 16384, 16385, 300_000])
def test_what_is_sealed_is_opened(pair: Pair, size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    pair.client.seal(memoryview(payload[:size]))
    pair.server.received(memoryview(pair.client.take()))
    buffer, got = memoryview(bytearray(65536)), b""
    while opened := pair.server.open_into(buffer):
        got += bytes(buffer[:opened])
    assert got == payload[:size]
    assert not pair.server.has_more


def test_a_record_that_is_cut_is_opened_when_it_is_whole(pair: Pair) -> None:
    pair.server.seal(b"hello")
    ciphertext, buffer = pair.server.take(), memoryview(bytearray(65536))
    for byte in ciphertext[:-1]:
        pair.client.received(memoryview(bytes([byte])))
        assert pair.client.open_into(buffer) == 0
    pair.client.received(memoryview(ciphertext[-1:]))
    assert bytes(buffer[: pair.client.open_into(buffer)]) == b"hello"


def test_close_is_heard(pair: Pair) -> None:
    pair.client.seal(b"last")
    pair.client.close()
    pair.server.received(memoryview(pair.client.take()))
    buffer = memoryview(bytearray(65536))
    assert bytes(buffer[: pair.server.open_into(buffer)]) == b"last"
    pair.server.open_into(buffer)
    assert pair.server.is_closed


def test_a_forged_record_is_an_error(pair: Pair) -> None:
    pair.client.seal(b"hello")
    ciphertext = bytearray(pair.client.take())
    ciphertext[-1] ^= 1
    pair.server.received(memoryview(ciphertext))
    with pytest.raises(TlsError, match="TLS"):
        pair.server.open_into(memoryview(bytearray(65536)))


def test_a_server_of_another_authority_even_of_the_same_name(authority: Callable[[], Issue]) -> None:
    ours, theirs = authority(), authority()
    pair = Pair(ours(str(CLIENT)), theirs(str(SERVER)))
    with pytest.raises(TlsError) as caught:
        pair.shake_hands()
    assert caught.value.reason is Reason.TLS_UNKNOWN_CA


def test_a_client_of_another_authority(authority: Callable[[], Issue]) -> None:
    ours, theirs = authority(), authority()
    _, roots = ours()
    pair = Pair((theirs(str(CLIENT))[0], roots), ours(str(SERVER)))
    with pytest.raises(TlsError) as caught:
        pair.shake_hands()
    assert caught.value.reason is Reason.TLS_UNKNOWN_CA
    alert = pair.server.take()
    pair.client.received(memoryview(alert))
    with pytest.raises(TlsError, match="does not know our CA"):
        pair.client.open_into(memoryview(bytearray(65536)))


def test_tls_1_2_and_other_protocols_are_refused(issue: Issue) -> None:
    chain, roots = issue(str(CLIENT))
    old = make_context(chain, roots, is_server=False)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    without_h2 = make_context(chain, roots, is_server=False)
    without_h2.set_alpn_protocols(["http/1.1"])
    for context, said in ((old, "unsupported protocol"), (without_h2, "h2")):
        pair = Pair((chain, roots), issue(str(SERVER)))
        pair.client = SecureChannel(context, is_server=False)
        with pytest.raises(TlsError, match=said):
            pair.shake_hands()


@given(st.binary(min_size=2, max_size=40).filter(lambda first: not first.startswith(b"\x16\x03")), st.integers(1, 2))
def test_what_does_not_begin_like_tls_is_told_apart(first: bytes, cut: int) -> None:
    channel = SecureChannel(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), is_server=True)
    with pytest.raises(TlsError) as caught:  # noqa: PT012 - either part may be the one
        channel.received(memoryview(first[:cut]))
        channel.received(memoryview(first[cut:]))
    assert caught.value.reason is Reason.TLS_NOT_TLS


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param((), "0 URI", id="none"),
        pytest.param((("DNS", "server.a.svc"),), "0 URI", id="only a DNS name"),
        pytest.param((("URI", str(SERVER)), ("URI", str(CLIENT))), "2 URI", id="two"),
        pytest.param((("URI", str(SERVER)), ("URI", str(SERVER))), "2 URI", id="twice the same"),
        pytest.param((("URI", "spiffe://cluster.local/ns/a/sa/server\0.evil"),), "no identity", id="a zero byte"),
        pytest.param((("URI", "spiffe://cluster.local/ns/a/sa/"),), "no identity", id="no account"),
        pytest.param((("URI", "https://cluster.local/ns/a/sa/server"),), "no identity", id="another scheme"),
    ],
)
def test_a_certificate_with_other_names(names: tuple[tuple[str, str], ...], said: str) -> None:
    with pytest.raises(TlsError, match=said) as caught:
        read_identity({"subjectAltName": names})
    assert caught.value.reason is Reason.TLS_WRONG_IDENTITY


def test_dns_names_beside_the_identity_are_not_looked_at() -> None:
    assert read_identity({"subjectAltName": (("DNS", "x"), ("URI", str(SERVER)))}) == SERVER


def test_who_the_peer_must_be() -> None:
    require_identity(SERVER, frozenset({SERVER, CLIENT}))
    require_trust_domain(CLIENT, SERVER)
    with pytest.raises(TlsError, match="expected") as wrong_server:
        require_identity(CLIENT, frozenset({SERVER}))
    with pytest.raises(TlsError) as wrong_client:
        require_trust_domain(Identity("other", "a", "client"), SERVER)
    assert wrong_server.value.reason is Reason.TLS_WRONG_IDENTITY
    assert wrong_client.value.reason is Reason.TLS_WRONG_TRUST_DOMAIN


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"reason": "WRONG_VERSION_NUMBER"}, Reason.TLS_NOT_TLS),
        ({"reason": "TLSV1_ALERT_UNKNOWN_CA"}, Reason.TLS_UNKNOWN_CA),
        ({"reason": "TLSV13_ALERT_CERTIFICATE_REQUIRED"}, Reason.TLS_FAILED),
        ({"reason": None}, Reason.TLS_FAILED),
    ],
)
def test_openssls_words(attributes: dict[str, Any], reason: Reason) -> None:
    error = ssl.SSLError(1, "words")
    for name, value in attributes.items():
        setattr(error, name, value)
    assert explain(error).reason is reason


@pytest.mark.parametrize(("code", "reason"), [(19, Reason.TLS_UNKNOWN_CA), (10, Reason.TLS_FAILED)])
def test_an_expired_certificate_is_not_an_unknown_ca(code: int, reason: Reason) -> None:
    error = ssl.SSLCertVerificationError(1, "words")
    error.verify_code, error.verify_message = code, "certificate has expired"
    assert explain(error).reason is reason
