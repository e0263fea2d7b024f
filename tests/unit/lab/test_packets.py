# SPDX-License-Identifier: Apache-2.0
"""Frames built here, counted there; and hellos made by the ssl module, so that they are real ones."""

import socket
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.lab.packets import TCP, UDP, Count, Flow, Seen, Tally, tls13_hello

MARKER = b"plain-text-marker"


def ethernet(ethertype: int, payload: bytes) -> bytes:
    return b"\x02" * 6 + b"\x04" * 6 + struct.pack("!H", ethertype) + payload


def ipv4(source: str, destination: str, protocol: int, payload: bytes, options: bytes = b"") -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 0, 0, 0, 64, protocol, 0)
    return ethernet(0x0800, header + socket.inet_aton(source) + socket.inet_aton(destination) + options + payload)


def ipv6(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return ethernet(0x86DD, struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload)


def tcp(source_port: int, destination_port: int, payload: bytes = b"", options: bytes = b"") -> bytes:
    offset = (20 + len(options)) // 4 << 4
    return struct.pack("!HHIIBBHHH", source_port, destination_port, 0, 0, offset, 0x18, 0, 0, 0) + options + payload


def tally(*frames: bytes, marker: bytes = MARKER) -> Seen:
    """Through one buffer with strangers' bytes between the frames, as in a block of the ring."""
    counting, buffer, spans = Tally(marker), b"", []
    for frame in frames:
        buffer += MARKER
        spans.append((len(buffer), len(buffer) + len(frame)))
        buffer += frame
    for start, end in spans:
        counting.add(buffer + MARKER, start, end, end - start)
    return counting.seen(0, 0)


@pytest.mark.parametrize(
    ("frame", "flow", "payload_bytes"),
    [
        pytest.param(
            ipv4("10.0.0.1", "10.0.0.2", TCP, tcp(1000, 80, b"hello")),
            Flow(4, TCP, "10.0.0.1", 1000, "10.0.0.2", 80),
            5,
            id="ipv4",
        ),
        pytest.param(
            ipv4("10.0.0.1", "10.0.0.2", TCP, tcp(1000, 80, b"hello", b"\1" * 12), b"\1" * 8),
            Flow(4, TCP, "10.0.0.1", 1000, "10.0.0.2", 80),
            5,
            id="options in both headers",
        ),
        pytest.param(
            ipv6("fd00::1", "fd00::2", TCP, tcp(1000, 80)), Flow(6, TCP, "fd00::1", 1000, "fd00::2", 80), 0, id="ipv6"
        ),
        pytest.param(
            ipv6("fd00::1", "fd00::2", UDP, struct.pack("!HHHH", 53, 9, 8, 0)),
            Flow(6, UDP, "fd00::1", 53, "fd00::2", 9),
            0,
            id="udp",
        ),
        pytest.param(
            ipv6("fe80::1", "ff02::16", 58, b"\x8f" * 20), Flow(6, 58, "fe80::1", 0, "ff02::16", 0), 0, id="icmp"
        ),
        pytest.param(ethernet(0x0806, b"\0" * 28), Flow(), 0, id="arp"),
        pytest.param(ethernet(0x0800, b"\x45" + b"\0" * 10), Flow(), 0, id="cut within the ip header"),
        pytest.param(
            ipv4("10.0.0.1", "10.0.0.2", TCP, b"\0" * 8), Flow(4, TCP, "10.0.0.1", 0, "10.0.0.2", 0), 0, id="cut tcp"
        ),
    ],
)
def test_a_frame_is_counted_for_its_flow(frame: bytes, flow: Flow, payload_bytes: int) -> None:
    assert tally(frame).flows == [(flow, Count(packets=1, bytes=len(frame), payload_bytes=payload_bytes))]


def test_markers_are_counted_within_frames_and_nowhere_else() -> None:
    twice = ipv4("10.0.0.1", "10.0.0.2", TCP, tcp(1, 80, MARKER + b"-" + MARKER))
    none = ipv4("10.0.0.1", "10.0.0.2", TCP, tcp(2, 80, MARKER[:-1]))
    seen = tally(twice, none, ethernet(0x0806, MARKER))
    assert seen.markers == 3
    assert seen.count(from_port=1).markers == 2
    assert seen.count(from_port=2).markers == 0


def test_without_a_marker_nothing_is_searched() -> None:
    assert tally(ipv4("10.0.0.1", "10.0.0.2", TCP, tcp(1, 80, MARKER)), marker=b"").markers == 0


@pytest.mark.parametrize(
    ("chosen", "packets"),
    [
        ({}, 4),
        ({"port": 15008}, 2),
        ({"to_port": 15008}, 1),
        ({"from_port": 15008}, 1),
        ({"version": 6}, 1),
        ({"ip": "10.0.0.2"}, 2),
        ({"ip": "10.0.0.2", "port": 80}, 0),
        ({"port": 99}, 0),
    ],
)
def test_counts_are_summed_over_what_fits(chosen: dict[str, int], packets: int) -> None:
    seen = tally(
        ipv4("10.0.0.1", "10.0.0.2", TCP, tcp(1000, 15008)),
        ipv4("10.0.0.2", "10.0.0.1", TCP, tcp(15008, 1000)),
        ipv6("fd00::1", "fd00::2", TCP, tcp(7, 80)),
        ethernet(0x0806, b"\0" * 28),
    )
    assert seen.count(**chosen).packets == packets  # type: ignore[arg-type]  # the table has both kinds of values


def hellos(minimum: ssl.TLSVersion, maximum: ssl.TLSVersion) -> bytes:
    """What a client of the ssl module sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version, context.maximum_version = minimum, maximum
    outgoing = ssl.MemoryBIO()
    channel = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="example.org")
    with pytest.raises(ssl.SSLWantReadError):
        channel.do_handshake()
    return outgoing.read()


SERVER_HELLO = (
    b"\x16\x03\x03\x00\x38\x02\x00\x00\x34\x03\x03" + bytes(32) + b"\x00\x13\x01\x00\x00\x0c\x00\x2b\x00\x02\x03\x04"
)


def test_hellos_of_tls_1_3() -> None:
    assert tls13_hello(hellos(ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)) == 1
    assert tls13_hello(hellos(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)) == 1
    assert tls13_hello(hellos(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)) == 0
    assert tls13_hello(SERVER_HELLO) == 2
    assert tls13_hello(SERVER_HELLO[:-1] + b"\x03") == 0  # chooses 1.2


@given(st.binary(max_size=200), st.integers(0, 200))
def test_whatever_follows_a_tls_header_is_no_error(noise: bytes, cut: int) -> None:
    client = hellos(ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)
    assert tls13_hello(client[:cut]) in {0, 1}
    assert tls13_hello(client[:cut] + noise) in {0, 1}
    assert tls13_hello(SERVER_HELLO[:cut] + noise) in {0, 2}


def test_records_and_hellos_are_counted_where_they_begin_a_payload() -> None:
    client = hellos(ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)
    seen = tally(
        ipv4("10.0.0.1", "10.0.0.2", TCP, tcp(1000, 15008, client)),
        ipv4("10.0.0.2", "10.0.0.1", TCP, tcp(15008, 1000, SERVER_HELLO)),
        ipv4("10.0.0.2", "10.0.0.1", TCP, tcp(15008, 1000, b"\x17\x03\x03\x00\x05hello")),
        ipv4("10.0.0.2", "10.0.0.1", TCP, tcp(15008, 1000, b"xx\x17\x03\x03")),
        ipv4("10.0.0.2", "10.0.0.1", TCP, tcp(80, 1000, b"\x17\x03\x03\x00\x05hello")),
    )
    total = seen.count()
    assert (total.client_hellos, total.server_hellos, total.tls_records) == (1, 1, 2)
    assert seen.tls_records == 1  # of the HBONE port
    assert seen.hbone_bytes == seen.count(port=15008).bytes > len(client)


@given(st.lists(st.binary(max_size=120), max_size=5))
def test_any_frames_are_counted_once(frames: list[bytes]) -> None:
    seen = tally(*frames)
    assert seen.count().packets == len(frames)
    assert seen.count().bytes == sum(len(frame) for frame in frames)
