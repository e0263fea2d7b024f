# SPDX-License-Identifier: Apache-2.0
"""The shapes of map keys and values, read from bpf/layout.h, and the maps themselves, read from bpf/maps.h.

layout.h is the only declaration of a shape: a field that is renamed there is a KeyError here, at import of maps.py and
not on a node. Pure: text in, packers out.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
NUMBERS = {kind: struct.Struct(f"={code}") for kind, code in _CODES.items()}
_NETWORK = {"be16": 2, "be32": 4}
"""Kept as bytes, so never swapped."""
PADDING = "zero"

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_STRUCT = re.compile(r"^struct (\w+) \{\s*?\n(.*?)^\};", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^\s*(?:struct )?(\w+) (\w+)(?:\[(\d+)\])?;$")
_MAP = re.compile(r"^MAP\((.*?)\);$", re.MULTILINE | re.DOTALL)
_RING = re.compile(r"^RING\((\w+), (\d+)\);$", re.MULTILINE)


@dataclass(frozen=True)
class Layout:
    """One struct. Numbers are in host order; addresses, ports and arrays are bytes."""

    name: str
    fields: tuple[str, ...]
    kinds: tuple[str, ...]
    """Of the fields: the type, for an array with its count: `u8[6]`."""
    packing: struct.Struct

    @property
    def size(self) -> int:
        return self.packing.size

    def pack(self, **values: int | bytes) -> bytes:
        """Every field but padding must be given. Raises KeyError for one too few or too many, struct.error for size."""
        ordered = [0 if field == PADDING else values.pop(field) for field in self.fields]
        if values:
            raise KeyError(f"struct {self.name} has no {', '.join(values)}")
        return self.packing.pack(*ordered)

    def unpack(self, packed: bytes) -> dict[str, int | bytes]:
        return dict(zip(self.fields, self.packing.unpack(packed), strict=True))


@dataclass(frozen=True)
class MapShape:
    """One line of maps.h: bcc's name of the kind, the types, and the number of entries."""

    kind: str
    key: str
    value: str
    name: str
    entries: int
    flags: str


@dataclass(frozen=True)
class Shapes:
    """Everything that a layout's text says."""

    structs: Mapping[str, Layout]
    maps: Mapping[str, MapShape]
    rings: Mapping[str, int]


def read_shapes(text: str) -> Shapes:
    """Of layout.h and maps.h in one text. Raises ValueError for what is outside layout.h's grammar."""
    return Shapes(read_layouts(text), read_maps(text), read_rings(text))


def read_layouts(header: str) -> dict[str, Layout]:
    """Each struct by its name, in order of declaration. Raises ValueError for what is outside layout.h's grammar."""
    found: dict[str, Layout] = {}
    for name, body in _STRUCT.findall(_COMMENT.sub("", header)):
        fields, kinds, codes = [], [], []
        for line in filter(str.strip, body.splitlines()):
            match = _FIELD.match(line.rstrip())
            if match is None:
                raise ValueError(f"layout.h: struct {name}: {line.strip()!r} is outside the grammar")
            kind, field, count = match.groups()
            fields.append(field)
            kinds.append(kind if count is None else f"{kind}[{count}]")
            codes.append(_code(kind, int(count or 1), is_array=count is not None, found=found))
        found[name] = Layout(name, tuple(fields), tuple(kinds), struct.Struct("=" + "".join(codes)))
    missed = set(re.findall(r"^struct (\w+)", header, re.MULTILINE)) - found.keys()
    if missed:
        raise ValueError(f"layout.h: struct {min(missed)} is outside the grammar")
    return found


def read_maps(header: str) -> dict[str, MapShape]:
    """Each map by its name, in order of declaration."""
    found = {}
    for arguments in _MAP.findall(_COMMENT.sub("", header)):
        kind, key, value, name, entries, flags = (word.strip() for word in arguments.split(","))
        key, value = key.removeprefix("struct "), value.removeprefix("struct ")
        found[name] = MapShape(kind.strip('"'), key, value, name, int(entries), flags)
    return found


def read_rings(header: str) -> dict[str, int]:
    """Bytes of each ring by its name."""
    return {name: int(size) for name, size in _RING.findall(_COMMENT.sub("", header))}


def _code(kind: str, count: int, *, is_array: bool, found: dict[str, Layout]) -> str:
    if kind in _CODES and not is_array:
        return _CODES[kind]
    if kind == "u8":
        return f"{count}s"
    size = _NETWORK.get(kind) or (found[kind].size if kind in found else 0)
    if size == 0:
        raise ValueError(f"layout.h: {kind} is outside the grammar")
    return f"{size * count}s"
