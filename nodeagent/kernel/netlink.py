# SPDX-License-Identifier: Apache-2.0
"""Facts about devices and addresses, by rtnetlink. pyroute2's messages stop here; nothing here changes anything.

A pod's device is found from the node's side: the kernel says in which namespace a veth's peer lives, and nothing that a
pod does inside its own namespace (devices it makes, indexes it chooses, names it gives) can point to another pod.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nodeagent.errors import KernelError
from nodeagent.kernel.netns import OWN_NETNS, enter_netns
from nodeagent.model.address import Ip, parse_ip

POD_DEVICE = "eth0"
"""CNI's name for a pod's main device; looked at only when a pod has several."""
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


def find_pod_device(link: IPRoute, devices: Mapping[int, Device], netns: str) -> PodDevice | NotCapturable:
    """`devices` of the node, read before: reading them is what makes the kernel number their peers' namespaces.

    Raises KernelError when this machine is short of something: a pod that cannot be looked at has not left, and letting
    it go would open it.
    """
    try:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        _raise_shortage(error, netns)
        return NotCapturable("NO_NETNS", f"its network namespace cannot be opened: {netns}: {error.strerror}")
    try:
        if os.fstat(descriptor).st_dev != Path(OWN_NETNS).stat().st_dev:
            return NotCapturable("NO_NETNS", f"nothing is mounted there: {netns}")
        return _find_pod_device(link, devices, descriptor)
    except (OSError, KernelError) as error:
        _raise_shortage(error, netns)
        return NotCapturable("NO_NETNS", f"its network namespace cannot be looked at: {netns}: {error}")
    finally:
        os.close(descriptor)


_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR})


def _raise_shortage(error: OSError | KernelError, netns: str) -> None:
    cause = error.__cause__ if isinstance(error, KernelError) else error
    number = cause.code if isinstance(cause, NetlinkError) else getattr(cause, "errno", 0)
    if number in _SHORTAGES:
        raise KernelError(
            f"{netns} cannot be looked at: {os.strerror(number)}", check="Limits of descriptors and memory."
        ) from error


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns pyroute2's errors into ours."""
    try:
        yield
    except NetlinkError as error:
        raise KernelError(f"{what}: {os.strerror(error.code)}") from error


def _find_pod_device(link: IPRoute, devices: Mapping[int, Device], descriptor: int) -> PodDevice | NotCapturable:
    number = namespace_id(link, descriptor)
    ours = [device for device in devices.values() if device.peer and device.peer_namespace == number]
    if number == NO_NAMESPACE or not ours:
        return NotCapturable("NO_DEVICE", "no device of the node leads into its network namespace")
    with enter_netns(descriptor):
        inside = IPRoute()
    with inside:
        theirs = read_devices(inside)
    ours = [device for device in ours if device.kind == "veth" and device.peer in theirs]
    if not ours:
        return NotCapturable("UNSUPPORTED_DEVICE", "the device that leads into its network namespace is no veth")
    main = min(ours, key=lambda device: (theirs[device.peer].name != POD_DEVICE, device.index))
    return PodDevice(main.index, main.name, main.mtu, _gateway_mac(main, devices), theirs[main.peer].mac)


def _gateway_mac(device: Device, devices: Mapping[int, Device]) -> bytes:
    master = devices.get(device.master)
    return master.mac if master is not None and master.kind == "bridge" else device.mac


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
