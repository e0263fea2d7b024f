# SPDX-License-Identifier: Apache-2.0
"""Mutual TLS 1.3 as HBONE wants it: the handshake, and the channel that it ends in.

Rules: TLS 1.3 only, ALPN h2, no SNI, no session tickets, both certificates verified against the roots of
the mesh. Each has exactly one URI name, and that is a SPIFFE identity; other names are not looked at. What the identity
must be is the caller's to check, with `require_identity` and `require_trust_domain`. Knows no socket.

OpenSSL shakes hands. Behind that the records are our own (nodeagent/tls): twice as fast in bulk, and a connection that
can be given to another process. They stay with OpenSSL where ours are none: another suite, or no secrets to be had.
"""

import contextlib
import logging
import ssl
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any, Protocol, cast

from nodeagent.errors import PeerError
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.tls.certificate_name import name_of
from nodeagent.tls.keylog import TrafficSecrets
from nodeagent.tls.opener import MOST_RECORDS
from nodeagent.tls.take_over import take_over

log = logging.getLogger(__name__)

RECORD_BYTES = 16384
"""Plaintext of one TLS record at most (RFC 8446 §5.1)."""

_HANDSHAKE_RECORD = b"\x16\x03"
"""How every TLS connection begins, whatever its version: content type 22, legacy version 3.x."""
_NOTHING = memoryview(b"")
_DER = 2
"""Of OpenSSL's two encodings, as the ssl module numbers them."""


class TlsError(PeerError):
    reason = Reason.TLS_FAILED


def make_context(key_and_chain: str, roots: str, *, is_server: bool) -> ssl.SSLContext:
    """From two PEM files; /proc/self/fd/N of a memfd will do. Raises ssl.SSLError or OSError for unusable ones."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # workloads have identities, not host names
    context.verify_mode = ssl.CERT_REQUIRED
    # The CA's roots may be intermediates of a larger PKI: they are the trust anchors all the same, as for ztunnel.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    if is_server:
        context.num_tickets = 0  # resumption would skip the proof of the current certificate; and 30 % of the CPU
    context.load_cert_chain(key_and_chain)
    context.load_verify_locations(roots)
    return context


class Sending(Protocol):
    """RecordChannel (nodeagent/tls/channel.py) says what each is, and in which order they are called."""

    @property
    def unsent(self) -> memoryview: ...
    @property
    def has_control(self) -> bool: ...
    def seal(self, plain: memoryview) -> int: ...
    def sent(self, size: int) -> None: ...
    def blocked(self) -> None: ...
    def close(self) -> None: ...
    def forget(self) -> None: ...


class Channel(Sending, Protocol):
    """One end of an established connection."""

    @property
    def received(self) -> Callable[[memoryview], None]: ...
    @property
    def open_into(self) -> Callable[[memoryview], int]: ...
    @property
    def keep(self) -> Callable[[], None]: ...
    @property
    def has_more(self) -> bool: ...
    @property
    def is_closed(self) -> bool: ...


class _Openssl:
    """An SSLObject between two buffers: what handshake and channel have in common."""

    def __init__(self, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._tls, self._incoming, self._outgoing = tls, incoming, outgoing
        self.unsent = _NOTHING
        """What the socket takes next."""

    @property
    def has_control(self) -> bool:
        """There is something to send without any plaintext."""
        return self._outgoing.pending > 0

    def sent(self, size: int) -> None:
        self.unsent = self.unsent[size:]

    def blocked(self) -> None:
        """The socket takes no more for now: what is unsent is nobody else's, and may wait."""

    def forget(self) -> None:
        self.unsent = _NOTHING


