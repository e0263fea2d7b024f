# SPDX-License-Identifier: Apache-2.0
"""Errors of ending connections; that they end is tested in tests/kernel/test_sock_destroy.py."""

from pathlib import Path

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel.sock_destroy import End, destroy_sockets
from nodeagent.model.address import Ip


def test_a_namespace_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="cannot be ended: No such file") as caught:
        destroy_sockets(str(tmp_path / "gone"), [End(Ip("10.0.0.1"), 1, Ip("10.0.0.2"), 2)])
    assert "pod gone" in caught.value.check
