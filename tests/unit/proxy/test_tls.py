# SPDX-License-Identifier: Apache-2.0
"""Two ends joined in memory, and what each refuses."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.errors import PeerError
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.proxy.tls import (
    Channel,
    Handshake,
    OpensslChannel,
    TlsError,
    explain,
    make_context,
    read_identity,
    require_identity,
    require_not_revoked,
    require_trust_domain,
)
from nodeagent.tls.certificate_name import name_of
from nodeagent.tls.channel import RecordChannel

CLIENT, SERVER = Identity("cluster.local", "a", "client"), Identity("cluster.local", "a", "server")
Issue = Callable[..., tuple[str, str]]


class End:
    """One end without a socket: what it would send is taken from it."""

    def __init__(self, context: ssl.SSLContext, pipe: SecretsPipe | None = None, *, is_server: bool) -> None:
        self.handshake = Handshake(context, is_server=is_server, pipe=pipe)
        self.channel: Channel | None = None

    @property
    def established(self) -> Channel:
        assert self.channel is not None
        return self.channel

    def step(self, ciphertext: bytes = b"") -> None:
        if self.channel is not None:
            self.channel.received(memoryview(ciphertext))
            return
        if ciphertext:
            self.handshake.received(memoryview(ciphertext))
        self.channel = self.handshake.shake_hands()

    def take(self, plain: bytes = b"") -> bytes:
        """All that goes to the socket, with this plaintext in it."""
        sending, left, taken = self.channel or self.handshake, memoryview(plain), b""
        while sending.unsent or left or sending.has_control:
            if not sending.unsent:
                left = left[sending.seal(left) :]
            taken += bytes(sending.unsent)
            sending.sent(len(sending.unsent))
        return taken

    def open(self) -> bytes:
        """Everything that was received."""
        buffer, opened = memoryview(bytearray(65536)), b""
        while True:
            size = self.established.open_into(buffer)
            opened += bytes(buffer[:size])
            if not self.established.has_more:
                return opened


class Pair:
    def __init__(
        self, client: tuple[str, str], server: tuple[str, str], pipes: tuple[SecretsPipe | None, ...] = (None, None)
    ) -> None:
        self.client = End(make_context(*client, is_server=False), pipes[0], is_server=False)
        self.server = End(make_context(*server, is_server=True), pipes[1], is_server=True)

    def shake_hands(self) -> None:
        self.client.step()
        for _ in range(4):
            for one, other in ((self.client, self.server), (self.server, self.client)):
                ciphertext = one.take()
                if ciphertext:
                    other.step(ciphertext)


@pytest.fixture
def issue(authority: Callable[[], Issue]) -> Issue:
    return authority()


@pytest.fixture
def pipe() -> Iterator[SecretsPipe]:
    made = SecretsPipe()
    yield made
    made.close()


OURS, OPENSSLS = RecordChannel, OpensslChannel
RECORDS = [
    pytest.param((client, server), id=f"client's {client.__name__}, server's {server.__name__}")
    for client in (OURS, OPENSSLS)
    for server in (OURS, OPENSSLS)
]


@pytest.fixture(params=RECORDS)
def pair(request: pytest.FixtureRequest, issue: Issue, pipe: SecretsPipe) -> Pair:
    made = Pair(issue(str(CLIENT)), issue(str(SERVER)), tuple(pipe if kind is OURS else None for kind in request.param))
    made.shake_hands()
    assert (type(made.client.channel), type(made.server.channel)) == request.param
    return made


def test_both_ends_know_each_other(pair: Pair) -> None:
    assert pair.client.handshake.peer_identity() == SERVER
    assert pair.server.handshake.peer_identity() == CLIENT


def test_the_server_sends_no_session_tickets(pair: Pair) -> None:
    """They would cost a third of the handshake, and nothing may be sent before the owner says so."""
    assert pair.server.take() == b""


@pytest.mark.parametrize("size", [1, 16384, 16385, 300_000])
def test_what_is_sealed_is_opened(pair: Pair, size: int) -> None:
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    for sender, receiver in ((pair.client, pair.server), (pair.server, pair.client)):
        receiver.step(sender.take(payload))
        assert receiver.open() == payload
        assert not receiver.established.has_more


def test_a_record_that_is_cut_is_opened_when_it_is_whole(pair: Pair) -> None:
    *first, last = pair.server.take(b"hello")
    for byte in first:
        pair.client.step(bytes([byte]))
        assert pair.client.open() == b""
    pair.client.step(bytes([last]))
    assert pair.client.open() == b"hello"


def test_close_is_heard(pair: Pair) -> None:
    ciphertext = pair.client.take(b"last")
    pair.client.established.close()
    pair.server.step(ciphertext + pair.client.take())
    assert pair.server.open() == b"last"
    assert pair.server.open() == b""
    assert pair.server.established.is_closed


def test_a_forged_record_is_an_error(pair: Pair) -> None:
    ciphertext = bytearray(pair.client.take(b"hello"))
    ciphertext[-1] ^= 1
    pair.server.step(bytes(ciphertext))
    with pytest.raises(PeerError, match="TLS") as caught:
        pair.server.open()
    assert caught.value.reason is Reason.TLS_FAILED
    pair.client.step(pair.server.take())
    with pytest.raises(PeerError, match="bad record mac"):
        pair.client.open()


def test_what_openssl_has_queued_goes_before_what_is_sealed(issue: Issue, pipe: SecretsPipe) -> None:
    """A client is done before its last flight is sent, and may have more to say at once."""
    pair = Pair(issue(str(CLIENT)), issue(str(SERVER)), (pipe, pipe))
    pair.client.step()
    pair.server.step(pair.client.take())
    pair.client.step(pair.server.take())
    pair.server.step(pair.client.take(b"hello"))
    assert pair.server.open() == b"hello"


def test_records_without_secrets_stay_with_openssl_and_it_is_said(
    issue: Issue, pipe: SecretsPipe, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "_path", "/nowhere/secrets")
    pair = Pair(issue(str(CLIENT)), issue(str(SERVER)), (pipe, None))
    pair.shake_hands()
    assert isinstance(pair.client.channel, OpensslChannel)
    assert "stay with OpenSSL" in caplog.text
    pair.server.step(pair.client.take(b"hello"))
    assert pair.server.open() == b"hello"


def test_a_server_of_another_authority_even_of_the_same_name(authority: Callable[[], Issue]) -> None:
    ours, theirs = authority(), authority()
    pair = Pair(ours(str(CLIENT)), theirs(str(SERVER)))
    with pytest.raises(TlsError) as caught:
        pair.shake_hands()
    assert caught.value.reason is Reason.TLS_UNKNOWN_CA


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_client_of_another_authority(authority: Callable[[], Issue], pipe: SecretsPipe, *, is_ours: bool) -> None:
    """In TLS 1.3 it learns that only when it is done with its own handshake."""
    ours, theirs = authority(), authority()
    _, roots = ours()
    pair = Pair((theirs(str(CLIENT))[0], roots), ours(str(SERVER)), (pipe if is_ours else None, None))
    with pytest.raises(TlsError) as caught:
        pair.shake_hands()
    assert caught.value.reason is Reason.TLS_UNKNOWN_CA
    pair.client.step(pair.server.take())
    with pytest.raises(PeerError, match="does not know our CA"):
        pair.client.open()


def test_tls_1_2_and_other_protocols_are_refused(issue: Issue) -> None:
    chain, roots = issue(str(CLIENT))
    old = make_context(chain, roots, is_server=False)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    without_h2 = make_context(chain, roots, is_server=False)
    without_h2.set_alpn_protocols(["http/1.1"])
    for context, said in ((old, "unsupported protocol"), (without_h2, "h2")):
        pair = Pair((chain, roots), issue(str(SERVER)))
        pair.client = End(context, is_server=False)
        with pytest.raises(TlsError, match=said):
            pair.shake_hands()


@given(st.binary(min_size=2, max_size=40).filter(lambda first: not first.startswith(b"\x16\x03")), st.integers(1, 2))
def test_what_does_not_begin_like_tls_is_told_apart(first: bytes, cut: int) -> None:
    handshake = Handshake(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), is_server=True)
    with pytest.raises(TlsError) as caught:  # noqa: PT012 - either part may be the one
        handshake.received(memoryview(first[:cut]))
        handshake.received(memoryview(first[cut:]))
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


def test_the_chain_of_the_peer_has_names_for_lists_of_revoked_ones(issue: Issue) -> None:
    """The leaf's and its issuer's, which may be revoked as well."""
    client, server = issue(str(CLIENT)), issue(str(SERVER))
    pair = Pair(client, server)
    pair.shake_hands()
    for end, (chain, roots) in ((pair.client, server), (pair.server, client)):
        leaf, root = (x509.load_pem_x509_certificate(Path(path).read_bytes()) for path in (chain, roots))
        names = end.handshake.peer_certificates()
        assert names == tuple(name_of(one.public_bytes(Encoding.DER)) for one in (leaf, root))
        require_not_revoked(names, frozenset())
        require_not_revoked(names, frozenset({b"x" * 32}))
        for revoked in names:
            with pytest.raises(TlsError, match="revoked") as refused:
                require_not_revoked(names, frozenset({revoked}))
            assert refused.value.reason is Reason.CERTIFICATE_REVOKED


def test_an_alias_of_the_trust_domain_is_as_good() -> None:
    old, stranger = (msgspec.structs.replace(SERVER, trust_domain=domain) for domain in ("old", "other"))
    aliases = frozenset({"cluster.local", "old"})
    require_identity(old, frozenset({SERVER}), aliases)
    require_identity(SERVER, frozenset({old}), aliases)
    require_trust_domain(old, SERVER, aliases)
    for found, expected in ((stranger, SERVER), (SERVER, stranger), (old, CLIENT)):
        with pytest.raises(TlsError):
            require_identity(found, frozenset({expected}), aliases)
    for found, own in ((stranger, SERVER), (SERVER, stranger)):
        with pytest.raises(TlsError):
            require_trust_domain(found, own, aliases)


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
