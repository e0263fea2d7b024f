# SPDX-License-Identifier: Apache-2.0
"""The numbers of one HTTP/2 connection: what we announce, and what we put up with.

What is announced equals ztunnel's settings, so that both ends of a mixed mesh see the flow control they were tuned
for. What is put up with has no counterpart on the wire; each such limit names the attack that it ends.
"""

import enum
from typing import Self

import msgspec

from nodeagent.hbone.frames import DEFAULT_FRAME, DEFAULT_WINDOW, LARGEST_FRAME, MAX_WINDOW


class Role(enum.Enum):
    CLIENT = "client"
    SERVER = "server"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes. Use `Limits.of(role)`."""

    stream_window: int = 4 << 20
    """Received and not yet delivered bytes of one stream: the bandwidth-delay product of 10 Gbit/s at 3 ms."""
    connection_window: int = 16 << 20
    """The same of all streams together, and so the bound of what one tunnel can make a worker hold. Four times the
    stream's, so that up to three blocked streams leave room for the others."""
    max_frame: int = 1 << 20
    """Payload of one frame: 64 times fewer headers than with the default of 16 KiB."""
    max_header_bytes: int = 16 << 10
    """Of a header block, compressed or not. A CONNECT needs less than one KiB."""
    max_streams: int = 0
    """Streams that the peer may have open at once. A server never opens one towards a client."""
    streams_before_settings: int = 100
    """Streams a client opens before the server's SETTINGS have said how many it takes."""
    max_fragments: int = 32
    """Frames of one header block (CVE-2024-27316). A 64 KiB block has four in frames of the default size."""
    max_control_bytes: int = 64 << 10
    """Answers queued for a peer that asks and does not read (CVE-2019-9512, CVE-2019-9515)."""
    max_queued_bytes: int = 1 << 20
    """All small frames queued for a peer that does not read: answers to streams that it opens and resets, updates, our
    own requests. As much as the buffer for payload beside them; two hundred answers are some KiB."""
    idle_frames: int = 1000
    """Frames between two of our PINGs that are no use to anyone: PING, SETTINGS, PRIORITY, empty DATA, unknown
    types, updates of closed streams (CVE-2019-9512 to 9518). Streams and sent DATA earn more, see flood.py."""
    wasted_streams: int = 1000
    """Streams between two of our PINGs that came to nothing: reset before their answer, refused, or broken
    (CVE-2023-44487, CVE-2025-8671). nghttp2 bursts to the same number."""

    keeps_keys: bool = False
    """We announce that the keys of our records never change, if the peer announces the same."""

    def __post_init__(self) -> None:
        # A peer may use the defaults until it has read our SETTINGS, so less could not be enforced fairly.
        for window in (self.stream_window, self.connection_window):
            if not DEFAULT_WINDOW <= window <= MAX_WINDOW:
                raise ValueError(f"a window of {window} bytes")
        if not DEFAULT_FRAME <= self.max_frame <= LARGEST_FRAME:
            raise ValueError(f"frames of {self.max_frame} bytes")

    @classmethod
    def of(cls, role: Role, *, keeps_keys: bool = False) -> Self:
        """What ztunnel announces in this role."""
        if role is Role.CLIENT:
            return cls(keeps_keys=keeps_keys)
        return cls(max_header_bytes=64 << 10, max_streams=200, keeps_keys=keeps_keys)
