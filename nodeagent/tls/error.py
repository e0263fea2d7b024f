# SPDX-License-Identifier: Apache-2.0
"""The two ways in which a peer ends a connection other than by close_notify: it breaks TLS, or says that we did.

Leaves of nodeagent.errors, here because their codes are TLS's words.
"""

from nodeagent.errors import PeerError
from nodeagent.model.reason import Reason
from nodeagent.tls.alert import Alert, words_of

_UNKNOWN_CA = frozenset({Alert.UNKNOWN_CA, Alert.DECRYPT_ERROR})
"""The second is what OpenSSL answers to a signature that is wrong: two meshes whose roots have one name."""


class RecordError(PeerError):
    """The peer broke TLS. `alert` says so to it: RecordChannel has queued it; send what is pending, then close."""

    reason = Reason.TLS_FAILED

    def __init__(self, alert: Alert, message: str) -> None:
        super().__init__(f"TLS: {message} ({words_of(alert)})")
        self.alert = alert


class AlertReceived(PeerError):
    """The peer gave up. In TLS 1.3 a client learns only so, after its handshake, that its certificate is refused."""

    reason = Reason.TLS_FAILED

    def __init__(self, number: int) -> None:
        if number in _UNKNOWN_CA:
            super().__init__("the peer does not know our CA", reason=Reason.TLS_UNKNOWN_CA)
        else:
            super().__init__(f"TLS: the peer says {words_of(number)}")
        self.number = number


def alert_number(content: bytes) -> int:
    """Of an alert's record. Raises RecordError."""
    if len(content) != len(Alert.CLOSE_NOTIFY.content):
        raise RecordError(Alert.DECODE_ERROR, f"an alert of {len(content)} bytes")
    return content[1]  # the level says nothing (RFC 8446 §6)
