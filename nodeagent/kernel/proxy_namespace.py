# SPDX-License-Identifier: Apache-2.0
"""The network namespace of the tunnel workers, joined to the node's by one veth pair: na0 (node), eth0 (proxy).

Made once, adopted afterwards, repaired whenever it is looked at. The node's namespace gets na0 and nothing else: no
address, route, rule, firewall entry or sysctl. A bind mount keeps the namespace when no process is in it.

  1  a thread leaves for a namespace of its own, and mounts that on <run_dir>/proxy.netns
  2  the node's namespace gives it an id, before the veth: making a pair would take one, and then none can be chosen
  3  na0 and eth0: no ARP (the programs write MACs), no IPv6 address generation, up
  4  inside: whatever comes by eth0 is local, whatever is sent goes out by eth0; with the rule for eth0 alone a worker
     needs no capability to bind a pod's address (a source check reads table local, if that is asked first)
  5  sysctls, inside: no reverse-path check; any address may be bound; no TIME_WAIT, which would keep a pod that reuses
     its port waiting and keep us from carrying the port over; no pacing (congestion.py)
"""

import errno
import logging
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nodeagent.errors import KernelError
from nodeagent.kernel import congestion
from nodeagent.kernel.netlink import NO_NAMESPACE, Device, explained, find_device, namespace_id
from nodeagent.kernel.netns import CLONE_NEWNET, MNT_DETACH, MS_BIND, OWN_NETNS, enter_netns, mount, unmount, unshare

log = logging.getLogger(__name__)

NODE_DEVICE = "na0"
PROXY_DEVICE = "eth0"
DEFAULT_MTU = 1500

SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/eth0/rp_filter": "0",
    "net/ipv4/conf/all/src_valid_mark": "0",
    "net/ipv4/ip_nonlocal_bind": "1",
    "net/ipv6/ip_nonlocal_bind": "1",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/eth0/disable_ipv6": "0",
    "net/ipv4/tcp_max_tw_buckets": "0",
    "net/ipv4/tcp_syncookies": "1",
    "net/ipv4/ip_local_port_range": "1024\t65535",
    "net/core/somaxconn": "4096",
}
"""IPv4 settings of a new namespace are copies of the node's, so hostile ones would come along."""

_TABLE_MAIN, _TABLE_LOCAL = 254, 255
_SCOPE_LINK, _SCOPE_HOST = 253, 254
_FLAG_UP, _FLAG_NOARP = 0x1, 0x80
_LOOPBACK = 1
_NO_ADDRESS_GENERATION = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}


@dataclass(frozen=True)
class Crossing:
    """The way between the two namespaces."""

    node_device: int
    """Index of na0."""
    proxy_device: int
    """Index of eth0, in the proxy namespace."""
    namespace: int
    """Id of the proxy namespace, as the node's counts."""


