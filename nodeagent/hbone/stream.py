# SPDX-License-Identifier: Apache-2.0
"""One CONNECT stream: its two windows and how far either direction has come. About 300 bytes when idle."""

from typing import Self

from nodeagent.hbone.snapshot import StreamSnapshot
from nodeagent.hbone.window import ReceiveWindow, SendWindow


class Stream:
    """Flags instead of one state: the directions end independently (RFC 9113 §5.1), and each has one writer."""

    __slots__ = ("id", "inbound", "is_answered", "local_ended", "may_receive", "outbound", "remote_ended")

    def __init__(self, stream_id: int, receive: int, send: int, *, may_receive: bool) -> None:
        self.id = stream_id
        self.inbound = ReceiveWindow(receive)
        self.outbound = SendWindow(send)
        self.may_receive = may_receive
        """DATA is allowed: not before the answer (client), not after END_STREAM. One flag for the receive loop."""
        self.is_answered = False
        """The final HEADERS of the server came (client) or were sent (server)."""
        self.local_ended = False
        self.remote_ended = False

    def snapshot(self) -> StreamSnapshot:
        return StreamSnapshot(
            self.id,
            self.inbound.left,
            self.inbound.credit,
            self.outbound.left,
            self.may_receive,
            self.is_answered,
            self.local_ended,
            self.remote_ended,
        )

    @classmethod
    def resume(cls, snapshot: StreamSnapshot, window: int) -> Self:
        """`window` is what we announced for a stream. Raises ValueError for windows that are none."""
        stream = cls(snapshot.id, window, snapshot.send_left, may_receive=snapshot.may_receive)
        stream.inbound.resume(snapshot.receive_left, snapshot.receive_credit)
        stream.is_answered = snapshot.is_answered
        stream.local_ended, stream.remote_ended = snapshot.local_ended, snapshot.remote_ended
        return stream

    @property
    def is_closed(self) -> bool:
        return self.local_ended and self.remote_ended
