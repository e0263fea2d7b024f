# SPDX-License-Identifier: Apache-2.0
"""Pods that are bridged: each pod's veth is a port of one bridge per node, as flannel and the CNI plugin `bridge` do.

The pods of a node are neighbours in one subnet, whose gateway is the bridge. The same functions as routed.py.
"""

import os
from pathlib import Path
from typing import Any  # pyroute2 has no types

from nodeagent.lab import netlink
from nodeagent.lab.routed import unwire_pod
from nodeagent.lab.topology import POD_BRIDGE, POD_DEVICE, HostPlace, PodPlace, device_name
from nodeagent.model.address import Ip

__all__ = ["BRIDGE_DEVICE", "gateways", "unwire_pod", "wire_pod"]

BRIDGE_DEVICE = device_name(POD_BRIDGE)
_LENGTHS = (24, 64)


def gateways(node: HostPlace) -> tuple[Ip, Ip]:
    """The bridge's addresses; what the node itself sends to its pods comes from them too."""
    return Ip(f"10.244.{node.number}.1"), Ip(f"fd00:244:{node.number}::1")


def wire_pod(place: PodPlace, netns: Path, node: HostPlace, node_netns: Path, mtu: int) -> None:
    device = device_name(place.spec.name)

    def on_node(ip: Any) -> None:
        bridge = netlink.find(ip, BRIDGE_DEVICE) or _add_bridge(ip, node, mtu)
        netlink.add_pair(ip, device, POD_DEVICE, netns, mtu)
        port = netlink.index(ip, device)
        ip.link("set", index=port, master=bridge, state="up")
        # As flannel has it: else a port gets back no frame of its own, and no pod reaches itself by a Service.
        ip.brport("set", index=port, mode=1)

    def in_pod(ip: Any) -> None:
        netlink.set_up(ip, "lo")
        index = netlink.set_up(ip, POD_DEVICE)
        for address, length in zip(place.ips, _LENGTHS, strict=True):
            ip.addr("add", index=index, address=address, prefixlen=length, flags=netlink.NODAD if length == 64 else 0)
        for gateway, everything in zip(gateways(node), ("0.0.0.0/0", "::/0"), strict=True):
            ip.route("add", dst=everything, gateway=gateway, oif=index)

    netlink.with_netlink(on_node, node_netns)
    netlink.with_netlink(in_pod, netns)


def _add_bridge(ip: Any, node: HostPlace, mtu: int) -> int:
    """Comes with the node's first pod, as with that plugin, and stays."""
    index = netlink.add_bridge(ip, BRIDGE_DEVICE)
    # A MAC that was set stays; else it would be the lowest of the ports' and change with them. Another than it has: a
    # bridge of Linux 5.10 to which its own MAC is given once more takes in nothing that is for it.
    address = f"02:{os.urandom(5).hex(':')}"
    ip.link("set", index=index, address=address, mtu=mtu, state="up")
    for address, length in zip(gateways(node), _LENGTHS, strict=True):
        ip.addr("add", index=index, address=address, prefixlen=length, flags=netlink.NODAD if length == 64 else 0)
    return index
