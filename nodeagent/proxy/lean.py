# SPDX-License-Identifier: Apache-2.0
"""Imported before everything else in a worker, so that it stays small: msgspec without typing_extensions.

The library takes three names from there, and from `typing` where there is none; they are the same since Python 3.11.
With it come `inspect` and what that needs: 1.4 MB of a worker's own, for nothing. For the same reason no class of a
worker is a dataclass, and a worker reads the two files that it reads with `read_file`: pathlib is 0.7 MB.
"""

import importlib
import sys


def read_file(path: str) -> bytes:
    """Raises OSError."""
    with open(path, "rb") as file:  # noqa: PTH123 - see above
        return file.read()


_UNWANTED = "typing_extensions"

if "msgspec" not in sys.modules and _UNWANTED not in sys.modules:
    sys.modules[_UNWANTED] = None  # type: ignore[assignment]  # as documented: an import of it raises ImportError
    importlib.import_module("msgspec")
    del sys.modules[_UNWANTED]  # whoever else wants it may have it
