# SPDX-License-Identifier: Apache-2.0
"""What a peer with a good certificate can say to a worker, and should not: frames that come behind its SETTINGS."""

from collections.abc import Callable

from nodeagent.hbone import frames
from nodeagent.hbone.frames import pack_frame, pack_reset, pack_settings, pack_window_update
from nodeagent.hbone.headers import ConnectRequest, HeaderWriter

SERVED = "10.2.0.2:8080"
"""The application of tests/e2e/proxy/mesh.py."""


def request(stream_id: int, authority: str = "10.2.0.2:1") -> bytes:
    """Where nobody listens, unless `authority` says otherwise."""
    block = HeaderWriter(0).request(ConnectRequest(authority))
    return pack_frame(frames.HEADERS, frames.END_HEADERS, stream_id, block)


def malformed(stream_id: int) -> bytes:
    """A GET: answered with 400, and no waste in the eyes of the codec."""
    return pack_frame(frames.HEADERS, frames.END_HEADERS, stream_id, b"\x82")


def _rapid_reset(n: int) -> bytes:
    return request(2 * n + 1) + pack_reset(2 * n + 1, 8)


def _swinging_windows(n: int) -> bytes:
    """64 in each frame, behind as many open streams as there can be."""
    streams = b"" if n else b"".join(request(2 * one + 1, SERVED) for one in range(200))
    return streams + pack_frame(frames.SETTINGS, 0, 0, (b"\0\4\0\1\0\0" + b"\0\4\0\2\0\0") * 32)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "PING": lambda n: pack_frame(frames.PING, 0, 0, n.to_bytes(8, "big")),
    "SETTINGS": lambda _: pack_settings({}),
    "SETTINGS with swinging windows": _swinging_windows,
    "PRIORITY": lambda _: pack_frame(frames.PRIORITY, 0, 1, bytes(5)),
    "unknown frames": lambda _: pack_frame(0x42, 0, 0, bytes(100)),
    "WINDOW_UPDATE by 1": lambda _: pack_window_update(0, 1),
    "rapid reset": _rapid_reset,
    "streams beyond the limit": lambda n: request(2 * n + 1, SERVED),
}
"""Frame by frame; each ends the tunnel within some thousands."""


SINK = b"U"
"""What an application of the benchmark takes without an answer (tests/bench/load): such streams stay open."""


def _of_one_stream(frame: bytes) -> Callable[[int], bytes]:
    return lambda n: frame if n else request(1, SERVED) + frame


TRICKLES: dict[str, Callable[[int], bytes]] = {
    "single bytes": _of_one_stream(pack_frame(frames.DATA, 0, 1, SINK)),
    "padded single bytes": _of_one_stream(pack_frame(frames.DATA, frames.PADDED, 1, b"\0" + SINK)),
}
"""Frames that no rule forbids, and that cost many times what they carry."""

STROKES: dict[str, bytes] = {
    "CONTINUATION without end": pack_frame(frames.HEADERS, 0, 1, b"\x82")
    + pack_frame(frames.CONTINUATION, 0, 1, b"\x82") * 10_000,
    "HPACK bomb": pack_frame(
        frames.HEADERS, frames.END_HEADERS, 1, b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 16_000
    ),
    "HPACK table changes": pack_frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x20" * 60_000),
    "window overflow": pack_window_update(0, (1 << 31) - 1),
    "a peer that ignores windows": request(1, SERVED) + pack_frame(frames.DATA, 0, 1, SINK * (1 << 20)) * 40,
    "data for a stream that is over": malformed(1) + pack_frame(frames.DATA, 0, 1, bytes(1 << 20)) * 40,
}
"""Each ends the tunnel at once."""
