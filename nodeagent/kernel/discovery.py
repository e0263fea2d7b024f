# SPDX-License-Identifier: Apache-2.0
"""Which device of the node is a certain pod's: found from the node's side, since identity is the device.

  1  its namespace proves it: the kernel says in which namespace a veth's other end lies, and nothing that a pod does
     inside its own (devices it makes, indexes it chooses, names it gives) can point to another pod
  2  of several that lead there, the one by which the node reaches the pod's address: the route's own device, or the
     port behind which the route's bridge sees that address (its FDB)
  3  without such a route, the one whose other end has CNI's name; then the oldest

A route or an FDB entry proves nothing alone: bridges learn from what pods send, so a forged MAC would lend an identity.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nodeagent.errors import KernelError
from nodeagent.kernel.netlink import (
    NO_NAMESPACE,
    Device,
    NotCapturable,
    PodDevice,
    find_bridge_port,
    find_output_device,
    namespace_id,
    read_devices,
)
from nodeagent.kernel.netns import OWN_NETNS, enter_netns
from nodeagent.model.address import Ip
from nodeagent.model.pod import CaptureReason

POD_DEVICE = "eth0"
"""CNI's name for a pod's main device."""


def find_pod_device(
    link: IPRoute, devices: Mapping[int, Device], netns: str, addresses: Sequence[Ip]
) -> PodDevice | NotCapturable:
    """`devices` of the node, read before: reading them is what makes the kernel number their peers' namespaces.

    Raises KernelError when this machine is short of something: a pod that cannot be looked at has not left, and letting
    it go would open it.
    """
    try:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        _raise_shortage(error, netns)
        return NotCapturable(
            CaptureReason.NO_NETNS, f"its network namespace cannot be opened: {netns}: {error.strerror}"
        )
    try:
        if os.fstat(descriptor).st_dev != Path(OWN_NETNS).stat().st_dev:
            return NotCapturable(CaptureReason.NO_NETNS, f"nothing is mounted there: {netns}")
        return _find_pod_device(link, devices, descriptor, addresses)
    except (OSError, KernelError) as error:
        _raise_shortage(error, netns)
        return NotCapturable(CaptureReason.NO_NETNS, f"its network namespace cannot be looked at: {netns}: {error}")
    finally:
        os.close(descriptor)


def choose(ours: Sequence[Device], theirs: Mapping[int, Device], reached_by: int) -> Device:
    """The pod's main device of those that lead into its namespace. Pure. `reached_by`: row 2, or 0."""
    return min(
        ours,
        key=lambda device: (device.index != reached_by, theirs[device.peer].name != POD_DEVICE, device.index),
    )


def gateway_mac(device: Device, devices: Mapping[int, Device]) -> bytes:
    """What the pod sends to: the bridge's, or the device's own."""
    master = devices.get(device.master)
    return master.mac if master is not None and master.kind == "bridge" else device.mac


_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR})


def _raise_shortage(error: OSError | KernelError, netns: str) -> None:
    cause = error.__cause__ if isinstance(error, KernelError) else error
    number = cause.code if isinstance(cause, NetlinkError) else getattr(cause, "errno", 0)
    if number in _SHORTAGES:
        raise KernelError(
            f"{netns} cannot be looked at: {os.strerror(number)}", check="Limits of descriptors and memory."
        ) from error


def _find_pod_device(
    link: IPRoute, devices: Mapping[int, Device], descriptor: int, addresses: Sequence[Ip]
) -> PodDevice | NotCapturable:
    number = namespace_id(link, descriptor)
    ours = [device for device in devices.values() if device.peer and device.peer_namespace == number]
    if number == NO_NAMESPACE or not ours:
        return NotCapturable(CaptureReason.NO_DEVICE, "no device of the node leads into its network namespace")
    with enter_netns(descriptor):
        inside = IPRoute()
    with inside:
        theirs = read_devices(inside)
    ours = [device for device in ours if device.kind == "veth" and device.peer in theirs]
    if not ours:
        return NotCapturable(
            CaptureReason.UNSUPPORTED_DEVICE, "the device that leads into its network namespace is no veth"
        )
    main = choose(ours, theirs, _reached_by(link, devices, addresses) if len(ours) > 1 else 0)
    return PodDevice(main.index, main.name, main.mtu, gateway_mac(main, devices), theirs[main.peer].mac)


def _reached_by(link: IPRoute, devices: Mapping[int, Device], addresses: Sequence[Ip]) -> int:
    for ip in addresses:
        found = find_output_device(link, ip)
        device = devices.get(found)
        if device is not None and device.kind == "bridge":
            found = find_bridge_port(link, found, ip)
        if found:
            return found
    return 0
