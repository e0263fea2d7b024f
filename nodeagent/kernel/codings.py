# SPDX-License-Identifier: Apache-2.0
"""Keys and values of the maps as model values, and their codings as the structs of bpf/layout.h.

Pure. A coding is made by a function, since layout.h is read when it is first needed and not at import.
"""

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Generic, NamedTuple, TypeVar

from nodeagent.kernel.layout import PADDING, Layout, read_layouts
from nodeagent.kernel.sources import read_source
from nodeagent.model.address import Cidr, Ip, Port, pack_ip, packed_ip, unpack_ip
from nodeagent.model.exclusion import Exclusion

Value = TypeVar("Value")


class Settings(NamedTuple):
    proxy_device: int = 0
    proxy_namespace: int = 0
    generation: int = 0
    slots: int = 0
    registry_only: int = 0
    """1: every pod's are; not all known ones fit into the map."""
    is_settling: int = 0
    secret: int = 0
    """By which from_pod knows what from_proxy has sent: 64 random bits, told to nobody; 0: none yet."""
    sources: int = 0
    """By which from_pod knows that no row of `sources` has gone since it last looked: 32 random bits; 0: trust nothing.
    """
    is_changing: int = 0

    @property
    def words(self) -> str:
        """For people and logs."""
        told = {name: value for name, value in self._asdict().items() if name not in {"secret", "sources"}}
        return ", ".join(f"{name} {value}" for name, value in told.items())


class Source(NamedTuple):
    """An address that packets from this device may carry."""

    device: int
    ip: Ip


class SourceRow(NamedTuple):
    adopt_until: int
    """End of the adoption window, nanoseconds of CLOCK_MONOTONIC."""
    number: int
    registry_only: int = 0
    """1: its connections to unknown destinations are dropped."""


class PodRow(NamedTuple):
    """How an enrolled pod of this node is reached."""

    device: int
    gateway_mac: bytes
    pod_mac: bytes
    number: int
    """Its bit in the table of verdicts; NO_NUMBER when there was none left."""


NUMBERS = 1024
"""Pods that the table of verdicts has bits for: NUMBERS in bpf/maps.h."""
NO_NUMBER = 0xFFFFFFFF
OPENED_BY_EITHER = 2


class VerdictKey(NamedTuple):
    generation: int
    destination: int
    """Number of the pod."""
    port: int
    """0: every port without a row of its own."""


class VerdictBits(NamedTuple):
    sources: int
    """Bit n: the pod of number n may connect."""
    is_pending: int = 0
    """1: for open connections only."""


class PodCount(NamedTuple):
    outbound: int = 0
    inbound: int = 0
    dropped: int = 0
    admitted: int = 0
    unasked: int = 0


class FlowKey(NamedTuple):
    first: Ip
    second: Ip
    first_port: int
    second_port: int


class Flow(NamedTuple):
    generation: int
    kind: int
    from_second: int
    """0 or 1: opened by the first or second end. OPENED_BY_EITHER: not known, and both directions are allowed."""
    held: int = 0
    """Of a proxy's: bits of the ends (1: first, 2: second) for whose packets it was seen to have a socket."""
    first_checked: int = 0
    """The device and the settings' `sources` with which a packet of this end was seen not to be spoofed."""
    second_checked: int = 0


class ReportState(enum.IntEnum):
    """enum report_state in bpf/sockops.c."""

    CONNECTING = 0
    OPEN = 1
    CLOSED = 2
    RESET = 3
    REFUSED = 4
    UNANSWERED = 5


class FlowReport(NamedTuple):
    """A direct connection as its client's socket has it."""

    cookie: int
    """Of that socket."""
    netns: int
    """Cookie of its network namespace; 0 before Linux 5.15."""
    started: int
    """Nanoseconds of CLOCK_MONOTONIC."""
    ended: int
    """The same; 0 while it is open."""
    sent: int
    received: int
    """Of one that is open neither is known yet."""
    client: Ip
    server: Ip
    client_port: int
    server_port: int
    round_trip_us: int
    retransmissions: int
    state: int
    """A ReportState."""


@dataclass(frozen=True)
class Coding(Generic[Value]):
    encode: Callable[[Value], bytes]
    decode: Callable[[bytes], Value]
    """A per-CPU map gives the values of all CPUs, one after the other."""


@cache
def layouts() -> dict[str, Layout]:
    return read_layouts(read_source("layout.h"))


def _fields(name: str, packed: bytes) -> dict[str, int]:
    """For structs of numbers alone."""
    found = layouts()[name].unpack(packed)
    return {field: value for field, value in found.items() if isinstance(value, int) and field != PADDING}


