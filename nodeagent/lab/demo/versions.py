# SPDX-License-Identifier: Apache-2.0
"""Other versions of this very program, as an upgrade would bring them: a copy with some of its text changed.

A comment in the C makes other programs over the same maps; a field makes another layout, whose maps must take over.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nodeagent
from nodeagent.kernel.sources import bpf_folder


class Change(NamedTuple):
    file: str
    old: str
    new: str


_FIELD = "of_another_version"
OTHER_PROGRAMS = (Change("bpf/from_pod.c", "int from_pod(", "/* Of another version. */\nint from_pod("),)
OTHER_SETTINGS = (
    Change("bpf/layout.h", "\tu64 secret;", f"\tu64 {_FIELD};\n\tu64 secret;"),
    Change("bpf/layout.h", "sizeof(struct settings) ==", "sizeof(struct settings) - 8 =="),
    Change("nodeagent/kernel/codings.py", "    is_settling: int", f"    {_FIELD}: int = 0\n    is_settling: int"),
)
"""Another layout: settings are converted, and every other map is shared."""
OTHER_FLOWS = (
    Change("bpf/layout.h", "struct flow {\n", f"struct flow {{\n\tu64 {_FIELD};\n"),
    Change("bpf/layout.h", "sizeof(struct flow) ==", "sizeof(struct flow) - 8 =="),
)
"""Another layout: those of open connections are converted, while new ones come."""
OTHER_PACKAGE = (
    Change("nodeagent/version.py", 'version("nodeagent")', 'version("nodeagent") + ".of-another-version"'),
)
"""Another release, whose workers are replaced by the next agent's and give them all that is open."""
OTHER_HANDOVER = (
    *OTHER_PACKAGE,
    Change("nodeagent/hbone/snapshot.py", "VERSION = 2\n", "VERSION = 99\n"),
    Change(
        "nodeagent/hbone/snapshot.py",
        "    id: int\n    receive_left",
        f"    {_FIELD}: int\n    id: int\n    receive_left",
    ),
    Change("nodeagent/hbone/stream.py", "StreamSnapshot(\n", "StreamSnapshot(\n            7,\n"),
)
"""Another release, in whose snapshots a stream has a field more: neither can read the other's."""


@dataclass(frozen=True)
class Version:
    """Made by `make_version`; without a folder it is the one that runs."""

    folder: Path | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """With which Python runs this version, wherever it is started, and so do its children."""
        if self.folder is None:
            return os.environ
        return {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}


THIS_VERSION = Version()


def make_version(folder: Path, changes: tuple[Change, ...]) -> Version:
    """Raises ValueError when there is nothing to change at one of the places."""
    package = Path(nodeagent.__file__).resolve().parent
    shutil.copytree(package, folder / "nodeagent", ignore=shutil.ignore_patterns("bpf"))
    shutil.copytree(bpf_folder(), folder / "bpf")
    for change in changes:
        path = folder / change.file
        text = path.read_text(encoding="utf-8")
        if text.count(change.old) != 1:
            raise ValueError(f"{change.old!r} is {text.count(change.old)} times in {change.file}")
        path.write_text(text.replace(change.old, change.new), encoding="utf-8")
    return Version(folder)
