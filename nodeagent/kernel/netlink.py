# SPDX-License-Identifier: Apache-2.0
"""Facts about devices and addresses, by rtnetlink. pyroute2's messages stop here; nothing here changes anything.

Which of these facts make a device a certain pod's is decided in discovery.py.
"""

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nodeagent.errors import KernelError
from nodeagent.model.address import Ip, parse_ip

NO_NAMESPACE = 0xFFFFFFFF
ALWAYS_NODE = frozenset({Ip("169.254.1.1")})
"""Calico's gateway address: the node answers ARP for it on each pod's device, and no device carries it."""
_SERVICE_DEVICE = "kube-ipvs0"
"""kube-proxy in IPVS mode puts every Service address there: those are the mesh's, not the node's."""


@dataclass(frozen=True)
class Device:
    index: int
    name: str
    kind: str
    """`veth`, `bridge`, …; empty for hardware."""
    mac: bytes
    mtu: int
    master: int
    peer: int
    """A veth: index of its other end; 0 otherwise."""
    peer_namespace: int
    """Id of the namespace of that end, as this one counts; NO_NAMESPACE for the same namespace."""
    is_up: bool
    is_noarp: bool


@dataclass(frozen=True)
class PodDevice:
    """An enrolled pod's device, seen from the node."""

    index: int
    name: str
    mtu: int
    gateway_mac: bytes
    """What the pod's packets are sent to: the bridge's, or the device's own."""
    pod_mac: bytes


@dataclass(frozen=True)
class NotCapturable:
    """Why a pod cannot be captured: one word for machines, one line for people."""

    reason: str
    words: str


def read_devices(link: IPRoute) -> dict[int, Device]:
    with explained("listing the devices"):
        return {device.index: device for device in map(_device, link.get_links())}


def find_device(link: IPRoute, name: str) -> Device | None:
    found = (device for device in read_devices(link).values() if device.name == name)
    return next(found, None)


def read_node_addresses(link: IPRoute, devices: Mapping[int, Device]) -> frozenset[Ip]:
    """Every address that the node answers for, link-local ones included."""
    skipped = {device.index for device in devices.values() if device.name == _SERVICE_DEVICE}
    with explained("listing the addresses"):
        found = [
            message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            for message in link.get_addr()
            if message["index"] not in skipped
        ]
    return ALWAYS_NODE | {parse_ip(address) for address in found if address}


def namespace_id(link: IPRoute, descriptor: int) -> int:
    """How `link`'s namespace counts the one behind `descriptor`; NO_NAMESPACE when it does not yet."""
    with explained("asking for a namespace's id"):
        return int(link.get_netnsid(fd=descriptor)["nsid"])


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns pyroute2's errors into ours."""
    try:
        yield
    except NetlinkError as error:
        raise KernelError(f"{what}: {os.strerror(error.code)}") from error


def find_output_device(link: IPRoute, ip: Ip) -> int:
    """Index of the device by which this namespace sends to `ip`; 0 without a route."""
    try:
        for message in link.route("get", dst=str(ip)):
            return int(message.get_attr("RTA_OIF") or 0)
    except NetlinkError as error:
        if error.code not in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}:
            raise KernelError(f"the route to {ip}: {os.strerror(error.code)}") from error
    return 0


def find_bridge_port(link: IPRoute, bridge: int, ip: Ip) -> int:
    """Index of the port behind which the bridge sees `ip`: its MAC by the neighbours, the port by the FDB. 0: none."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with explained(f"looking for {ip} behind bridge {bridge}"):
        macs = {
            message.get_attr("NDA_LLADDR")
            for message in link.get_neighbours(family=family, ifindex=bridge)
            if message.get_attr("NDA_DST") == str(ip)
        } - {None}
        for message in link.get_neighbours(family=socket.AF_BRIDGE):
            if message.get_attr("NDA_MASTER") == bridge and message.get_attr("NDA_LLADDR") in macs:
                return int(message["ifindex"])
    return 0


_UP, _NOARP = 0x1, 0x80


def _device(message: Any) -> Device:
    kind = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
    namespace = message.get_attr("IFLA_LINK_NETNSID")
    return Device(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind,
        mac=bytes.fromhex((message.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
        mtu=message.get_attr("IFLA_MTU") or 0,
        master=message.get_attr("IFLA_MASTER") or 0,
        peer=message.get_attr("IFLA_LINK") or 0 if kind in {"veth", "netkit"} else 0,
        peer_namespace=NO_NAMESPACE if namespace is None else int(namespace) & NO_NAMESPACE,
        is_up=bool(message["flags"] & _UP),
        is_noarp=bool(message["flags"] & _NOARP),
    )
