# SPDX-License-Identifier: Apache-2.0
"""One text for bcc, and hashes that change when, and only when, they must."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.kernel import sources


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the C that a test may change."""
    for path in sources.bpf_folder().rglob("*.[ch]"):
        copy = tmp_path / path.relative_to(sources.bpf_folder())
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(sources, "bpf_folder", lambda: tmp_path)
    _read_anew()
    yield tmp_path
    _read_anew()


def _read_anew() -> None:
    """A process reads its sources once."""
    for function in (sources.program_text, sources.source_hash, sources.layout_text, sources.layout_hash):
        function.cache_clear()


def test_each_file_is_there_once_and_every_line_is_where_it_claims_to_be() -> None:
    lines = sources.program_text().splitlines()
    assert not [line for line in lines if line.startswith(("#include", "#pragma once"))]
    seen: set[tuple[str, int]] = set()
    name, number = "", 0
    for line in lines:
        marker = re.match(r'#line (\d+) "([\w.]+)"$', line)
        if marker:
            number, name = int(marker[1]), marker[2]
            continue
        if line:
            assert sources.read_source(name).splitlines()[number - 1] == line
            assert (name, number) not in seen
            seen.add((name, number))
        number += 1
    names = {name for name, _ in seen}
    assert names == {path.name for path in sources.bpf_folder().glob("*.[ch]")}


def test_the_programs_come_in_their_order_and_headers_before_them() -> None:
    text = sources.program_text()
    places = [text.index(f"\nint {name}(struct ") for name in sources.PROGRAMS]
    assert places == sorted(places)
    assert text.index("struct flow_key {") < text.index("flows.lookup")


@pytest.mark.parametrize(
    ("name", "old", "new", "is_layout", "is_source"),
    [
        pytest.param("layout.h", "u8 pod_mac[6];", "u8 pod_mac[8];", True, True, id="a field"),
        pytest.param("maps.h", "flows, 65536", "flows, 65537", True, True, id="a size"),
        pytest.param("layout.h", "/* ifindex of na0 */", "/* index */", False, True, id="a comment in the layout"),
        pytest.param("layout.h", "\tu32 slots;", "\tu32   slots;", False, True, id="spacing in the layout"),
        pytest.param("maps.h", "*packets += 1", "*packets += 2", False, True, id="code beside the maps"),
        pytest.param("reasons.h", "IP, but not TCP", "not TCP", False, True, id="words of a reason"),
        pytest.param("include/asm/page.h", "4096", "8192", False, True, id="a shipped header"),
        pytest.param(
            "check/bcc_dialect.h", "#define NULL", "#define NIL", False, False, id="what only the check reads"
        ),
    ],
)
def test_hashes(folder: Path, name: str, old: str, new: str, is_layout: bool, is_source: bool) -> None:  # noqa: FBT001
    before = sources.layout_hash(), sources.source_hash()
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    _read_anew()
    changed = sources.layout_hash() != before[0], sources.source_hash() != before[1]
    assert changed == (is_layout, is_source)
