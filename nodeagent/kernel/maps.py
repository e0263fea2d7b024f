# SPDX-License-Identifier: Apache-2.0
"""The pinned maps as typed tables: model values in, model values out; bytes and struct names stop here.

Shapes come from bpf/layout.h and bpf/maps.h. A full map is an answer (`put` says False), not an error: what it means
is decided where the value comes from.
"""

import errno
import os
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from nodeagent.errors import KernelError
from nodeagent.kernel import syscall
from nodeagent.kernel.layout import Layout, read_layouts
from nodeagent.kernel.sources import read_source
from nodeagent.model.address import Cidr, Ip, Port, packed_ip, unpack_ip

Key = TypeVar("Key")
Value = TypeVar("Value")
_Answer = TypeVar("_Answer")

SLOTS = 4
"""Listener slots of each kind: SLOTS in bpf/maps.h."""


class Settings(NamedTuple):
    proxy_device: int = 0
    proxy_namespace: int = 0
    generation: int = 0
    slots: int = 0
    registry_only: int = 0


class Source(NamedTuple):
    """An address that packets from this device may carry."""

    device: int
    ip: Ip


class PodRow(NamedTuple):
    """How an enrolled pod of this node is reached."""

    device: int
    gateway_mac: bytes
    pod_mac: bytes


class PodCount(NamedTuple):
    outbound: int = 0
    inbound: int = 0
    dropped: int = 0


class Exclusion(NamedTuple):
    """Connections that are left alone: to this block, on this port (0: every port)."""

    block: Cidr
    port: Port = Port(0)


class FlowKey(NamedTuple):
    first: Ip
    second: Ip
    first_port: int
    second_port: int


class Flow(NamedTuple):
    generation: int
    kind: int
    from_second: int


@dataclass(frozen=True)
class Coding(Generic[Value]):
    encode: Callable[[Value], bytes]
    decode: Callable[[bytes], Value]
    """A per-CPU map gives the values of all CPUs, one after the other."""


class Table(Generic[Key, Value]):
    """One pinned map. Methods raise KernelError for what only a broken system does."""

    def __init__(
        self, directory: Path, name: str, key: Coding[Key], value: Coding[Value], *, is_per_cpu: bool = False
    ) -> None:
        self.name = name
        self._key, self._value = key, value
        path = directory / name
        try:
            self.descriptor = syscall.open_pinned(str(path))
        except OSError as error:
            raise KernelError(f"map {path}: {error.strerror}", check="Did the loader run, on this bpffs?") from error
        info = syscall.map_info(self.descriptor)
        self._key_bytes = info.key_bytes
        self._copies = syscall.possible_cpus() if is_per_cpu else 1
        self._value_bytes = info.value_bytes * self._copies

    def find(self, key: Key) -> Value | None:
        found = self._ask(lambda: syscall.map_lookup(self.descriptor, self._key.encode(key), self._value_bytes))
        return None if found is None else self._value.decode(found)

    def put(self, key: Key, value: Value) -> bool:
        """False when the map is full."""
        try:
            syscall.map_update(self.descriptor, self._key.encode(key), self._value.encode(value) * self._copies)
        except OSError as error:
            if error.errno in {errno.E2BIG, errno.ENOSPC}:
                return False
            raise KernelError(f"map {self.name}: {error.strerror}") from error
        return True

    def remove(self, key: Key) -> bool:
        """False when it was not there."""
        return self._ask(lambda: syscall.map_delete(self.descriptor, self._key.encode(key)))

    def keys(self) -> set[Key]:
        found = self._ask(lambda: syscall.map_keys(self.descriptor, self._key_bytes))
        return {self._key.decode(key) for key in found}

    def rows(self) -> dict[Key, Value]:
        found = ((key, self.find(key)) for key in self.keys())
        return {key: value for key, value in found if value is not None}

    def close(self) -> None:
        os.close(self.descriptor)

    def _ask(self, call: Callable[[], _Answer]) -> _Answer:
        try:
            return call()
        except OSError as error:
            raise KernelError(f"map {self.name}: {error.strerror}") from error


