# SPDX-License-Identifier: Apache-2.0
"""Rows of one layout as rows of another."""

import pytest

from nodeagent.kernel.conversion import RECORDS, can_be_shared, conversion
from nodeagent.kernel.layout import Shapes, read_shapes
from nodeagent.kernel.sources import layout_text, read_source

FORMER = """
struct address {
	be32 word[4];
};
struct key {
	struct address address;
	be16 port;
	u16 zero;
};
struct row {
	u32 device;
	u8 kind;
	u8 mac[6];
	u8 flag;
	u64 gone;
};
struct flow_report {
	u64 cookie;
};
MAP("hash", struct key, struct row, rows, 16, 0);
MAP("percpu_array", u32, u64, counts, 8, 0);
RING(flow_events, 4096);
"""
KEY = b"a" * 16 + b"\0P" + bytes(2)


def changed(*changes: tuple[str, str]) -> Shapes:
    text = FORMER
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return read_shapes(text)


@pytest.fixture
def former() -> Shapes:
    return read_shapes(FORMER)


def row(shapes: Shapes, **values: int | bytes) -> bytes:
    return shapes.structs["row"].pack(**values)


OLD: dict[str, int | bytes] = {"device": 7, "kind": 3, "mac": b"123456", "flag": 1, "gone": 9}


def test_the_same_row_is_the_same(former: Shapes) -> None:
    between = conversion(former, changed(), "rows")
    assert between is not None
    assert (between.key(KEY), between.value(row(former, **OLD))) == (KEY, row(former, **OLD))
    assert (between.key_bytes, between.value_bytes) == (20, 20)


def test_a_field_that_came_is_zero_and_one_that_went_is_dropped(former: Shapes) -> None:
    ours = changed(("\tu64 gone;\n", ""), ("\tu32 device;", "\tu64 since;\n\tu32 device;\n\tbe32 mask;"))
    between = conversion(former, ours, "rows")
    assert between is not None
    kept = {name: value for name, value in OLD.items() if name != "gone"}
    assert between.value(row(former, **OLD)) == row(ours, **kept, since=0, mask=bytes(4))


def test_a_field_that_moved_or_grew_keeps_its_value(former: Shapes) -> None:
    ours = changed(("\tu32 device;\n", ""), ("\tu64 gone;", "\tu32 gone;\n\tu64 device;"), ("u8 mac[6]", "u8 mac[8]"))
    between = conversion(former, ours, "rows")
    assert between is not None
    assert between.value(row(former, **OLD)) == row(ours, **(OLD | {"mac": b"123456\0\0"}))


def test_a_number_that_does_not_fit_any_more_is_cut_and_not_an_error(former: Shapes) -> None:
    ours = changed(("\tu32 device;", "\tu8 device;"), ("u8 mac[6]", "u8 mac[2]"))
    between = conversion(former, ours, "rows")
    assert between is not None
    assert between.value(row(former, **(OLD | {"device": 0x107}))) == row(ours, **(OLD | {"device": 7, "mac": b"12"}))


def test_what_means_something_else_now_is_not_carried(former: Shapes) -> None:
    ours = changed(("u8 mac[6]", "be16 mac[3]"), ("\tu8 kind;", "\tu8 kind[1];"))
    between = conversion(former, ours, "rows")
    assert between is not None
    assert between.value(row(former, **OLD)) == row(ours, **(OLD | {"mac": bytes(6), "kind": bytes(1)}))


def test_a_struct_inside_that_changed_is_not_carried(former: Shapes) -> None:
    ours = changed(("\tbe32 word[4];", "\tbe32 word[2];\n\tbe32 last[2];"))
    between = conversion(former, ours, "rows")
    assert between is not None
    assert between.key(KEY) == bytes(16) + b"\0P" + bytes(2)
    assert not can_be_shared(former, ours, "rows")


def test_numbers_alone_are_widened(former: Shapes) -> None:
    between = conversion(former, changed(("u32, u64, counts", "u32, u32, counts")), "counts")
    assert between is not None
    assert between.value((5 << 32 | 7).to_bytes(8, "little")) == (7).to_bytes(4, "little")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(("struct row, rows", "u32, rows"), id="a struct that became a number"),
        pytest.param(("rows, 16", "others, 16"), id="another name"),
    ],
)
def test_without_a_way_there_is_none(former: Shapes, change: tuple[str, str]) -> None:
    assert conversion(former, changed(change), "rows") is None


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        pytest.param(("u32 device;", "u32 device; "), {"rows", "counts", "flow_events"}, id="nothing"),
        pytest.param(("u8 flag;", "u16 flag;"), {"counts", "flow_events"}, id="a field"),
        pytest.param(("u8 flag;", "u8 other;"), {"counts", "flow_events"}, id="a name"),
        pytest.param(("be32 word[4];", "u8 word[16];"), {"counts", "flow_events"}, id="a field of a struct inside"),
        pytest.param(("rows, 16", "rows, 32"), {"counts", "flow_events"}, id="a size"),
        pytest.param(('MAP("hash"', 'MAP("lru_hash"'), {"counts", "flow_events"}, id="a kind"),
        pytest.param(("flow_events, 4096", "flow_events, 8192"), {"rows", "counts"}, id="a ring's size"),
        pytest.param(("u64 cookie;", "u32 cookie;"), {"rows", "counts"}, id="a ring's record"),
    ],
)
def test_only_what_is_declared_alike_is_shared(former: Shapes, change: tuple[str, str], shared: set[str]) -> None:
    ours = changed(change)
    names = {*ours.maps, *ours.rings}
    assert {name for name in names if can_be_shared(former, ours, name)} == shared


def test_a_map_that_was_not_there_is_not_shared(former: Shapes) -> None:
    assert not can_be_shared(changed(('MAP("percpu_array", u32, u64, counts, 8, 0);\n', "")), former, "counts")


def test_every_map_of_the_product_is_shared_with_itself_and_every_ring_has_a_record() -> None:
    ours = read_shapes(layout_text())
    assert all(can_be_shared(ours, ours, name) for name in (*ours.maps, *ours.rings))
    assert RECORDS.keys() == ours.rings.keys()
    assert read_shapes(read_source("layout.h")).structs.keys() == ours.structs.keys()
