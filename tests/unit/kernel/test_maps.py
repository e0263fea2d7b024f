# SPDX-License-Identifier: Apache-2.0
"""Opening maps that are not there; the rest of maps.py needs a kernel and is used by every test in tests/kernel."""

from pathlib import Path

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel.maps import Maps


def test_missing_pins_are_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=str(tmp_path)):
        Maps(tmp_path)