def _bytes_of(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int_of(value: int | bytes) -> int:
    assert isinstance(value, int)
    return value


def of_number(code: str = "=I") -> Coding[int]:
    packing = struct.Struct(code)
    return Coding(packing.pack, lambda packed: int(packing.unpack(packed)[0]))


def of_sum() -> Coding[int]:
    return Coding(struct.Struct("=Q").pack, lambda packed: sum(memoryview(packed).cast("Q")))


def of_address() -> Coding[Ip]:
    return Coding(pack_ip, unpack_ip)  # all of a large mesh are packed once, for the kernel's table of them


def of_settings() -> Coding[Settings]:
    layout = layouts()["settings"]
    return Coding(
        lambda settings: layout.pack(**settings._asdict()), lambda packed: Settings(**_fields("settings", packed))
    )


def of_source() -> Coding[Source]:
    layout = layouts()["source_key"]

    def decode(packed: bytes) -> Source:
        fields = layout.unpack(packed)
        return Source(_int_of(fields["device"]), unpack_ip(_bytes_of(fields["address"])))

    return Coding(lambda source: layout.pack(device=source.device, address=packed_ip(source.ip)), decode)


def of_source_row() -> Coding[SourceRow]:
    layout = layouts()["source"]

    def decode(packed: bytes) -> SourceRow:
        fields = _fields("source", packed)
        return SourceRow(fields["adopt_until"], fields["number"], fields["registry_only"])

    return Coding(lambda row: layout.pack(**row._asdict()), decode)


def of_pod() -> Coding[PodRow]:
    layout = layouts()["pod"]

    def decode(packed: bytes) -> PodRow:
        fields = layout.unpack(packed)
        macs = _bytes_of(fields["gateway_mac"]), _bytes_of(fields["pod_mac"])
        return PodRow(_int_of(fields["device"]), *macs, _int_of(fields["number"]))

    return Coding(lambda row: layout.pack(**row._asdict()), decode)


def of_pod_count() -> Coding[PodCount]:
    layout = layouts()["pod_count"]

    def decode(packed: bytes) -> PodCount:
        of_cpus = [layout.unpack(packed[at : at + layout.size]) for at in range(0, len(packed), layout.size)]
        return PodCount(**{field: sum(_int_of(of_cpu[field]) for of_cpu in of_cpus) for field in layout.fields})

    return Coding(lambda count: layout.pack(**count._asdict()), decode)


def of_exclusion() -> Coding[Exclusion]:
    layout = layouts()["exclusion_key"]
    port_bits = 32  # port and padding come before the address

    def encode(row: Exclusion) -> bytes:
        return layout.pack(
            prefix_bits=port_bits + row.block.bits, port=struct.pack("!H", row.port), address=row.block.network
        )

    def decode(packed: bytes) -> Exclusion:
        fields = layout.unpack(packed)
        bits = _int_of(fields["prefix_bits"]) - port_bits
        (port,) = struct.unpack("!H", _bytes_of(fields["port"]))
        return Exclusion(Cidr(_bytes_of(fields["address"]), bits), Port(port))

    return Coding(encode, decode)


def of_verdict_key() -> Coding[VerdictKey]:
    layout = layouts()["verdict_key"]

    def decode(packed: bytes) -> VerdictKey:
        fields = layout.unpack(packed)
        (port,) = struct.unpack("!H", _bytes_of(fields["port"]))
        return VerdictKey(_int_of(fields["generation"]), _int_of(fields["destination"]), port)

    return Coding(lambda key: layout.pack(**{**key._asdict(), "port": struct.pack("!H", key.port)}), decode)


def of_verdict() -> Coding[VerdictBits]:
    layout = layouts()["verdict"]

    def decode(packed: bytes) -> VerdictBits:
        fields = layout.unpack(packed)
        return VerdictBits(int.from_bytes(_bytes_of(fields["sources"]), "little"), _int_of(fields["is_pending"]))

    return Coding(
        lambda row: layout.pack(sources=row.sources.to_bytes(NUMBERS // 8, "little"), is_pending=row.is_pending), decode
    )


def of_flow_key() -> Coding[FlowKey]:
    layout = layouts()["flow_key"]

    def encode(key: FlowKey) -> bytes:
        return layout.pack(
            first=packed_ip(key.first),
            second=packed_ip(key.second),
            first_port=struct.pack("!H", key.first_port),
            second_port=struct.pack("!H", key.second_port),
        )

    def decode(packed: bytes) -> FlowKey:
        fields = {field: _bytes_of(value) for field, value in layout.unpack(packed).items()}
        ports = struct.unpack("!HH", fields["first_port"] + fields["second_port"])
        return FlowKey(unpack_ip(fields["first"]), unpack_ip(fields["second"]), *ports)

    return Coding(encode, decode)


def addresses_of_flow(packed: bytes) -> tuple[bytes, bytes]:
    """Of a flow's key, both packed."""
    return packed[:16], packed[16:32]


def generation_and_kind(packed: bytes) -> tuple[int, int]:
    """Of a flow: what struct flow begins with."""
    generation, kind = _FLOW_HEAD.unpack_from(packed)
    return generation, kind


_FLOW_HEAD = struct.Struct("=IB")


def of_flow() -> Coding[Flow]:
    layout = layouts()["flow"]

    def decode(packed: bytes) -> Flow:
        fields = _fields("flow", packed)
        return Flow(*(fields[name] for name in Flow._fields))

    return Coding(lambda flow: layout.pack(**flow._asdict()), decode)


def of_flow_report() -> Coding[FlowReport]:
    layout = layouts()["flow_report"]
    unpack = lru_cache(4096)(unpack_ip)  # two thirds of the time else, and these are addresses of this node's pods

    def encode(report: FlowReport) -> bytes:
        fields = report._asdict()
        fields |= {name: packed_ip(fields[name]) for name in ("client", "server")}
        fields |= {name: struct.pack("!H", fields[name]) for name in ("client_port", "server_port")}
        return layout.pack(**fields)

    def decode(packed: bytes) -> FlowReport:
        fields = layout.packing.unpack(packed)
        client, server, client_port, server_port = fields[6:10]
        ports = struct.unpack("!HH", client_port + server_port)
        return FlowReport._make((*fields[:6], unpack(client), unpack(server), *ports, *fields[10:]))

    return Coding(encode, decode)
