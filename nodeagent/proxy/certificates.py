# SPDX-License-Identifier: Apache-2.0
"""The node's certificates as TLS contexts: two per identity, made once, since making one costs a millisecond.

A context that is replaced lives on in the tunnels that were opened with it; rotation cuts nothing. What those tunnels
believed is told by `trust`, so that none takes new streams on the word of a CA that is trusted no more.
"""

import hashlib
import logging
import ssl
from collections.abc import Callable

from nodeagent.errors import PeerError
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy.lean import read_file
from nodeagent.proxy.messages import Certificate
from nodeagent.proxy.tls import make_context

log = logging.getLogger(__name__)


class CertificateMissing(PeerError):
    """None for this identity, or it has expired. Held briefly by callers that can: it may be on its way."""

    reason = Reason.CERTIFICATE_MISSING


class _Entry:
    __slots__ = ("client", "not_after", "serial", "server", "trust")

    def __init__(self, announced: Certificate, key_and_chain: str, roots: str) -> None:
        self.serial, self.not_after = announced.serial, announced.not_after
        self.trust = hashlib.sha256(read_file(roots)).digest()
        self.client = make_context(key_and_chain, roots, is_server=False)
        self.server = make_context(key_and_chain, roots, is_server=True)


class Certificates:
    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._entries: dict[Identity, _Entry] = {}
        self._wall_clock = wall_clock
        self.refused = 0

    @property
    def identities(self) -> tuple[Identity, ...]:
        return tuple(self._entries)

    def add(self, announced: Certificate, key_fd: int, roots_fd: int) -> None:
        """From two memfds, which stay open. One that cannot be loaded is refused and counted; the older one stays."""
        try:
            # /proc/self/fd opens the memfd anew, at its beginning; nothing of it ever has a name in a file system.
            self._entries[announced.identity] = _Entry(
                announced, f"/proc/self/fd/{key_fd}", f"/proc/self/fd/{roots_fd}"
            )
        except (ssl.SSLError, OSError) as error:
            self.refused += 1
            log.error("certificate %s of %s refused: %s", announced.serial, announced.identity, error)

    def forget(self, identity: Identity) -> None:
        self._entries.pop(identity, None)

    def trust(self, identity: Identity) -> bytes:
        """Stands for the roots that peers of this identity are judged by now; empty without a certificate."""
        entry = self._entries.get(identity)
        return entry.trust if entry is not None else b""

    def client_context(self, identity: Identity) -> ssl.SSLContext:
        """Raises CertificateMissing."""
        return self._valid(identity).client

    def server_context(self, identity: Identity) -> ssl.SSLContext:
        """Raises CertificateMissing."""
        return self._valid(identity).server

    def _valid(self, identity: Identity) -> _Entry:
        entry = self._entries.get(identity)
        if entry is None:
            raise CertificateMissing(f"no certificate for {identity}")
        if entry.not_after <= self._wall_clock():
            raise CertificateMissing(f"the certificate of {identity} has expired")
        return entry
