# SPDX-License-Identifier: Apache-2.0
"""What honest peers say, frame by frame: the seeds of the mutator.

Shaped as Envoy (nghttp2) and ztunnel (h2) speak HBONE, in both roles: their SETTINGS and windows, Huffman-coded fields,
frames of their sizes. Beside them what the protocol allows and neither says: padding, priorities, CONTINUATION.
"""

import hpack

from nodeagent.hbone import frames
from nodeagent.hbone.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PREFACE,
    ErrorCode,
    Setting,
    pack_frame,
    pack_goaway,
    pack_reset,
    pack_settings,
    pack_window_update,
)
from nodeagent.hbone.limits import Role

Session = tuple[bytes, ...]
"""Whole frames; the preface of a client is the first."""

ACK = pack_frame(frames.SETTINGS, frames.ACK, 0)
PING, PONG = pack_frame(frames.PING, 0, 0, b"\0\0\0\0\0\0\0\1"), pack_frame(frames.PING, frames.ACK, 0, b"nodeping")
_UNKNOWN_SETTING = pack_frame(frames.SETTINGS, 0, 0, b"\0\x08\0\0\0\1")
"""ENABLE_CONNECT_PROTOCOL, which is not ours."""
BAGGAGE = (
    "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,"
    "service.name=web,service.version=v1,cloud.region=r,cloud.availability_zone=z"
)
FIELDS = (
    (":method", "CONNECT"),
    (":authority", "10.0.0.2:8080"),
    ("baggage", BAGGAGE),
    ("forwarded", 'for="10.0.0.1:41234";host=web.shop.svc.cluster.local'),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
)


def _request(encoder: hpack.Encoder, authority: str = "10.0.0.2:8080") -> bytes:
    return encoder.encode([(":method", "CONNECT"), (":authority", authority), *FIELDS[2:]])


def _headers(stream_id: int, block: bytes, flags: int = END_HEADERS) -> bytes:
    return pack_frame(HEADERS, flags, stream_id, block)


def _data(stream_id: int, size: int, flags: int = 0) -> bytes:
    return pack_frame(DATA, flags, stream_id, bytes(range(256)) * (size >> 8) + bytes(size & 0xFF))


def _ztunnel_client() -> Session:
    encoder = hpack.Encoder()
    said = [
        PREFACE,
        pack_settings(
            {
                Setting.ENABLE_PUSH: 0,
                Setting.INITIAL_WINDOW_SIZE: 4 << 20,
                Setting.MAX_FRAME_SIZE: 1 << 20,
                Setting.MAX_HEADER_LIST_SIZE: 16 << 10,
            }
        ),
    ]
    said += [pack_window_update(0, (16 << 20) - 65535), _headers(1, _request(encoder)), ACK, _data(1, 3000)]
    said += [_headers(3, _request(encoder, "[fd00::2]:8080")), _data(3, 20_000), pack_window_update(1, 1 << 20)]
    said += [pack_window_update(0, 1 << 20), PING, _data(3, 1), _data(1, 0, END_STREAM), pack_window_update(1, 9)]
    said += [pack_reset(3, ErrorCode.CANCEL), _headers(5, _request(encoder, "web.shop.svc.cluster.local:80"))]
    said += [_data(5, 700), PONG, _data(5, 0, END_STREAM), pack_reset(5, ErrorCode.NO_ERROR)]
    return (*said, pack_goaway(0, ErrorCode.NO_ERROR))


def _ztunnel_server() -> Session:
    encoder = hpack.Encoder()
    said = [
        pack_settings(
            {
                Setting.MAX_CONCURRENT_STREAMS: 200,
                Setting.INITIAL_WINDOW_SIZE: 4 << 20,
                Setting.MAX_FRAME_SIZE: 1 << 20,
                Setting.MAX_HEADER_LIST_SIZE: 16 << 10,
            }
        )
    ]
    said += [
        pack_window_update(0, (16 << 20) - 65535),
        ACK,
        _headers(1, encoder.encode([(":status", "200"), FIELDS[2]])),
    ]
    said += [
        _data(1, 5000),
        pack_window_update(1, 1 << 20),
        _headers(3, encoder.encode([(":status", "401")]), END_HEADERS | END_STREAM),
    ]
    said += [
        pack_reset(3, ErrorCode.NO_ERROR),
        _headers(5, encoder.encode([(":status", "200")])),
        PONG,
        _data(5, 40_000),
    ]
    said += [pack_window_update(0, 1 << 20), _data(1, 0, END_STREAM), pack_goaway(frames.MAX_STREAM_ID, 0), PING]
    return (*said, _data(5, 10, END_STREAM), pack_goaway(5, ErrorCode.NO_ERROR))


