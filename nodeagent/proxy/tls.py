# SPDX-License-Identifier: Apache-2.0
"""Mutual TLS 1.3 as HBONE wants it, behind one small interface: ciphertext in, plaintext out, and back.

Rules: TLS 1.3 only, ALPN h2, no SNI, no session tickets, both certificates verified against the roots of
the mesh. Each has exactly one URI name, and that is a SPIFFE identity; other names are not looked at. What the identity
must be is the caller's to check, with `require_identity` and `require_trust_domain`. Knows no socket.
"""

import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any, cast

from nodeagent.errors import PeerError
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason

RECORD_BYTES = 16384
"""Plaintext of one TLS record at most (RFC 8446 §5.1)."""

_HANDSHAKE_RECORD = b"\x16\x03"
"""How every TLS connection begins, whatever its version: content type 22, legacy version 3.x."""


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


class SecureChannel:
    """One end of a TLS connection.

    Feed `received` with what the socket gave, then call `shake_hands` until it is done, then `open_into` until it gives
    0. After each step, and after each `seal`, send what `take` gives.
    """

    def __init__(self, context: ssl.SSLContext, *, is_server: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._first: bytes | None = b""
        self.is_established = False
        self.is_closed = False
        """The peer said close_notify: it sends nothing more."""
        # Bound once: one lookup less per record.
        self._read = cast("Callable[[int, memoryview], int]", self._tls.read)
        self.seal, self.take = self._tls.write, self._outgoing.read

    def received(self, ciphertext: memoryview) -> None:
        """Raises TlsError(TLS_NOT_TLS) as soon as the first two bytes cannot begin a handshake."""
        if self._first is not None:
            self._first += bytes(ciphertext[:2])
            if not _HANDSHAKE_RECORD.startswith(self._first[:2]):
                raise TlsError("the first bytes are not TLS", reason=Reason.TLS_NOT_TLS)
            if len(self._first) >= len(_HANDSHAKE_RECORD):
                self._first = None
        self._incoming.write(ciphertext)

    def shake_hands(self) -> bool:
        """One step. True when it is done; raises TlsError when it never will be, with an alert to `take`."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise explain(error) from error
        if self._tls.selected_alpn_protocol() != "h2":
            raise TlsError("the peer does not speak h2 (ALPN)")
        self.is_established = True
        return True

    def peer_identity(self) -> Identity:
        """Who the verified certificate of the peer says it is. Raises TlsError."""
        return read_identity(self._tls.getpeercert() or {})

    def open_into(self, buffer: memoryview) -> int:
        """Plaintext of as many records as are complete and fit, into `buffer`, which has room for at least one.

        0 when more ciphertext is needed, or when none comes any more.
        """
        size, room = 0, len(buffer) - RECORD_BYTES
        read, incoming = self._read, self._incoming
        try:
            while size <= room and incoming.pending:
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

    @property
    def has_more(self) -> bool:
        """Ciphertext is left that `open_into` had no room for."""
        return self._incoming.pending > 0 and not self.is_closed

    def close(self) -> None:
        """Queues close_notify."""
        with contextlib.suppress(ssl.SSLError):  # it would wait for the peer's, which we do not
            self._tls.unwrap()


def require_identity(found: Identity, expected: frozenset[Identity]) -> None:
    if found not in expected:
        wanted = " or ".join(sorted(map(str, expected)))
        raise TlsError(f"the server is {found}, expected {wanted}", reason=Reason.TLS_WRONG_IDENTITY)


def require_trust_domain(found: Identity, own: Identity) -> None:
    if found.trust_domain != own.trust_domain:
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
