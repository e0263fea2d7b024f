# SPDX-License-Identifier: Apache-2.0
"""The reader of layout.h's grammar. That the compiler agrees with it is shown in tests/kernel/test_loader.py."""

import sys

import pytest

from nodeagent.kernel.layout import PADDING, read_layouts, read_maps, read_rings
from nodeagent.kernel.sources import read_source

HEADER = """
/* struct ignored { u32 in_a_comment; }; */
struct address {
	be32 word[4];
};
struct row { /* why */
	u32 device;	/* a number */
	be16 port;
	u16 zero;
	struct address address;
	u8 mac[6];
	u8 kind;
	u8 flag;
	u64 when;
};
"""
ROW: dict[str, int | bytes] = {
    "device": 1,
    "port": b"\0P",
    "address": b"a" * 16,
    "mac": b"123456",
    "kind": 7,
    "flag": 0,
    "when": 2**63,
}


def test_a_struct_is_packed_and_unpacked_field_by_field() -> None:
    row = read_layouts(HEADER)["row"]
    packed = row.pack(**ROW)
    assert row.size == len(packed) == 4 + 2 + 2 + 16 + 6 + 1 + 1 + 8
    assert {field: value for field, value in row.unpack(packed).items() if field != PADDING} == ROW


def test_numbers_are_in_host_order_and_addresses_are_never_swapped() -> None:
    row = read_layouts(HEADER)["row"]
    packed = row.pack(**ROW)
    assert int.from_bytes(packed[:4], sys.byteorder) == 1
    assert packed[4:6] == b"\0P"


@pytest.mark.parametrize("change", [{"unknown": 1}, {"device": None}], ids=["one too many", "one too few"])
def test_a_field_that_is_not_declared_is_an_error(change: dict[str, int | bytes | None]) -> None:
    values = {name: value for name, value in (ROW | change).items() if value is not None}
    with pytest.raises(KeyError):
        read_layouts(HEADER)["row"].pack(**values)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("\tint device;", id="a type outside the grammar"),
        pytest.param("\tu32 flag : 3;", id="a bit field"),
        pytest.param("\tu32 device, port;", id="two fields a line"),
        pytest.param("\tstruct later field;", id="a struct that is not declared above"),
        pytest.param("\tu32 numbers[3];", id="an array of numbers, whose order would be lost"),
    ],
)
def test_what_is_outside_the_grammar_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match="outside the grammar"):
        read_layouts(f"struct row {{\n{body}\n}};\n")


def test_a_struct_that_the_reader_does_not_see_is_refused() -> None:
    with pytest.raises(ValueError, match="struct hidden"):
        read_layouts("struct hidden { u32 device; };\n")


def test_every_map_of_the_product_has_a_shape_that_is_known() -> None:
    layouts = read_layouts(read_source("layout.h"))
    maps = read_maps(read_source("maps.h"))
    assert len(maps) == 22
    for shape in maps.values():
        assert {shape.key, shape.value} <= {"u32", "u64", *layouts}
        assert len(shape.name) <= 15, "bpftool cuts it"
        assert shape.entries > 0


def test_a_declaration_may_take_two_lines() -> None:
    (shape,) = read_maps('MAP("hash", struct row, u32,\n    rows, 12, 0);\n').values()
    assert (shape.kind, shape.key, shape.value, shape.name, shape.entries) == ("hash", "row", "u32", "rows", 12)


def test_a_ring_has_a_size_that_a_ring_can_have() -> None:
    assert read_rings(read_source("maps.h")) == {"flow_events": 1 << 20}
