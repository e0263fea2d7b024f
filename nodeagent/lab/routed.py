# SPDX-License-Identifier: Apache-2.0
"""Pods that are routed: a veth and a host route per pod, as Calico has them. bridged.py is the other way."""

from pathlib import Path
from typing import Any  # pyroute2 has no types

from nodeagent.lab import netlink
from nodeagent.lab.topology import POD_DEVICE, HostPlace, PodPlace, device_name
from nodeagent.model.address import Ip

_GATEWAY = (Ip("169.254.1.1"), Ip("fe80::ee"))
"""It is on the node's side of each veth, so no proxy ARP is needed."""


def gateways(_node: HostPlace) -> tuple[Ip, Ip]:
    """What every pod of this node has as its next hop."""
    return _GATEWAY


def wire_pod(place: PodPlace, netns: Path, node: HostPlace, node_netns: Path, mtu: int) -> None:
    device = device_name(place.spec.name)

    def on_node(ip: Any) -> None:
        netlink.add_pair(ip, device, POD_DEVICE, netns, mtu)
        index = netlink.set_up(ip, device)
        ip.addr("add", index=index, address=_GATEWAY[0], prefixlen=32, scope=netlink.LINK_SCOPE)
        ip.addr("add", index=index, address=_GATEWAY[1], prefixlen=64, flags=netlink.NODAD)
        for address, length, source in zip(place.ips, (32, 128), node.ips, strict=True):
            # What the node itself sends to its pods (a kubelet's probes) comes from the node's address.
            scope = netlink.LINK_SCOPE if length == 32 else 0
            ip.route("add", dst=f"{address}/{length}", oif=index, prefsrc=source, scope=scope)

    def in_pod(ip: Any) -> None:
        netlink.set_up(ip, "lo")
        index = netlink.set_up(ip, POD_DEVICE)
        for address, length in zip(place.ips, (32, 128), strict=True):
            flags = netlink.NODAD if length == 128 else 0
            ip.addr("add", index=index, address=address, prefixlen=length, flags=flags)
        ip.route("add", dst=f"{_GATEWAY[0]}/32", oif=index, scope=netlink.LINK_SCOPE)
        for gateway, everything in zip(_GATEWAY, ("0.0.0.0/0", "::/0"), strict=True):
            ip.route("add", dst=everything, gateway=gateway, oif=index)

    netlink.with_netlink(on_node, node_netns)
    netlink.with_netlink(in_pod, netns)


def unwire_pod(device: str, node_netns: Path) -> None:
    """Removes the pair at once; leaving it to the end of the pod's namespace would be some time later."""

    def body(ip: Any) -> None:
        ip.link("del", index=netlink.index(ip, device))

    netlink.with_netlink(body, node_netns)
