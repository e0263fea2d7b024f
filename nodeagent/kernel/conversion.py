# SPDX-License-Identifier: Apache-2.0
"""Rows of one layout as rows of another, field by name: what both have is carried over, the rest is zero or dropped.

Pure. A field of both is carried when its kind allows it: numbers of any width (cut to the new one), arrays of bytes of
any length (filled with zeros, or cut), everything else only as it was. A struct inside another must be the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nodeagent.kernel.layout import NUMBERS, PADDING, Layout, MapShape, Shapes

RECORDS = {"flow_events": "flow_report"}
"""What a ring holds, which its declaration does not say."""

_Value = int | bytes
_Convert = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Conversion:
    """Of one map's rows. A per-CPU map's value is that of one CPU."""

    former: MapShape
    shape: MapShape
    key_bytes: int
    value_bytes: int
    """Both of the former map."""
    key: _Convert
    value: _Convert


def can_be_shared(former: Shapes, shapes: Shapes, name: str) -> bool:
    """Whether the former map can be used as it is: then nothing has to be carried over."""
    if name in shapes.rings:
        record = RECORDS.get(name, "")
        return former.rings.get(name) == shapes.rings[name] and _is_same(former, shapes, record)
    shape = shapes.maps[name]
    return former.maps.get(name) == shape and all(_is_same(former, shapes, kind) for kind in (shape.key, shape.value))


def conversion(former: Shapes, shapes: Shapes, name: str) -> Conversion | None:
    """None when there is no such map on one side, or no way from its rows to ours."""
    old, new = former.maps.get(name), shapes.maps.get(name)
    if old is None or new is None:
        return None
    key, value = _between(former, shapes, old.key, new.key), _between(former, shapes, old.value, new.value)
    if key is None or value is None:
        return None
    return Conversion(old, new, _size(former, old.key), _size(former, old.value), key, value)


def _is_same(former: Shapes, shapes: Shapes, kind: str) -> bool:
    if kind in NUMBERS:
        return True
    old, new = former.structs.get(kind), shapes.structs.get(kind)
    if old is None or new is None or (old.fields, old.kinds) != (new.fields, new.kinds):
        return False
    return all(_is_same(former, shapes, _element(inner)) for inner in new.kinds if _element(inner) in shapes.structs)


def _between(former: Shapes, shapes: Shapes, old: str, new: str) -> _Convert | None:
    if old in NUMBERS and new in NUMBERS:
        return lambda packed: NUMBERS[new].pack(NUMBERS[old].unpack(packed)[0] & _greatest(new))
    if old not in former.structs or new not in shapes.structs:
        return None
    source, target = former.structs[old], shapes.structs[new]
    if (source.fields, source.kinds) == (target.fields, target.kinds) and _is_same(former, shapes, new):
        return lambda packed: packed
    carried = {
        field: carry
        for field in target.fields
        if field != PADDING
        and field in source.fields
        and (carry := _carry(former, shapes, _kind(source, field), _kind(target, field)))
    }
    empty = {field: _empty(shapes, _kind(target, field)) for field in target.fields if field != PADDING}

    def convert(packed: bytes) -> bytes:
        found = source.unpack(packed)
        return target.pack(**(empty | {field: carry(found[field]) for field, carry in carried.items()}))

    return convert


def _carry(former: Shapes, shapes: Shapes, old: str, new: str) -> Callable[[_Value], _Value] | None:
    if old in NUMBERS and new in NUMBERS:
        return lambda value: int(value) & _greatest(new)
    if old.startswith("u8[") and new.startswith("u8["):
        length = _size(shapes, new)
        return lambda value: bytes(value)[:length].ljust(length, b"\0")
    if old == new and (_element(new) not in shapes.structs or _is_same(former, shapes, _element(new))):
        return lambda value: value
    return None


def _kind(layout: Layout, field: str) -> str:
    return layout.kinds[layout.fields.index(field)]


def _element(kind: str) -> str:
    return kind.partition("[")[0]


def _empty(shapes: Shapes, kind: str) -> _Value:
    return 0 if kind in NUMBERS else bytes(_size(shapes, kind))


def _size(shapes: Shapes, kind: str) -> int:
    element, _, count = kind.partition("[")
    if element in shapes.structs:
        size = shapes.structs[element].size
    else:
        size = NUMBERS[element].size if element in NUMBERS else int(element.removeprefix("be")) // 8
    return size * int(count.removesuffix("]") or 1) if count else size


def _greatest(kind: str) -> int:
    return (1 << 8 * NUMBERS[kind].size) - 1
