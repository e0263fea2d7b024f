# SPDX-License-Identifier: Apache-2.0
"""The one exception of this room: the peer broke HTTP/2, and the whole connection ends by it.

What ends only a stream is an event (events.py), never an exception. A leaf of nodeagent.errors, here because its code
is HTTP/2's word.
"""

from nodeagent.errors import PeerError
from nodeagent.hbone.frames import ErrorCode
from nodeagent.model.reason import Reason


class H2Error(PeerError):
    """A connection error (RFC 9113 §5.4.1). GOAWAY with `code` is queued already: send what is pending, then close."""

    reason = Reason.H2_FAILED

    def __init__(self, code: ErrorCode, message: str, *, reason: Reason = Reason.H2_FAILED) -> None:
        super().__init__(f"{message} ({code.name})", reason=reason)
        self.code = code
