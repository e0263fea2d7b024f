# SPDX-License-Identifier: Apache-2.0
"""A pod that has left, and a machine that cannot look at the moment, are not the same. The rest needs a kernel."""

import errno
import os
from pathlib import Path
from typing import cast

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nodeagent.errors import KernelError
from nodeagent.kernel import netlink
from nodeagent.kernel.netlink import NotCapturable, explained, find_pod_device

NO_LINK = cast("IPRoute", None)
OWN = "/proc/thread-self/ns/net"


def test_a_namespace_that_is_gone_costs_its_pod_the_capture(tmp_path: Path) -> None:
    for path in (tmp_path / "gone", tmp_path):
        found = find_pod_device(NO_LINK, {}, str(path))
        assert isinstance(found, NotCapturable)
        assert found.reason == "NO_NETNS"


def test_without_descriptors_no_pod_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("nodeagent.kernel.netlink.os.open", refuse)
    with pytest.raises(KernelError, match="Too many open files"):
        find_pod_device(NO_LINK, {}, OWN)


@pytest.mark.parametrize(("code", "is_shortage"), [(errno.ENOBUFS, True), (errno.EPERM, False)])
def test_what_netlink_says_is_told_apart_too(monkeypatch: pytest.MonkeyPatch, code: int, *, is_shortage: bool) -> None:
    def ask(*_arguments: object) -> int:
        with explained("asking"):
            raise NetlinkError(code)

    monkeypatch.setattr(netlink, "namespace_id", ask)
    if is_shortage:
        with pytest.raises(KernelError, match="No buffer space"):
            find_pod_device(NO_LINK, {}, OWN)
    else:
        assert isinstance(find_pod_device(NO_LINK, {}, OWN), NotCapturable)
