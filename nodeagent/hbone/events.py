# SPDX-License-Identifier: Apache-2.0
"""What one call of Connection.received() found, in the words of the relay."""

import msgspec

from nodeagent.hbone.frames import name_error

_NOTHING = memoryview(b"")


class Request(msgspec.Struct, frozen=True, gc=False):
    """A stream that the client opened. Not yet judged in any way but by the rules of HTTP/2."""

    stream_id: int
    authority: str
    """As sent: parse it with authority.py. Empty when `problem` says so."""
    problem: str = ""
    """Why this is no CONNECT that can be served; then the answer is 400. Empty when all is well."""
    forwarded: str = ""
    """Header of this name, see forwarded.py; "" when absent, likewise below."""
    baggage: str = ""
    traceparent: str = ""
    network: str = ""
    """`x-forwarded-network`."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """The server's answer to a stream that we opened; interim (1xx) answers are not shown."""

    stream_id: int
    status: int
    baggage: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    """All but the pseudo-header, names in lower case, in wire order."""


class GoAway(msgspec.Struct, frozen=True, gc=False):
    """The peer takes no new streams. Ours beyond `last_stream_id` stand in `resets` as REFUSED_STREAM: retry them."""

    last_stream_id: int
    code: int
    words: str = ""
    """Debug data, printable and cut to 256 characters."""

    def __str__(self) -> str:
        return f"GOAWAY {name_error(self.code)}" + (f": {self.words}" if self.words else "")


class Received:
    """Events of one batch. Within a stream they happened in the order of the fields, so walk the fields in order.

    A stream may stand in several fields: opened, fed, ended and reset within one batch. Every list may be empty.
    """

    __slots__ = ("data", "ended", "goaway", "opened", "pongs", "refused", "resets", "responded", "unread", "writable")

    def __init__(self) -> None:
        self.opened: list[Request] = []
        """Server: answer each with `respond` or `reset`."""
        self.responded: list[Response] = []
        """Client: answers to `open`."""
        self.data: dict[int, list[memoryview]] = {}
        """Payload by stream, in order: slices of the batch itself, so use or copy them before its buffer is reused."""
        self.ended: list[int] = []
        """Streams whose peer will send nothing more (END_STREAM), after the payload above."""
        self.resets: list[tuple[int, int]] = []
        """Streams that are gone, with the HTTP/2 error code: reset by the peer, by GOAWAY, or by us because the peer
        broke a rule on this stream alone. Nothing more may be sent on them; calls that name them do nothing."""
        self.writable: list[int] = []
        """Streams for which `room` was 0 and that may send again."""
        self.refused: int = 0
        """Server: streams answered with REFUSED_STREAM because max_streams were open (Reason.H2_TOO_MANY_STREAMS)."""
        self.goaway: GoAway | None = None
        self.pongs: list[bytes] = []
        """Opaque bytes of our PINGs that came back."""
        self.unread: memoryview = _NOTHING
        """The end of the batch, for the next call: what came before it was all the work that was wanted."""
