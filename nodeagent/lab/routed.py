# SPDX-License-Identifier: Apache-2.0
"""Links, addresses and routes of a lab whose pods are routed: a veth and a host route per pod, as Calico has them.

A bridged pod network would be a module beside this one with the same two functions for pods. pyroute2's objects stop
here. Both ends of a pair are made where they belong, so no device is ever seen in the machine's own namespace.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar  # Any: pyroute2 has no types

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nodeagent.errors import KernelError
from nodeagent.lab.inside import call_inside
from nodeagent.lab.topology import BRIDGE, UPLINK, HostPlace, PodPlace, device_name

Result = TypeVar("Result")

UPLINK_DEVICE = device_name(UPLINK)
BRIDGE_DEVICE = device_name(BRIDGE)
POD_DEVICE = "eth0"
"""Without the prefix, since a pod's programs look for it; it is only ever seen inside the pod's own namespace."""
GATEWAY = ("169.254.1.1", "fe80::ee")
"""What every pod has as its next hop. It is on the node's side of each veth, so no proxy ARP is needed."""

_NODAD = 0x02  # IFA_F_NODAD
_LINK_SCOPE = 253


def wire_hosts(wire: Path, hosts: Iterable[tuple[HostPlace, Path]], mtu: int) -> None:
    """A bridge in the wire's namespace with one port per host. It sends nothing on its own account."""

    def body(ip: Any) -> None:
        ip.link(
            "add",
            ifname=BRIDGE_DEVICE,
            kind="bridge",
            br_stp_state=0,
            br_forward_delay=0,
            br_mcast_snooping=0,  # snooping without a querier would hold back neighbour discovery
        )
        bridge = _index(ip, BRIDGE_DEVICE)
        ip.link("set", index=bridge, state="up", mtu=mtu)
        for place, netns in hosts:
            with _opened(netns) as descriptor:
                peer = {"ifname": UPLINK_DEVICE, "mtu": mtu, "net_ns_fd": descriptor}
                ip.link("add", ifname=device_name(place.name), kind="veth", mtu=mtu, peer=peer)
                ip.link("set", index=_index(ip, device_name(place.name)), master=bridge, state="up")

    _with_netlink(body, wire)


def address_host(place: HostPlace, netns: Path, nodes: Iterable[HostPlace]) -> None:
    """Its own addresses, and a route to the pods of every other node by that node."""

    def body(ip: Any) -> None:
        _up(ip, "lo")
        uplink = _up(ip, UPLINK_DEVICE)
        for address, length in zip(place.ips, (24, 64), strict=True):
            ip.addr("add", index=uplink, address=address, prefixlen=length, flags=_NODAD)
        for node in nodes:
            if node.name != place.name:
                for block, gateway in zip(node.pod_blocks, node.ips, strict=True):
                    ip.route("add", dst=block, gateway=gateway, oif=uplink)

    _with_netlink(body, netns)


def wire_pod(place: PodPlace, netns: Path, node: HostPlace, node_netns: Path, mtu: int) -> None:
    device = device_name(place.spec.name)

    def on_node(ip: Any) -> None:
        with _opened(netns) as descriptor:
            peer = {"ifname": POD_DEVICE, "mtu": mtu, "net_ns_fd": descriptor}
            ip.link("add", ifname=device, kind="veth", mtu=mtu, peer=peer)
        index = _up(ip, device)
        ip.addr("add", index=index, address=GATEWAY[0], prefixlen=32, scope=_LINK_SCOPE)
        ip.addr("add", index=index, address=GATEWAY[1], prefixlen=64, flags=_NODAD)
        for address, length, source in zip(place.ips, (32, 128), node.ips, strict=True):
            # What the node itself sends to its pods (a kubelet's probes) comes from the node's address.
            ip.route(
                "add", dst=f"{address}/{length}", oif=index, prefsrc=source, scope=_LINK_SCOPE if length == 32 else 0
            )

    def in_pod(ip: Any) -> None:
        _up(ip, "lo")
        index = _up(ip, POD_DEVICE)
        for address, length in zip(place.ips, (32, 128), strict=True):
            ip.addr("add", index=index, address=address, prefixlen=length, flags=_NODAD if length == 128 else 0)
        ip.route("add", dst=f"{GATEWAY[0]}/32", oif=index, scope=_LINK_SCOPE)
        for gateway, everything in zip(GATEWAY, ("0.0.0.0/0", "::/0"), strict=True):
            ip.route("add", dst=everything, gateway=gateway, oif=index)

    _with_netlink(on_node, node_netns)
    _with_netlink(in_pod, netns)


def unwire_pod(device: str, node_netns: Path) -> None:
    """Removes the pair at once; leaving it to the end of the pod's namespace would be some time later."""

    def body(ip: Any) -> None:
        ip.link("del", index=_index(ip, device))

    _with_netlink(body, node_netns)


def _up(ip: Any, device: str) -> int:
    index = _index(ip, device)
    ip.link("set", index=index, state="up")
    return index


def _index(ip: Any, device: str) -> int:
    found: list[int] = ip.link_lookup(ifname=device)
    return found[0]


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _with_netlink(body: Callable[[Any], Result], netns: Path) -> Result:
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
