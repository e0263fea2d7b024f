# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 frames as bytes: the numbers of RFC 9113 and the packing of what we send.

Only layout lives here. Whether a frame is allowed now is connection.py's to say.
"""

import enum
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends before its first frame (§3.4)."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
"""Frame types (§6). Plain integers: the receive loop compares one per frame."""

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_BYTES = 9
HEADER = struct.Struct(">HBBBI")
"""Length in 24 bits as 16 + 8, type, flags, stream id with its reserved bit on top (§4.1)."""

STREAM_ID_MASK = 0x7FFF_FFFF
"""The top bit is reserved and ignored (§4.1)."""
MAX_STREAM_ID = 0x7FFF_FFFF
MAX_WINDOW = 0x7FFF_FFFF
"""A flow-control window never exceeds this (§6.9.1)."""
DEFAULT_WINDOW = 65535
"""Both windows until SETTINGS or WINDOW_UPDATE say otherwise (§6.9.2)."""
DEFAULT_FRAME = 16384
"""Largest payload until SETTINGS_MAX_FRAME_SIZE says otherwise, and the least that it may say (§6.5.2)."""
LARGEST_FRAME = (1 << 24) - 1

_PAIR = struct.Struct(">HI")
_WORD = struct.Struct(">I")
_TWO_WORDS = struct.Struct(">II")


class Setting(enum.IntEnum):
    """Identifiers of SETTINGS parameters (§6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    KEEPS_KEYS = 0xF6A0
    """Ours alone, of the numbers for experiments: 1 says that this end sends no TLS KeyUpdate and wants none, if the
    other end says so as well. It replaces the connection instead (DECISIONS.md, 43)."""


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ended (§7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def name_error(code: int) -> str:
    """The RFC's name, or the number for a code that it does not know (those are legal, §7)."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code:#x}"


def pack_frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame. `payload` fits the peer's maximum."""
    length = len(payload)
    return HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload


def pack_settings(settings: dict[Setting, int]) -> bytes:
    return pack_frame(SETTINGS, 0, 0, b"".join(_PAIR.pack(key, value) for key, value in settings.items()))


def unpack_settings(payload: bytes) -> list[tuple[int, int]]:
    """In wire order, repeated and unknown identifiers included. `payload` is a multiple of 6 bytes."""
    return list(_PAIR.iter_unpack(payload))


def pack_window_update(stream_id: int, increment: int) -> bytes:
    return pack_frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def pack_reset(stream_id: int, code: int) -> bytes:
    return pack_frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def pack_goaway(last_stream_id: int, code: int, words: bytes = b"") -> bytes:
    return pack_frame(GOAWAY, 0, 0, _TWO_WORDS.pack(last_stream_id, code) + words)


def unpack_goaway(payload: bytes) -> tuple[int, int, bytes]:
    """Last stream id, error code, debug data. `payload` has at least 8 bytes."""
    last_stream_id, code = _TWO_WORDS.unpack_from(payload)
    return last_stream_id & STREAM_ID_MASK, code, payload[8:]


def unpack_word(payload: bytes) -> int:
    """The 32 bits of an RST_STREAM or WINDOW_UPDATE."""
    word: int = _WORD.unpack(payload)[0]
    return word
