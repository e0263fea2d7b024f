# SPDX-License-Identifier: Apache-2.0
"""What a watched link carried: frames in, counts per flow out. Pure; capture.py feeds it, tests feed it bytes.

A marker is counted wherever it stands within one frame. One that is cut by the end of a TCP segment is not seen, so a
proof of absence sends its marker many times.
"""

import ipaddress
import struct

import msgspec

TCP = 6
UDP = 17
HBONE_PORT = 15008
_ETHERNET = 14
_APPLICATION_DATA = b"\x17\x03\x03"  # RFC 8446 §5.1: type and the version every TLS 1.3 record claims
_HANDSHAKE = 0x16
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_SUPPORTED_VERSIONS = 43  # RFC 8446 §4.2.1: the only place where 1.3 is offered and chosen
_TLS13 = b"\x03\x04"
MAX_FLOWS = 65536
"""A key and a count are half a kilobyte; packets of flows beyond this number are counted in one of their own."""


class Flow(msgspec.Struct, frozen=True, order=True):
    """One direction. Ports are 0 for anything but TCP and UDP; `version` is 0 and all else empty for what is not IP."""

    version: int = 0
    protocol: int = 0
    source: str = ""
    source_port: int = 0
    destination: str = ""
    destination_port: int = 0


class Count(msgspec.Struct):
    packets: int = 0
    bytes: int = 0
    """Of whole frames. A packet may be a large one that the devices did not split (GSO)."""
    payload_bytes: int = 0
    """Behind the TCP header."""
    markers: int = 0
    tls_records: int = 0
    """Payloads that begin with a TLS application record; a record that begins inside a payload is not looked for."""
    client_hellos: int = 0
    server_hellos: int = 0
    """Hellos that offer, or choose, TLS 1.3."""

    def add(self, other: "Count") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Seen(msgspec.Struct):
    """The result of a tap. It is complete only if `dropped` and `truncated` are 0."""

    flows: list[tuple[Flow, Count]]
    dropped: int = 0
    """Packets that the kernel could not put into the ring."""
    truncated: int = 0
    """Packets that were longer than a block of the ring."""

    def count(
        self,
        *,
        version: int | None = None,
        port: int | None = None,
        to_port: int | None = None,
        from_port: int | None = None,
        ip: str | None = None,
    ) -> Count:
        """The sum over flows that fit everything given. `port` and `ip` fit on either side."""
        total = Count()
        for flow, count in self.flows:
            if (
                version in {None, flow.version}
                and to_port in {None, flow.destination_port}
                and from_port in {None, flow.source_port}
                and port in {None, flow.source_port, flow.destination_port}
                and ip in {None, flow.source, flow.destination}
            ):
                total.add(count)
        return total

    @property
    def markers(self) -> int:
        return self.count().markers

    @property
    def hbone_bytes(self) -> int:
        return self.count(port=HBONE_PORT).bytes

    @property
    def tls_records(self) -> int:
        """To and from the HBONE port."""
        return self.count(port=HBONE_PORT).tls_records


class Tally:
    """Counts frames. A frame costs a few dictionary and slice operations, its payload one search at the speed of C."""

    def __init__(self, marker: bytes) -> None:
        self._marker = marker
        self._counts: dict[bytes, Count] = {}

    def add(self, buffer: bytes, start: int, end: int, length: int) -> None:
        """A frame in buffer[start:end], of which `length` bytes crossed the link."""
        key, payload, is_tcp = _key(buffer, start, end)
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= MAX_FLOWS:
                key = b""
            count = self._counts.setdefault(key, Count())
        count.packets += 1
        count.bytes += length
        if self._marker:
            count.markers += buffer.count(self._marker, start, end)
        if is_tcp and payload < end:
            count.payload_bytes += length - (payload - start)
            if buffer.startswith(_APPLICATION_DATA, payload):
                count.tls_records += 1
            elif buffer[payload] == _HANDSHAKE:
                hello = tls13_hello(buffer[payload : min(end, payload + 4096)])
                count.client_hellos += hello == _CLIENT_HELLO
                count.server_hellos += hello == _SERVER_HELLO

    def seen(self, dropped: int, truncated: int) -> Seen:
        flows = [(_flow(key), count) for key, count in self._counts.items()]
        return Seen(sorted(flows, key=lambda pair: pair[0]), dropped, truncated)


def _key(buffer: bytes, start: int, end: int) -> tuple[bytes, int, bool]:
    """The flow as bytes (protocol, addresses, ports), where a TCP payload begins, and whether it is TCP."""
    ip = start + _ETHERNET
    ethertype = buffer[start + 12 : ip]
    if ethertype == b"\x08\x00" and end >= ip + 20:
        protocol, addresses, transport = buffer[ip + 9], buffer[ip + 12 : ip + 20], ip + (buffer[ip] & 15) * 4
    elif ethertype == b"\x86\xdd" and end >= ip + 40:
        protocol, addresses, transport = buffer[ip + 6], buffer[ip + 8 : ip + 40], ip + 40
    else:
        return b"", end, False
    if protocol == TCP and end >= transport + 20:
        payload = transport + (buffer[transport + 12] >> 4) * 4
        return bytes((protocol,)) + addresses + buffer[transport : transport + 4], payload, True
    ports = buffer[transport : transport + 4] if protocol == UDP and end >= transport + 8 else bytes(4)
    return bytes((protocol,)) + addresses + ports, end, False


def _flow(key: bytes) -> Flow:
    if not key:
        return Flow()
    addresses, half = key[1:-4], (len(key) - 5) // 2
    source, destination = ipaddress.ip_address(addresses[:half]), ipaddress.ip_address(addresses[half:])
    source_port, destination_port = struct.unpack("!HH", key[-4:])
    return Flow(source.version, key[0], str(source), source_port, str(destination), destination_port)


def tls13_hello(payload: bytes) -> int:
    """1 for a ClientHello that offers TLS 1.3, 2 for a ServerHello that chooses it, else 0 (also when cut short)."""
    if len(payload) < 9 or payload[0] != _HANDSHAKE or payload[5] not in {_CLIENT_HELLO, _SERVER_HELLO}:
        return 0
    kind = payload[5]
    try:
        at = 9 + 2 + 32  # record and handshake header, version, random
        at += 1 + payload[at]  # session id
        if kind == _CLIENT_HELLO:
            at += 2 + int.from_bytes(payload[at : at + 2], "big")  # cipher suites
            at += 1 + payload[at]  # compression methods
        else:
            at += 3
        at += 2  # length of all extensions
        while at + 4 <= len(payload):
            extension, length = struct.unpack_from("!HH", payload, at)
            body = payload[at + 4 : at + 4 + length]
            if extension == _SUPPORTED_VERSIONS:
                offered = body[1:] if kind == _CLIENT_HELLO else body
                versions = [offered[i : i + 2] for i in range(0, len(offered), 2)]
                return kind if _TLS13 in versions else 0
            at += 4 + length
    except IndexError:
        return 0
    return 0
