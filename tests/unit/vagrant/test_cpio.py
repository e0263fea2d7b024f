# SPDX-License-Identifier: Apache-2.0
"""The archive, read back by a reader that follows the specification's fields."""

from vagrant.cpio import Entry, archive


def _read(whole: bytes) -> list[tuple[str, int, bytes, tuple[int, int]]]:
    found, at = [], 0
    while at < len(whole):
        assert whole[at : at + 6] == b"070701"
        fields = [int(whole[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        _, mode, _, _, _, _, size, _, _, major, minor, name_size, _ = fields
        name = whole[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        begin = at + (110 + name_size + 3) // 4 * 4
        found.append((name[:-1].decode(), mode, whole[begin : begin + size], (major, minor)))
        at = begin + (size + 3) // 4 * 4
    assert at == len(whole)
    return found


def test_what_goes_in_comes_out_in_order() -> None:
    entries = [
        Entry.directory("bin"),
        Entry.file("bin/one", b"12345", is_program=True),
        Entry.file("two", b""),
        Entry.console(),
    ]
    assert _read(archive(entries)) == [
        ("bin", 0o040755, b"", (0, 0)),
        ("bin/one", 0o100755, b"12345", (0, 0)),
        ("two", 0o100644, b"", (0, 0)),
        ("dev/console", 0o020600, b"", (5, 1)),
        ("TRAILER!!!", 0, b"", (0, 0)),
    ]
