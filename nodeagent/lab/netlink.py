# SPDX-License-Identifier: Apache-2.0
"""rtnetlink inside the lab's namespaces. pyroute2's objects stop in the modules that lay wires with it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar  # Any: pyroute2 has no types

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nodeagent.errors import KernelError
from nodeagent.lab.inside import call_inside

Result = TypeVar("Result")

NODAD = 0x02  # IFA_F_NODAD
LINK_SCOPE = 253


def with_netlink(body: Callable[[Any], Result], netns: Path) -> Result:
    """`body(netlink)` in this namespace, in a thread of its own: pyroute2 has an event loop per thread."""

    def inside() -> Result:
        with IPRoute() as ip:
            return body(ip)

    try:
        return call_inside(inside, net=netns)
    except NetlinkError as error:
        raise KernelError(
            f"network of {netns.name}: {error}",
            check="Does this kernel have veth, bridge and IPv6 (modprobe veth bridge)?",
        ) from error


def find(ip: Any, device: str) -> int | None:
    found: list[int] = ip.link_lookup(ifname=device)
    return found[0] if found else None


def index(ip: Any, device: str) -> int:
    """Of a device that is there."""
    found = find(ip, device)
    assert found is not None, f"no device {device}"
    return found


def set_up(ip: Any, device: str) -> int:
    """Its index."""
    number = index(ip, device)
    ip.link("set", index=number, state="up")
    return number


def add_bridge(ip: Any, device: str) -> int:
    """Its index. It is down, and forwards from the moment at which it is up."""
    ip.link(
        "add",
        ifname=device,
        kind="bridge",
        br_stp_state=0,
        br_forward_delay=0,
        br_mcast_snooping=0,  # snooping without a querier would hold back neighbour discovery
    )
    return index(ip, device)


def add_pair(ip: Any, ours: str, theirs: str, netns: Path, mtu: int) -> None:
    """A veth, both ends made where they belong: no device is ever seen in the machine's own namespace."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        peer = {"ifname": theirs, "mtu": mtu, "net_ns_fd": descriptor}
        ip.link("add", ifname=ours, kind="veth", mtu=mtu, peer=peer)
    finally:
        os.close(descriptor)
