# SPDX-License-Identifier: Apache-2.0
"""What can be seen without root: errors carry the call and the number. The rest is proven in tests/e2e/test_lab.py."""

import errno
from pathlib import Path

import pytest

from nodeagent.kernel import netns


def test_a_bad_descriptor_is_an_os_error_that_names_the_call() -> None:
    with pytest.raises(OSError, match=r"setns\(-1\)") as caught:
        netns.setns(-1, netns.CLONE_NEWNET)
    assert caught.value.errno == errno.EBADF


def test_a_missing_namespace_is_not_entered(tmp_path: Path) -> None:
    before = Path(netns.OWN_NETNS).stat().st_ino
    with pytest.raises(FileNotFoundError), netns.enter_netns(tmp_path / "gone"):
        pytest.fail("the block must not run")
    assert Path(netns.OWN_NETNS).stat().st_ino == before


def test_unmounting_what_is_not_mounted_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="umount") as caught:
        netns.unmount(tmp_path / "nothing")
    assert str(tmp_path) in str(caught.value)
    assert caught.value.errno in {errno.ENOENT, errno.EPERM}