class Handshake(_Openssl):
    """Of one end.

    Feed `received` with what the socket gave and call `shake_hands`, until that gives the channel. After each step,
    while `has_control`, `seal` nothing, and send what is `unsent`; what is left at the end goes on in the channel.
    """

    def __init__(self, context: ssl.SSLContext, *, is_server: bool, pipe: SecretsPipe | None = None) -> None:
        """`pipe`: None leaves the records to OpenSSL."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        super().__init__(context.wrap_bio(incoming, outgoing, server_side=is_server), incoming, outgoing)
        self._context, self._is_server, self._pipe = context, is_server, pipe
        self._secrets = TrafficSecrets()
        self._first: bytes | None = b""

    def received(self, ciphertext: memoryview) -> None:
        """Raises TlsError(TLS_NOT_TLS) as soon as the first two bytes cannot begin a handshake."""
        if self._first is not None:
            self._first += bytes(ciphertext[:2])
            if not _HANDSHAKE_RECORD.startswith(self._first[:2]):
                raise TlsError("the first bytes are not TLS", reason=Reason.TLS_NOT_TLS)
            if len(self._first) >= len(_HANDSHAKE_RECORD):
                self._first = None
        if self._is_server:
            self._secrets.hello.received(ciphertext)
        self._incoming.write(ciphertext)

    def shake_hands(self) -> Channel | None:
        """One step. None: more is needed; raises TlsError when it never will be done, with an alert to send."""
        pipe = self._pipe if self._incoming.pending else None  # a client's first step has no secrets
        try:
            with pipe.listening(self._context, self._secrets) if pipe is not None else contextlib.nullcontext():
                self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLError as error:
            raise explain(error) from error
        if self._tls.selected_alpn_protocol() != "h2":
            raise TlsError("the peer does not speak h2 (ALPN)")
        return self._channel()

    def seal(self, plain: memoryview) -> int:
        """Nothing can be sealed yet; what the handshake has to say becomes `unsent`."""
        assert not plain
        if not self.unsent:
            said = self._outgoing.read()
            if not self._is_server:
                self._secrets.hello.received(said)
            self.unsent = memoryview(said)
        return 0

    def peer_identity(self) -> Identity:
        """Who the verified certificate of the peer says it is. Raises TlsError."""
        return read_identity(self._tls.getpeercert() or {})

    def peer_certificates(self) -> tuple[bytes, ...]:
        """Names of the verified chain's certificates, by which lists of revoked ones are compared."""
        # SSLObject has a method for it since Python 3.13, which asks the same of the same object.
        chain = self._tls._sslobj.get_verified_chain() or ()  # type: ignore[attr-defined]  # noqa: SLF001
        return tuple(name_of(certificate.public_bytes(_DER)) for certificate in chain)

    def close(self) -> None:
        """Before it is established there is nothing to be said but an alert, which OpenSSL has queued."""

    def _channel(self) -> Channel:
        unread, unsent = self._incoming.read(), bytes(self.unsent) + self._outgoing.read()
        suite = (self._tls.cipher() or ("none",))[0]
        channel = take_over(self._secrets, suite, unread, unsent, is_server=self._is_server)
        if channel is not None:
            return channel
        if self._pipe is not None:
            log.warning("the records of a tunnel stay with OpenSSL: %s, or its secrets were not to be had", suite)
        self._incoming.write(unread)
        return OpensslChannel(self._tls, self._incoming, self._outgoing, unsent)


class OpensslChannel(_Openssl):
    """Records by OpenSSL, for what nodeagent/tls does not speak; also its slow twin in tests."""

    def __init__(
        self, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, unsent: bytes = b""
    ) -> None:
        super().__init__(tls, incoming, outgoing)
        self.unsent = memoryview(unsent)
        self.is_closed = False
        """The peer said close_notify: it sends nothing more."""
        # Bound once: one lookup less per record.
        self._read = cast("Callable[[int, memoryview], int]", tls.read)
        self.received = cast("Callable[[memoryview], None]", incoming.write)

    def open_into(self, buffer: memoryview) -> int:
        """Plaintext of as many records as are complete and fit, into `buffer`, which has room for at least one.

        0 when more ciphertext is needed, or when none comes any more.
        """
        size, room = 0, len(buffer) - RECORD_BYTES
        read, incoming = self._read, self._incoming
        try:
            for _ in repeat(None, MOST_RECORDS):
                if size > room or not incoming.pending:
                    break
                length = read(RECORD_BYTES, buffer[size:])
                if not length:  # not an exception at a clean close, as the documentation would have it
                    self.is_closed = True
                    break
                size += length
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_closed = True
        except ssl.SSLError as error:
            raise explain(error) from error
        return size

    def keep(self) -> None:
        """OpenSSL has copied it."""

    @property
    def has_more(self) -> bool:
        """Ciphertext is left that `open_into` had no room for."""
        return self._incoming.pending > 0 and not self.is_closed

    def seal(self, plain: memoryview) -> int:
        if self.unsent:
            return 0
        if plain:
            self._tls.write(plain)
        self.unsent = memoryview(self._outgoing.read())
        return len(plain)

    def close(self) -> None:
        """Queues close_notify."""
        with contextlib.suppress(ssl.SSLError):  # it would wait for the peer's, which we do not
            self._tls.unwrap()