def _envoy_client() -> Session:
    encoder = hpack.Encoder()
    said = [
        PREFACE,
        pack_settings(
            {
                Setting.HEADER_TABLE_SIZE: 4096,
                Setting.ENABLE_PUSH: 0,
                Setting.MAX_CONCURRENT_STREAMS: (1 << 31) - 1,
                Setting.INITIAL_WINDOW_SIZE: 1 << 28,
            }
        ),
    ]
    said += [pack_window_update(0, (1 << 28) - 65535), _headers(1, _request(encoder)), *[_data(1, 16_384)] * 3, ACK]
    said += [_headers(3, _request(encoder)), _headers(5, _request(encoder)), _data(5, 100), _data(3, 0, END_STREAM)]
    said += [pack_reset(5, ErrorCode.CANCEL), _data(1, 8000), PING, pack_window_update(1, 1 << 24)]
    return (*said, pack_window_update(0, 1 << 24), _data(1, 0, END_STREAM), pack_goaway(0, ErrorCode.NO_ERROR, b"idle"))


def _envoy_server() -> Session:
    encoder = hpack.Encoder()
    said = [
        pack_settings(
            {Setting.HEADER_TABLE_SIZE: 4096, Setting.MAX_CONCURRENT_STREAMS: 100, Setting.INITIAL_WINDOW_SIZE: 1 << 16}
        ),
        _UNKNOWN_SETTING,
    ]
    said += [
        pack_window_update(0, 1 << 20),
        ACK,
        _headers(
            1, encoder.encode([(":status", "200"), ("date", "Sat, 28 Nov 2026 00:00:00 GMT"), ("server", "envoy")])
        ),
    ]
    said += [
        *[_data(1, 16_384)] * 2,
        pack_window_update(1, 1 << 15),
        _headers(3, encoder.encode([(":status", "503"), ("content-length", "19")])),
    ]
    said += [_data(3, 19, END_STREAM), pack_reset(3, 0), pack_reset(5, ErrorCode.REFUSED_STREAM), PING, PONG]
    return (*said, _data(1, 1, END_STREAM), pack_goaway(frames.MAX_STREAM_ID, 0), pack_goaway(1, 0))


def _rare_client() -> Session:
    encoder = hpack.Encoder()
    block, second = _request(encoder), _request(encoder)
    priority = bytes((0x80, 0, 0, 0, 16))
    said = [PREFACE, pack_settings({}), pack_frame(frames.PRIORITY, 0, 3, priority), _headers(1, block[:5], END_STREAM)]
    said += [
        pack_frame(frames.CONTINUATION, 0, 1, block[5:9]),
        pack_frame(frames.CONTINUATION, END_HEADERS, 1, block[9:]),
    ]
    said += [_headers(3, bytes([7]) + priority + second + bytes(7), END_HEADERS | PADDED | HAS_PRIORITY)]
    said += [
        pack_frame(DATA, PADDED, 3, b"\xff" + b"x" * 40 + bytes(255)),
        pack_frame(DATA, PADDED, 3, b"\0"),
        _data(3, 0),
    ]
    said += [
        pack_frame(0x10, 0, 0, b"u=3"),
        pack_frame(0x42, 0xFF, 3, bytes(50)),
        pack_settings({Setting.MAX_FRAME_SIZE: 1 << 14, Setting.INITIAL_WINDOW_SIZE: 0}),
    ]
    said += [
        pack_settings({Setting.HEADER_TABLE_SIZE: 0, Setting.INITIAL_WINDOW_SIZE: 70_000}),
        pack_window_update(3, 5),
    ]
    return (*said, _headers(3, encoder.encode([("grpc-status", "0")]), END_HEADERS | END_STREAM), PING)


def _rare_server() -> Session:
    encoder = hpack.Encoder()
    said = [pack_settings({Setting.MAX_CONCURRENT_STREAMS: 0}), ACK, _headers(1, encoder.encode([(":status", "103")]))]
    block = encoder.encode([(":status", "200"), ("x-long", "v" * 300)])
    said += [
        _headers(1, block[:9], 0),
        pack_frame(frames.CONTINUATION, END_HEADERS, 1, block[9:]),
        pack_settings({Setting.MAX_CONCURRENT_STREAMS: 9}),
    ]
    said += [_headers(3, b"\x03" + encoder.encode([(":status", "204")]) + bytes(3), END_HEADERS | PADDED)]
    said += [
        pack_frame(DATA, PADDED | END_STREAM, 3, b"\x05last" + bytes(5)),
        pack_reset(3, 0),
        pack_goaway(3, 2, b"x" * 300),
    ]
    return (*said, PONG, pack_window_update(0, 1), pack_reset(1, 0xBEEF))


SESSIONS: dict[Role, tuple[Session, ...]] = {
    Role.SERVER: (_ztunnel_client(), _envoy_client(), _rare_client()),
    Role.CLIENT: (_ztunnel_server(), _envoy_server(), _rare_server()),
}
"""By the role of the end that receives them."""
