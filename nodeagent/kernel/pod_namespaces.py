# SPDX-License-Identifier: Apache-2.0
"""Which network namespace is a certain pod's, where nobody but the API names its addresses.

The namespaces are the files that the container runtime has mounted in one directory. What a namespace says of its own
addresses is a claim: a pod with CAP_NET_ADMIN gives itself any. So it is weighed against what the node does:

  1  two pods claim one address                                  nobody: one of the two reports is outdated
  2  the node's route to it ends at a device into a namespace    that one, and no other claim counts
  3  the route says nothing of namespaces (a bridge, no route)   the only one that has it; of several, none
  4  nobody has it                                               none yet: asked again

A namespace belongs to one pod. Who was found stays found as long as its namespace is the same, so that a claim which
comes later takes nothing away.
"""

import ipaddress
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from nodeagent.errors import KernelError
from nodeagent.kernel.netlink import (
    NO_NAMESPACE,
    Device,
    explained,
    find_output_device,
    namespace_id,
    read_devices,
    read_node_addresses,
)
from nodeagent.kernel.netns import OWN_NETNS, enter_netns
from nodeagent.model.address import Ip
from nodeagent.model.pod import CaptureReason


@dataclass(frozen=True)
class Namespace:
    """A network namespace as its file was at one moment."""

    path: str
    inode: int
    """By which it is told from another one at the same path."""


@dataclass(frozen=True)
class Claim:
    """A namespace that has wanted addresses."""

    namespace: Namespace
    addresses: frozenset[Ip]


ELSEWHERE = Namespace("", 0)
"""Where a route leads that ends at a namespace outside of the directory."""


@dataclass(frozen=True)
class Evidence:
    claims: tuple[Claim, ...]
    routed: Mapping[Ip, Namespace]
    """Where the node's route to an address ends, if it says so."""


@dataclass(frozen=True)
class Unknown:
    """Why a pod has no namespace yet."""

    reason: str
    """NO_NETNS or ADDRESS_CONTESTED."""


def assign(
    wanted: Mapping[str, Sequence[Ip]], bound: Mapping[str, Sequence[Ip]], seen: Evidence
) -> dict[str, Namespace | Unknown]:
    """Pure. The namespace of each wanted pod, or why there is none.

    Args:
        wanted: addresses of pods without a namespace, by uid.
        bound: addresses of all other pods of this node that live.
        seen: what the node's namespaces and routes say of the wanted addresses.
    """
    holders: dict[Ip, int] = {}
    for addresses in (*wanted.values(), *bound.values()):
        for ip in addresses:
            holders[ip] = holders.get(ip, 0) + 1
    found: dict[str, Namespace | Unknown] = {}
    for uid, addresses in wanted.items():
        is_contested = any(holders[ip] > 1 for ip in addresses)
        found[uid] = Unknown(CaptureReason.ADDRESS_CONTESTED) if is_contested else _assign(frozenset(addresses), seen)
    chosen = [one for one in found.values() if isinstance(one, Namespace)]
    return {
        uid: Unknown(CaptureReason.ADDRESS_CONTESTED) if isinstance(one, Namespace) and chosen.count(one) > 1 else one
        for uid, one in found.items()
    }


def _assign(addresses: frozenset[Ip], seen: Evidence) -> Namespace | Unknown:
    claiming = [claim.namespace for claim in seen.claims if claim.addresses >= addresses]
    ends = {seen.routed[ip] for ip in addresses if ip in seen.routed}
    if ends:
        if len(ends) > 1:
            return Unknown(CaptureReason.ADDRESS_CONTESTED)
        return next((one for one in claiming if one in ends), Unknown(CaptureReason.NO_NETNS))
    if len(claiming) > 1:
        return Unknown(CaptureReason.ADDRESS_CONTESTED)
    return claiming[0] if claiming else Unknown(CaptureReason.NO_NETNS)


def namespace_at(path: str) -> Namespace | None:
    """None when no namespace is mounted there (any more)."""
    try:
        status = Path(path).stat()
        return Namespace(path, status.st_ino) if status.st_dev == Path(OWN_NETNS).stat().st_dev else None
    except OSError:
        return None


def look(directory: str, addresses: frozenset[Ip], taken: Container[Namespace]) -> Evidence:
    """What can be seen of `addresses`: in the namespaces of `directory` but those of other pods, and by the routes.

    Milliseconds for each namespace. Raises KernelError when this machine is short of something, or there is no such
    directory.
    """
    with IPRoute() as node:
        devices = read_devices(node)  # first: it makes the kernel number the namespaces of their other ends
        claims, numbers = list[Claim](), dict[int, Namespace]()
        for namespace in _namespaces(directory):
            number, found = _look_into(node, namespace)
            numbers[number] = namespace
            if found & addresses and namespace not in taken:
                claims.append(Claim(namespace, found & addresses))
        numbers.pop(NO_NAMESPACE, None)
        return Evidence(tuple(claims), dict(_routes(node, devices, numbers, addresses)))


def read_addresses(namespace: Namespace) -> frozenset[Ip]:
    """Those by which others reach it. Believed only before anything runs in it. Raises KernelError."""
    with IPRoute() as node:
        _, found = _look_into(node, namespace)
    addresses = {ip: ipaddress.ip_address(ip) for ip in found}
    return frozenset(ip for ip, one in addresses.items() if not (one.is_loopback or one.is_link_local))


def _routes(
    node: IPRoute, devices: Mapping[int, Device], numbers: Mapping[int, Namespace], addresses: frozenset[Ip]
) -> Iterator[tuple[Ip, Namespace]]:
    for ip in addresses:
        device = devices.get(find_output_device(node, ip))
        if device is not None and device.kind == "veth" and device.peer_namespace != NO_NAMESPACE:
            yield ip, numbers.get(device.peer_namespace, ELSEWHERE)


def _namespaces(directory: str) -> list[Namespace]:
    try:
        paths = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        raise KernelError(
            f"{directory}: {error.strerror}",
            check="Where does the container runtime mount network namespaces? Name it with --netns-dir.",
        ) from error
    found = (namespace_at(entry.path) for entry in paths)
    own = Path(OWN_NETNS).stat().st_ino
    return [namespace for namespace in found if namespace is not None and namespace.inode != own]


def _look_into(node: IPRoute, namespace: Namespace) -> tuple[int, frozenset[Ip]]:
    """How the node counts it, and its addresses. One that goes at this moment has none."""
    try:
        descriptor = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return NO_NAMESPACE, frozenset()
    except OSError as error:
        raise KernelError(f"{namespace.path}: {error.strerror}", check="Has the agent CAP_SYS_ADMIN?") from error
    try:
        if os.fstat(descriptor).st_ino != namespace.inode:
            return NO_NAMESPACE, frozenset()
        with enter_netns(descriptor):
            inside = IPRoute()
        with inside, explained(f"asking {namespace.path} for its addresses"):
            return namespace_id(node, descriptor), read_node_addresses(inside, {})
    except OSError as error:
        raise KernelError(f"{namespace.path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
