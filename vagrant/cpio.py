# SPDX-License-Identifier: Apache-2.0
"""An archive in the format that the kernel unpacks at boot ("newc", Documentation/driver-api/early-userspace)."""

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_END = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)

    @classmethod
    def directory(cls, path: str) -> "Entry":
        return cls(path, stat.S_IFDIR | 0o755)

    @classmethod
    def file(cls, path: str, content: bytes, *, is_program: bool = False) -> "Entry":
        return cls(path, stat.S_IFREG | (0o755 if is_program else 0o644), content)

    @classmethod
    def console(cls) -> "Entry":
        """Opened by the kernel for the first process, before anything is mounted."""
        return cls("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))


def archive(entries: Iterable[Entry]) -> bytes:
    """Folders must come before what lies in them."""
    return b"".join(_record(number, entry) for number, entry in enumerate([*entries, Entry(_END, 0)], start=1))


def _record(number: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    fields = (
        number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.device, len(name), 0,
    )  # fmt: skip
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)