class Maps:
    """All maps of one layout, open. Descriptors are closed by `close`."""

    def __init__(self, directory: Path) -> None:
        with ExitStack() as opened:
            self.settings = _open(opened, directory, "settings", _number(), _settings())
            self.sources = _open(opened, directory, "sources", _source(), _adopt_until())
            self.pods = _open(opened, directory, "pods", _address(), _pod())
            self.pod_counts = _open(opened, directory, "pod_counts", _number(), _pod_count(), is_per_cpu=True)
            self.known = _open(opened, directory, "known", _address(), _number())
            self.node_addresses = _open(opened, directory, "node_addresses", _address(), _number())
            self.excluded = _open(opened, directory, "excluded", _exclusion(), _number())
            self.flows = _open(opened, directory, "flows", _flow_key(), _flow())
            self.hairpins = _open(opened, directory, "hairpins", _flow_key(), _number())
            self.listeners = _open(opened, directory, "listeners", _number(), _number("=Q"))
            self.reason_counts = _open(opened, directory, "reason_counts", _number(), _sum(), is_per_cpu=True)
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def read_settings(self) -> Settings:
        return self.settings.find(0) or Settings()


def _open(
    opened: ExitStack,
    directory: Path,
    name: str,
    key: Coding[Key],
    value: Coding[Value],
    *,
    is_per_cpu: bool = False,
) -> Table[Key, Value]:
    table = Table(directory, name, key, value, is_per_cpu=is_per_cpu)
    opened.callback(table.close)
    return table


# ---- codings: a model value and its struct in layout.h -----------------------------------------------------------


@cache
def layouts() -> dict[str, Layout]:
    return read_layouts(read_source("layout.h"))


def _fields(name: str, packed: bytes) -> dict[str, int]:
    """For structs of numbers alone."""
    return {field: value for field, value in layouts()[name].unpack(packed).items() if isinstance(value, int)}


def _bytes_of(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int_of(value: int | bytes) -> int:
    assert isinstance(value, int)
    return value


def _number(code: str = "=I") -> Coding[int]:
    packing = struct.Struct(code)
    return Coding(packing.pack, lambda packed: int(packing.unpack(packed)[0]))


def _sum() -> Coding[int]:
    return Coding(struct.Struct("=Q").pack, lambda packed: sum(memoryview(packed).cast("Q")))


def _address() -> Coding[Ip]:
    return Coding(packed_ip, unpack_ip)


def _settings() -> Coding[Settings]:
    layout = layouts()["settings"]
    return Coding(
        lambda settings: layout.pack(**settings._asdict()), lambda packed: Settings(**_fields("settings", packed))
    )


def _source() -> Coding[Source]:
    layout = layouts()["source_key"]

    def decode(packed: bytes) -> Source:
        fields = layout.unpack(packed)
        return Source(_int_of(fields["device"]), unpack_ip(_bytes_of(fields["address"])))

    return Coding(lambda source: layout.pack(device=source.device, address=packed_ip(source.ip)), decode)


def _adopt_until() -> Coding[int]:
    layout = layouts()["source"]
    return Coding(
        lambda nanoseconds: layout.pack(adopt_until=nanoseconds),
        lambda packed: _fields("source", packed)["adopt_until"],
    )


def _pod() -> Coding[PodRow]:
    layout = layouts()["pod"]

    def decode(packed: bytes) -> PodRow:
        fields = layout.unpack(packed)
        return PodRow(_int_of(fields["device"]), _bytes_of(fields["gateway_mac"]), _bytes_of(fields["pod_mac"]))

    return Coding(lambda row: layout.pack(**row._asdict()), decode)


def _pod_count() -> Coding[PodCount]:
    layout = layouts()["pod_count"]

    def decode(packed: bytes) -> PodCount:
        of_cpus = [layout.unpack(packed[at : at + layout.size]) for at in range(0, len(packed), layout.size)]
        return PodCount(**{field: sum(_int_of(of_cpu[field]) for of_cpu in of_cpus) for field in layout.fields})

    return Coding(lambda count: layout.pack(**count._asdict()), decode)


def _exclusion() -> Coding[Exclusion]:
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


def _flow_key() -> Coding[FlowKey]:
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


def _flow() -> Coding[Flow]:
    layout = layouts()["flow"]

    def decode(packed: bytes) -> Flow:
        fields = _fields("flow", packed)
        return Flow(fields["generation"], fields["kind"], fields["from_second"])

    return Coding(lambda flow: layout.pack(**flow._asdict()), decode)