class ProxyNamespace:
    def __init__(self, run_dir: str) -> None:
        self.path = Path(run_dir) / "proxy.netns"
        self._descriptor = -1

    def ensure(self, mtu: int = DEFAULT_MTU) -> Crossing:
        """Makes what is missing and repairs what is not as it should be. Raises KernelError."""
        try:
            self._ensure_mount()
            with IPRoute() as node:
                number = self._ensure_id(node)
                ours = self._ensure_pair(node, number, mtu)
                with self.inside() as proxy:
                    theirs = _ensure_inside(proxy, mtu)
                settings = {**SYSCTLS, "net/ipv4/tcp_congestion_control": congestion.read().near}
                with enter_netns(self._descriptor):  # /proc/sys/net shows the namespace of the thread that looks
                    for name, value in settings.items():
                        _ensure_sysctl(Path("/proc/sys") / name, value)
        except OSError as error:
            raise KernelError(f"the proxy namespace {self.path}: {error}") from error
        return Crossing(ours.index, theirs.index, number)

    @property
    def reference(self) -> Path:
        """A path that leads into it, also while somebody has taken its mount away."""
        if self._descriptor < 0 or self._is_mounted():
            return self.path
        return Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")

    @contextmanager
    def inside(self) -> Iterator[IPRoute]:
        """An rtnetlink socket of the proxy namespace."""
        with enter_netns(self._descriptor):
            proxy = IPRoute()
        with proxy:
            yield proxy

    def remove(self) -> list[str]:
        """Takes away na0 and the mount; what was there, in words. Processes inside stay, without a way out."""
        done = []
        with IPRoute() as node:
            device = find_device(node, NODE_DEVICE)
            if device is not None and device.kind == "veth":
                with explained(f"removing {NODE_DEVICE}"):
                    node.link("del", index=device.index)
                done.append(f"removed the device {NODE_DEVICE}")
        self.close()
        try:
            while is_namespace(self.path):
                unmount(self.path, MNT_DETACH)
                done.append(f"unmounted {self.path}")
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise KernelError(f"the proxy namespace {self.path}: {error}") from error
        return done

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _ensure_mount(self) -> None:
        if self._descriptor >= 0:
            if not self._is_mounted():
                log.warning("%s was unmounted; mounting it again", self.path)
                self.path.touch(mode=0o600)
                mount(f"/proc/self/fd/{self._descriptor}", self.path, flags=MS_BIND)
            return
        if not is_namespace(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
            with ThreadPoolExecutor(1) as thread:  # a thread's namespace ends with it; the mount stays
                thread.submit(_make_namespace, self.path).result()
            log.info("made the proxy namespace %s", self.path)
        if os.path.samestat(self.path.stat(), Path(OWN_NETNS).stat()):
            raise KernelError(f"{self.path} is the node's own network namespace", check="Unmount it.")
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def _is_mounted(self) -> bool:
        return is_namespace(self.path) and os.path.samestat(os.fstat(self._descriptor), self.path.stat())

    def _ensure_id(self, node: IPRoute) -> int:
        number = namespace_id(node, self._descriptor)
        if number == NO_NAMESPACE:
            with explained("giving the proxy namespace an id"):
                node.set_netnsid(fd=self._descriptor)
            number = namespace_id(node, self._descriptor)
        return number

    def _ensure_pair(self, node: IPRoute, number: int, mtu: int) -> Device:
        device = find_device(node, NODE_DEVICE)
        if device is not None and device.kind != "veth":
            raise KernelError(
                f"a device {NODE_DEVICE} exists and is not ours", check=f"Rename it: `ip link show {NODE_DEVICE}`."
            )
        if device is not None and device.peer_namespace != number:
            log.warning("%s leads to a namespace that is gone; making it again", NODE_DEVICE)
            with explained(f"removing {NODE_DEVICE}"):
                node.link("del", index=device.index)
            device = None
        if device is None:
            with explained(f"making {NODE_DEVICE}"):
                peer = {"ifname": PROXY_DEVICE, "net_ns_fd": self._descriptor}
                node.link("add", ifname=NODE_DEVICE, kind="veth", peer=peer)
            device = find_device(node, NODE_DEVICE)
            if device is None:
                raise KernelError(f"{NODE_DEVICE} vanished while it was being made")
        _ensure_device(node, device, mtu)
        return device


def _make_namespace(path: Path) -> None:
    unshare(CLONE_NEWNET)
    mount(OWN_NETNS, path, flags=MS_BIND)


def is_namespace(path: Path) -> bool:
    """Whether one is mounted there. Raises OSError but for a file that is not there."""
    try:
        return path.stat().st_dev == Path(OWN_NETNS).stat().st_dev
    except FileNotFoundError:
        return False


def _ensure_inside(proxy: IPRoute, mtu: int) -> Device:
    device = find_device(proxy, PROXY_DEVICE)
    if device is None:
        raise KernelError(
            f"the proxy namespace has no {PROXY_DEVICE}", check="Run `nodeagent cleanup` and start again."
        )
    with explained("setting up the proxy namespace"):
        proxy.link("set", index=_LOOPBACK, state="up")
    # Before eth0 is up: IPv6 would take an address meanwhile.
    _ensure_device(proxy, device, mtu)
    for family in (socket.AF_INET, socket.AF_INET6) if _has_ipv6() else (socket.AF_INET,):
        _ensure_routes(proxy, family, device.index)
        _ensure_rules(proxy, family)
    return device


def _ensure_device(link: IPRoute, device: Device, mtu: int) -> None:
    if device.is_up and device.is_noarp and device.mtu == mtu:
        return
    with explained(f"setting up {device.name}"):
        changes: dict[str, Any] = {"IFLA_AF_SPEC": _NO_ADDRESS_GENERATION} if _has_ipv6() and not device.is_up else {}
        link.link("set", index=device.index, mtu=mtu, **changes)
        link.link("set", index=device.index, flags=_FLAG_NOARP, change=_FLAG_NOARP)
        link.link("set", index=device.index, flags=_FLAG_UP, change=_FLAG_UP)


def _ensure_routes(proxy: IPRoute, family: socket.AddressFamily, device: int) -> None:
    everything = "0.0.0.0/0" if family == socket.AF_INET else "::/0"
    _add_route(proxy, family=family, dst=everything, oif=device, scope=_SCOPE_LINK, table=_TABLE_MAIN)
    _add_route(proxy, family=family, dst=everything, oif=_LOOPBACK, scope=_SCOPE_HOST, table=_TABLE_LOCAL, type="local")


def _ensure_rules(proxy: IPRoute, family: socket.AddressFamily) -> None:
    with explained("rules of the proxy namespace"):
        found = {rule.get_attr("FRA_PRIORITY") or 0 for rule in proxy.get_rules(family=family)}
        if 10 not in found:
            proxy.rule("add", family=family, priority=10, iifname=PROXY_DEVICE, table=_TABLE_LOCAL)
        if 20 not in found:
            proxy.rule("add", family=family, priority=20, table=_TABLE_MAIN)
        if 0 in found:
            proxy.rule("del", family=family, priority=0, table=_TABLE_LOCAL)


def _add_route(proxy: IPRoute, **route: Any) -> None:
    try:
        proxy.route("add", **route)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise KernelError(f"routes of the proxy namespace: {error}") from error


def _ensure_sysctl(path: Path, value: str) -> None:
    try:
        if path.read_text(encoding="ascii").split() != value.split():
            path.write_text(value, encoding="ascii")
    except FileNotFoundError:
        if "ipv6" not in path.parts:
            raise


def _has_ipv6() -> bool:
    return Path("/proc/net/if_inet6").exists()