_NO_ALIASES = frozenset[str]()


def require_identity(found: Identity, expected: frozenset[Identity], aliases: frozenset[str] = _NO_ALIASES) -> None:
    if not is_expected(found, expected, aliases):
        wanted = " or ".join(sorted(map(str, expected)))
        raise TlsError(f"the server is {found}, expected {wanted}", reason=Reason.TLS_WRONG_IDENTITY)


def require_not_revoked(names: tuple[bytes, ...], revoked: frozenset[bytes]) -> None:
    """`names` as of `peer_certificates`."""
    if is_revoked(names, revoked):
        raise TlsError("the peer's certificate is revoked", reason=Reason.CERTIFICATE_REVOKED)


def is_revoked(names: tuple[bytes, ...], revoked: frozenset[bytes]) -> bool:
    return bool(revoked) and not revoked.isdisjoint(names)


def is_expected(found: Identity, expected: frozenset[Identity], aliases: frozenset[str] = _NO_ALIASES) -> bool:
    """`aliases`: trust domains that stand for each other."""
    return found in expected or (
        found.trust_domain in aliases and any(one.trust_domain in aliases and _is_same(found, one) for one in expected)
    )


def _is_same(one: Identity, other: Identity) -> bool:
    """But for the trust domain."""
    return (one.namespace, one.service_account) == (other.namespace, other.service_account)


def is_of_domain(found: Identity, own: Identity, aliases: frozenset[str] = _NO_ALIASES) -> bool:
    return found.trust_domain == own.trust_domain or {found.trust_domain, own.trust_domain} <= aliases


def require_trust_domain(found: Identity, own: Identity, aliases: frozenset[str] = _NO_ALIASES) -> None:
    if not is_of_domain(found, own, aliases):
        raise TlsError(f"the client is {found}", reason=Reason.TLS_WRONG_TRUST_DOMAIN)


def read_identity(certificate: Mapping[str, Any]) -> Identity:
    """From what `getpeercert()` gives. Strict: one URI, and it is an identity. Raises TlsError."""
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        raise TlsError(f"the certificate has {len(uris)} URI names instead of one", reason=Reason.TLS_WRONG_IDENTITY)
    try:
        return Identity.parse(uris[0])
    except ValueError as error:
        raise TlsError(f"the certificate names no identity: {error}", reason=Reason.TLS_WRONG_IDENTITY) from error


_UNKNOWN_ISSUER = frozenset({2, 7, 18, 19, 20, 21})
"""X509_V_ERR_: issuer missing, signature wrong (two meshes whose roots have one name), self-signed leaf, self-signed
root, issuer missing here, leaf not verifiable."""
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG"})
_UNKNOWN_CA_ALERTS = frozenset({"TLSV1_ALERT_UNKNOWN_CA", "TLSV1_ALERT_DECRYPT_ERROR"})
"""The second is what OpenSSL answers to a wrong signature."""


def explain(error: ssl.SSLError) -> TlsError:
    """OpenSSL's words to one of our reasons."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = Reason.TLS_UNKNOWN_CA if error.verify_code in _UNKNOWN_ISSUER else Reason.TLS_FAILED
        return TlsError(f"certificate: {error.verify_message}", reason=reason)
    said = error.reason or str(error)
    words = said.lower().replace("_", " ")
    if said in _NOT_TLS:
        return TlsError(f"not TLS: {words}", reason=Reason.TLS_NOT_TLS)
    if said in _UNKNOWN_CA_ALERTS:
        return TlsError("the peer does not know our CA", reason=Reason.TLS_UNKNOWN_CA)
    return TlsError(f"TLS: {words}")
