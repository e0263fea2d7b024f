# SPDX-License-Identifier: Apache-2.0
"""Codings of the maps for Service addresses in connect(2): as codings.py, which has those of everything else."""

import struct
from typing import NamedTuple

from nodeagent.kernel.codings import Coding, layouts
from nodeagent.model.address import Ip, packed_ip, unpack_ip
from nodeagent.routing.route import Target


class ServiceRow(NamedTuple):
    id: int
    """Of the draws in force; 0 is nobody's."""
    draws: int


class DrawKey(NamedTuple):
    service: int
    """A ServiceRow's id."""
    number: int


class DialKey(NamedTuple):
    """A connection as its client has it."""

    netns: int
    """Cookie of the client's network namespace."""
    client: Ip
    server: Ip
    """Where its packets go."""
    client_port: int
    server_port: int


def of_endpoint() -> Coding[Target]:
    layout = layouts()["endpoint"]

    def decode(packed: bytes) -> Target:
        fields = layout.unpack(packed)
        return Target(_ip_of(fields["address"]), _port_of(fields["port"]))

    return Coding(lambda end: layout.pack(address=packed_ip(end.ip), port=_packed_port(end.port)), decode)


def of_service() -> Coding[ServiceRow]:
    packing = layouts()["service"].packing
    return Coding(lambda row: packing.pack(*row), lambda packed: ServiceRow._make(packing.unpack(packed)))


def of_draw_key() -> Coding[DrawKey]:
    packing = layouts()["draw_key"].packing
    return Coding(lambda key: packing.pack(*key), lambda packed: DrawKey._make(packing.unpack(packed)))


def of_dial_key() -> Coding[DialKey]:
    layout = layouts()["dial_key"]

    def encode(key: DialKey) -> bytes:
        return layout.pack(
            netns=key.netns,
            client=packed_ip(key.client),
            server=packed_ip(key.server),
            client_port=_packed_port(key.client_port),
            server_port=_packed_port(key.server_port),
        )

    def decode(packed: bytes) -> DialKey:
        fields = layout.unpack(packed)
        netns = fields["netns"]
        assert isinstance(netns, int)
        ends = _ip_of(fields["client"]), _ip_of(fields["server"])
        return DialKey(netns, *ends, _port_of(fields["client_port"]), _port_of(fields["server_port"]))

    return Coding(encode, decode)


def _packed_port(port: int) -> bytes:
    return struct.pack("!H", port)


def _port_of(packed: int | bytes) -> int:
    assert isinstance(packed, bytes)
    return int(struct.unpack("!H", packed)[0])


def _ip_of(packed: int | bytes) -> Ip:
    assert isinstance(packed, bytes)
    return unpack_ip(packed)
