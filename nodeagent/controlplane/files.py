# SPDX-License-Identifier: Apache-2.0
"""Reads the mesh directory: *.yaml, *.yml and *.json in it, not below it, and no hidden files.

One bad file is a finding of that file; only the directory itself can fail. Never blocks on a pipe or device.
"""

import errno
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from nodeagent.controlplane.catalog import Content
from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.errors import ConfigError

MAX_FILE_BYTES = 16 * 1024 * 1024
"""About ten thousand pods in one file, four seconds of parsing."""
_SUFFIXES = (".yaml", ".yml", ".json")


def is_mesh_file(name: str) -> bool:
    """Editors write .x.yaml.swp, x.yaml~ and 4913: none of these."""
    return name.endswith(_SUFFIXES) and not name.startswith(".")


def read_directory(
    directory: Path, known: Mapping[str, Content], touched: Collection[str] | None
) -> dict[str, Content]:
    """Every file of the directory. Read are those in `touched`, or all (None); others are taken from `known`.

    A file that is neither touched nor known is being written at this moment: it comes with its own event.
    Raises ConfigError when the directory cannot be listed.
    """
    try:
        names = [name for name in os.listdir(directory) if is_mesh_file(name)]  # noqa: PTH208 - names are wanted
    except OSError as error:
        raise ConfigError(
            f"mesh directory {directory}: {_reason(error)}", check="Is the path right, and may this user read it?"
        ) from error
    contents: dict[str, Content] = {}
    for name in names:
        content = read_file(directory / name) if touched is None or name in touched else known.get(name)
        if content is not None:
            contents[name] = content
    return contents


def read_file(path: Path) -> Content | None:
    """None when the file has gone in between."""
    shown = str(path)
    try:
        # O_NONBLOCK: opening a pipe waits for its writer otherwise.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - from a descriptor
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return _unreadable(shown, "MN0001", "not a regular file", "Remove it.")
            if status.st_size > MAX_FILE_BYTES:
                size = f"{status.st_size} bytes, more than {MAX_FILE_BYTES}"
                return _unreadable(shown, "MN0001", size, "Split the file.")
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        if error.errno == errno.ENOENT and not path.is_symlink():
            return None
        return _unreadable(shown, "MN0001", f"cannot be read: {_reason(error)}", "May this user read it?")
    try:
        return Content(shown, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return _unreadable(shown, "MN0002", "not UTF-8", "Save it as UTF-8.", line)


def _unreadable(path: str, code: str, message: str, check: str, line: int = 0) -> Content:
    finding = Finding(path, line, Severity.ERROR, code, "", message, check, is_rejected=True)
    return Content(path, problem=finding)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
