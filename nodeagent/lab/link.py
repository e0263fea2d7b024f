# SPDX-License-Identifier: Apache-2.0
"""The link between the hosts of a lab: a bridge in the wire's namespace, and each host's leg on it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any  # pyroute2 has no types

from nodeagent.lab import netlink
from nodeagent.lab.topology import BRIDGE, UPLINK, HostPlace, device_name

UPLINK_DEVICE = device_name(UPLINK)
BRIDGE_DEVICE = device_name(BRIDGE)


def wire_hosts(wire: Path, hosts: Iterable[tuple[HostPlace, Path]], mtu: int) -> None:
    """A bridge in the wire's namespace with one port per host. It sends nothing on its own account."""

    def body(ip: Any) -> None:
        bridge = netlink.add_bridge(ip, BRIDGE_DEVICE)
        ip.link("set", index=bridge, state="up", mtu=mtu)
        for place, netns in hosts:
            netlink.add_pair(ip, device_name(place.name), UPLINK_DEVICE, netns, mtu)
            ip.link("set", index=netlink.index(ip, device_name(place.name)), master=bridge, state="up")

    netlink.with_netlink(body, wire)


def address_host(place: HostPlace, netns: Path, nodes: Iterable[HostPlace]) -> None:
    """Its own addresses, and a route to the pods of every other node by that node."""

    def body(ip: Any) -> None:
        netlink.set_up(ip, "lo")
        uplink = netlink.set_up(ip, UPLINK_DEVICE)
        for address, length in zip(place.ips, (24, 64), strict=True):
            ip.addr("add", index=uplink, address=address, prefixlen=length, flags=netlink.NODAD)
        for node in nodes:
            if node.name != place.name:
                for block, gateway in zip(node.pod_blocks, node.ips, strict=True):
                    ip.route("add", dst=block, gateway=gateway, oif=uplink)

    netlink.with_netlink(body, netns)
