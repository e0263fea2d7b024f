# SPDX-License-Identifier: Apache-2.0
"""Which descriptors this process has open, by what they are.

A mere count will not do: while a test counts, the collector or a thread of gRPC may close what an earlier one has left.
What is opened, and is still there, can only be the test's own.
"""

import contextlib
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")


def open_files() -> frozenset[str]:
    """Each as its number and what it leads to; `open_files() - before` is what was opened and not closed since."""
    found = set()
    for descriptor in _DESCRIPTORS.iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself, or one that another thread closes
            found.add(f"{descriptor.name} {descriptor.readlink()}")
    return frozenset(found)
