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
from nodeagent.kernel import discovery
from nodeagent.kernel.discovery import choose, find_pod_device, gateway_mac
from nodeagent.kernel.netlink import NO_NAMESPACE, Device, NotCapturable, explained

NO_LINK = cast("IPRoute", None)
OWN = "/proc/thread-self/ns/net"


def test_a_namespace_that_is_gone_costs_its_pod_the_capture(tmp_path: Path) -> None:
    for path in (tmp_path / "gone", tmp_path):
        found = find_pod_device(NO_LINK, {}, str(path), ())
        assert isinstance(found, NotCapturable)
        assert found.reason == "NO_NETNS"


def test_without_descriptors_no_pod_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("nodeagent.kernel.discovery.os.open", refuse)
    with pytest.raises(KernelError, match="Too many open files"):
        find_pod_device(NO_LINK, {}, OWN, ())


@pytest.mark.parametrize(("code", "is_shortage"), [(errno.ENOBUFS, True), (errno.EPERM, False)])
def test_what_netlink_says_is_told_apart_too(monkeypatch: pytest.MonkeyPatch, code: int, *, is_shortage: bool) -> None:
    def ask(*_arguments: object) -> int:
        with explained("asking"):
            raise NetlinkError(code)

    monkeypatch.setattr(discovery, "namespace_id", ask)
    if is_shortage:
        with pytest.raises(KernelError, match="No buffer space"):
            find_pod_device(NO_LINK, {}, OWN, ())
    else:
        assert isinstance(find_pod_device(NO_LINK, {}, OWN, ()), NotCapturable)


def _device(index: int, name: str = "", *, kind: str = "veth", peer: int = 0, master: int = 0) -> Device:
    return Device(
        index=index,
        name=name or f"v{index}",
        kind=kind,
        mac=bytes((2, 0, 0, 0, 0, index)),
        mtu=1500,
        master=master,
        peer=peer,
        peer_namespace=NO_NAMESPACE,
        is_up=True,
        is_noarp=False,
    )


@pytest.mark.parametrize(
    ("reached_by", "chosen"),
    [
        pytest.param(12, 12, id="the device by which the node reaches its address"),
        pytest.param(99, 11, id="another device is no proof: CNI's name"),
        pytest.param(0, 11, id="no route: CNI's name"),
    ],
)
def test_of_several_devices(reached_by: int, chosen: int) -> None:
    ours = [_device(10, peer=2), _device(11, peer=3), _device(12, peer=4)]
    theirs = {2: _device(2, "net1"), 3: _device(3, "eth0"), 4: _device(4, "net2")}
    assert choose(ours, theirs, reached_by).index == chosen


def test_without_any_name_the_oldest() -> None:
    theirs = {2: _device(2, "net1"), 3: _device(3, "net2")}
    assert choose([_device(11, peer=3), _device(10, peer=2)], theirs, 0).index == 10


def test_the_gateway_is_the_bridge_where_there_is_one() -> None:
    bridge, bond = _device(5, kind="bridge"), _device(6, kind="bond")
    devices = {5: bridge, 6: bond}
    assert gateway_mac(_device(10, master=5), devices) == bridge.mac
    assert gateway_mac(_device(10, master=6), devices) == _device(10).mac
    assert gateway_mac(_device(10), devices) == _device(10).mac
