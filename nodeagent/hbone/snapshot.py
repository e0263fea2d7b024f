# SPDX-License-Identifier: Apache-2.0
"""One HTTP/2 connection between two turns, as it goes to another process: everything that is needed to go on.

Plain values only. There is no secret in it but the bytes that wait to be sent, so it is shown without them.
"""

from typing import Any

import msgspec

from nodeagent.hbone.limits import Limits, Role

VERSION = 2
"""Changes with the meaning of any field, here or in a class of limits.py; who does not know it must not resume."""


class StreamSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """Of stream.py and its two windows."""

    id: int
    receive_left: int
    receive_credit: int
    send_left: int
    may_receive: bool
    is_answered: bool
    local_ended: bool
    remote_ended: bool


class TableSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """One HPACK table (RFC 7541 §2.3.2): what either end believes that the other has."""

    size: int
    entries: tuple[tuple[bytes, bytes], ...]
    """The newest first, as they are numbered."""
    is_resized: bool = False
    """Our own: a change of its size is still to be announced."""
    changes: tuple[int, ...] = ()


class BlockSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """HEADERS whose CONTINUATION has not come."""

    stream_id: int
    ends_stream: bool
    parts: tuple[bytes, ...]


class FrameSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """How far the receiving half has come: inside the preface, a frame's beginning, or its payload."""

    preface_left: bytes
    settings_seen: bool
    partial: bytes
    left: int
    padding: int
    stream_id: int
    """Whose payload the rest of the frame is; 0: nobody's."""
    ends: bool
    block: BlockSnapshot | None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What `Connection.snapshot` gives, and `Connection.resume` goes on from."""

    version: int = VERSION
    role: Role
    limits: Limits
    """As they were announced to the peer."""
    streams: tuple[StreamSnapshot, ...]
    blocked: tuple[int, ...]
    receive_left: int
    receive_credit: int
    send_left: int
    peer_stream_window: int
    peer_max_frame: int
    peer_max_streams: int
    peer_keeps_keys: bool | None
    late_bytes: int
    next_id: int
    highest_peer_id: int
    last_accepted_id: int | None
    goaway_sent: bool
    goaway_received: int | None
    idle_left: int
    wasted: int
    writer: TableSnapshot
    reader: TableSnapshot
    frame: FrameSnapshot
    buffered: bytes
    """Frames whose last byte is not encrypted yet. They go before `queued`."""
    queued: bytes

    def __repr__(self) -> str:
        return f"Snapshot({self.role.value}, {len(self.streams)} streams)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []
