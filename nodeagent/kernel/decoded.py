# SPDX-License-Identifier: Apache-2.0
"""Rows of any map for people, by the text that declares it: addresses, ports and names where there are numbers. Pure.

Unlike codings.py, which has model values for what the agent works with, this needs nothing but the declaration; so it
reads maps of other layouts, too. Secrets of the settings are not shown: who knows them can forge packets.
"""

import struct
from collections.abc import Callable, Mapping
from typing import TypeAlias

from nodeagent.kernel.codings import ReportState
from nodeagent.kernel.layout import NUMBERS, PADDING, Layout, MapShape, Shapes
from nodeagent.model.address import unpack_ip

Shown: TypeAlias = "str | int | list[int] | dict[str, Shown]"

FLOW_KINDS = ("", "allowed", "excluded", "adopted", "proxy")
"""By enum flow_kind of bpf/flow.h."""
LISTENERS = ("outbound", "hbone", "plaintext")
"""By enum listener of bpf/maps.h."""
LOSSES = ("event", "flow")
"""By enum flow_loss."""
SLOTS = 4
HIDDEN = "(not shown)"
_SECRET = frozenset({("settings", "secret"), ("settings", "sources")})
_DEVICES = frozenset({"device", "proxy_device"})
_MAC_BYTES = 6


class Decoder:
    def __init__(self, shapes: Shapes, device_name: Callable[[int], str], reasons: Mapping[int, str]) -> None:
        """`device_name` of an index, empty for none; `reasons`: the names of the rows of reason_counts."""
        self._structs, self._device_name, self._reasons = shapes.structs, device_name, reasons

    def key(self, shape: MapShape, packed: bytes) -> Shown:
        found = self._value(shape.key, packed)
        match shape.name, found:
            case "reason_counts", int(number):
                return self._reasons.get(number, number)
            case "listeners", int(number):
                return f"{LISTENERS[number // SLOTS]} of worker {number % SLOTS}"
            case "flow_losses", int(number) if number < len(LOSSES):
                return LOSSES[number]
            case "pod_counts", int(number):
                return self._device(number)
            case _:
                return found

    def value(self, shape: MapShape, packed: bytes) -> Shown:
        """Of a per-CPU map the sum over all CPUs."""
        if not shape.kind.startswith("percpu"):
            return self._value(shape.value, packed)
        size = self._size(shape.value)
        step = -(-size // 8) * 8
        copies = [self._value(shape.value, packed[at : at + size]) for at in range(0, len(packed), step)]
        return _summed(copies)

    def _size(self, kind: str) -> int:
        return NUMBERS[kind].size if kind in NUMBERS else self._structs[kind].size

    def _value(self, kind: str, packed: bytes) -> Shown:
        if kind in NUMBERS:
            return int(NUMBERS[kind].unpack(packed)[0])
        if kind == "address":
            return unpack_ip(packed)
        return self._fields(self._structs[kind], packed)

    def _fields(self, layout: Layout, packed: bytes) -> Shown:
        values = layout.packing.unpack(packed)
        return {
            field: self._field(layout.name, field, kind, value)
            for field, kind, value in zip(layout.fields, layout.kinds, values, strict=True)
            if field != PADDING
        }

    def _field(self, layout: str, field: str, kind: str, value: int | bytes) -> Shown:
        if (layout, field) in _SECRET:
            return HIDDEN if value else 0
        if isinstance(value, bytes):
            return self._bytes(kind, value)
        if field in _DEVICES:
            return self._device(value)
        if (layout, field) == ("flow", "kind") and value < len(FLOW_KINDS):
            return FLOW_KINDS[value]
        if (layout, field) == ("flow_report", "state"):
            return ReportState(value).name.lower() if value in list(ReportState) else value
        return value

    def _bytes(self, kind: str, value: bytes) -> Shown:
        if kind == "be16":
            return int(struct.unpack("!H", value)[0])
        if kind in self._structs:
            return self._value(kind, value)
        if kind.startswith("u8[") and len(value) == _MAC_BYTES:
            return value.hex(":")
        if kind.startswith("u8["):  # bits of pods, by their numbers
            bits = int.from_bytes(value, "little")
            return [number for number in range(8 * len(value)) if bits >> number & 1]
        return value.hex()

    def _device(self, index: int) -> Shown:
        name = self._device_name(index) if index else ""
        return f"{name} ({index})" if name else index


def _summed(copies: list[Shown]) -> Shown:
    first = copies[0]
    if isinstance(first, dict):
        return {name: _summed([copy[name] for copy in copies if isinstance(copy, dict)]) for name in first}
    return sum(copy for copy in copies if isinstance(copy, int))
