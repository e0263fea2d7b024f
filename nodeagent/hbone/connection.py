# SPDX-License-Identifier: Apache-2.0
"""One HTTP/2 connection that carries CONNECT streams (RFC 9113): bytes in, events and bytes out, no socket, no clock.

Signatures first; the body follows. Names: Role, Limits (limits.py), H2Error (error.py), ErrorCode (frames.py),
Request, Response, GoAway, Received (events.py), ConnectRequest (headers.py).
"""

from collections.abc import Iterable

from nodeagent.hbone.events import Received
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Limits, Role


class Connection:
    """Both roles. Every method but `received` is silent about streams that are gone: a reset may cross any call.

    The receiver's loop: `events = received(plain)`, then for each stream write the slices and call `delivered`.
    The sender's loop: `views = reserve(id, at_most)`, `recvmsg_into(views)`, `commit(id, n)`, or `end(id)` at end of
    file. Once a turn: `while pending(): write it; taken()`.
    """

    def __init__(self, role: Role, limits: Limits | None = None) -> None:
        """Queues preface, SETTINGS and WINDOW_UPDATE at once. `limits` defaults to `Limits.of(role)`."""

    # -- receiving

    def received(self, plain: memoryview) -> Received:
        """One batch of decrypted bytes, cut anywhere. Its slices stand in the answer, so `plain` must stay unchanged
        until they were used; the codec itself keeps none.

        Raises:
            H2Error: the peer broke HTTP/2 or a limit. GOAWAY is queued: send `pending` and close. Later calls return
                no events.
        """
        raise NotImplementedError

    def delivered(self, stream_id: int, n: int) -> None:
        """`n` bytes of the stream's payload reached the application: credit for its and the connection's window.

        WINDOW_UPDATE is queued at a quarter of either window. The connection's credit is given here, so what a worker
        holds for one tunnel never exceeds `connection_window`; it is given by the codec itself for padding, for
        late bytes of streams that are gone, and for what a stream had not delivered when it was reset.
        """

    # -- opening and answering

    @property
    def can_open(self) -> bool:
        """Client: `open` would succeed (no GOAWAY, below the peer's MAX_CONCURRENT_STREAMS, ids left)."""
        raise NotImplementedError

    def open(self, request: ConnectRequest) -> int | None:
        """Client: queues HEADERS and returns the stream's id; None when `can_open` is False."""
        raise NotImplementedError

    def respond(
        self, stream_id: int, status: int, headers: Iterable[tuple[str, str]] = (), *, end: bool = False
    ) -> None:
        """Server: the answer to a Request. With `end` the stream is over: END_STREAM, and RST_STREAM(NO_ERROR) if the
        client has not ended it yet (§8.1), so no further call for it is needed."""

    # -- sending

    def room(self, stream_id: int) -> int:
        """Bytes that this stream may send now: the lesser of its window and the connection's, 0 when it is gone.

        0 is remembered: the stream will stand in `Received.writable` when it may send again.
        """
        raise NotImplementedError

    def reserve(self, stream_id: int, at_most: int) -> list[memoryview]:
        """Views into the send buffer to receive payload into, one per frame, together at most `at_most` and `room`.

        Empty when `room` is 0 or when the buffer is full: then flush (`pending`, `taken`) and ask again. No other
        sending call between `reserve` and `commit`.
        """
        raise NotImplementedError

    def commit(self, stream_id: int, n: int) -> None:
        """`n` bytes landed in the views of the last `reserve`, filling them in order; 0 is allowed."""

    def send(self, stream_id: int, payload: memoryview) -> int:
        """Copies what fits (windows, buffer) and returns how much: for bytes that were read before the stream opened."""
        raise NotImplementedError

    def end(self, stream_id: int) -> None:
        """We send nothing more on this stream (END_STREAM). It lives on until the peer ends and all is delivered."""

    def reset(self, stream_id: int, code: int) -> None:
        """RST_STREAM; forgets the stream and credits what it had not delivered. A stream that both ends have ended
        is only forgotten."""

    # -- the connection

    def ping(self, opaque: bytes) -> None:
        """Queues PING with 8 bytes that come back in `Received.pongs`.

        Call it on a timer (every 10 s): it is this class's only clock, and refills what a peer may waste.
        """

    def goaway(self, code: int = 0) -> None:
        """No new streams from the peer. A server's first call with NO_ERROR is the graceful one (§6.8): it says
        2**31-1 and sends a PING, and when that comes back the codec says the last id it accepted, by itself. A second
        call, an error code, or a client says the last id at once. Open streams go on."""

    def pending(self) -> memoryview:
        """Bytes to encrypt and send now; empty when there are none. Valid until `taken`."""
        raise NotImplementedError

    def taken(self) -> None:
        """What `pending` showed was encrypted (no other call in between). More may be pending: ask again."""

    @property
    def streams_open(self) -> int:
        """Streams that are not closed in HTTP/2's sense."""
        raise NotImplementedError

    @property
    def is_idle(self) -> bool:
        """No stream is known, not even one whose last bytes wait to be delivered."""
        raise NotImplementedError

    @property
    def is_draining(self) -> bool:
        """Either end has sent GOAWAY: no new streams; close when idle."""
        raise NotImplementedError
