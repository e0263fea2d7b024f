# SPDX-License-Identifier: Apache-2.0
"""Two proxy namespaces joined by a link, a pod behind each, and an outsider beside both. No eBPF.

What the kernel programs do on a node is done here by routing: everything that arrives in a proxy namespace is local
(nodeagent/kernel/proxy_namespace.py, step 4), and the outbound listener stands on the application's own port. The
namespaces have no names; they end with the test process, however it ends.
"""

import os
import socket
import subprocess
from pathlib import Path

from nodeagent.kernel import congestion
from nodeagent.kernel.netns import CLONE_NEWNET, OWN_NETNS, enter_netns, unshare
from nodeagent.model.address import Ip

PORT = 8080
HBONE = 15008
PATIENCE_SECONDS = 60.0
"""More than what works ever takes, and than any deadline of a worker."""


class Namespace:
    """A network namespace without a name."""

    def __init__(self) -> None:
        with enter_netns(OWN_NETNS):  # only to come back
            unshare(CLONE_NEWNET)
            self.fd = os.open(OWN_NETNS, os.O_RDONLY)
        self.ip("link", "set", "lo", "up")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def ip(self, *words: str) -> None:
        with enter_netns(self.fd):
            subprocess.run(["ip", *words], check=True)

    def tc(self, *words: str) -> None:
        with enter_netns(self.fd):
            subprocess.run(["tc", *words], check=True)

    def sysctl(self, name: str, value: str) -> None:
        with enter_netns(self.fd):
            Path("/proc/sys", *name.split("/")).write_text(value)

    def link(self, own: str, other: "Namespace", theirs: str, mac: str) -> None:
        """Both ends have one MAC address and no ARP: whatever is sent through arrives as meant for the other end."""
        self.ip(
            "link",
            "add",
            own,
            "address",
            mac,
            "type",
            "veth",
            "peer",
            "name",
            theirs,
            "address",
            mac,
            "netns",
            other.path,
        )
        for namespace, device in ((self, own), (other, theirs)):
            namespace.sysctl(f"net/ipv4/conf/{device}/rp_filter", "0")
            namespace.sysctl(f"net/ipv6/conf/{device}/accept_dad", "0")
            namespace.ip("link", "set", device, "arp", "off", "up")

    def make_socket(self, family: int = socket.AF_INET) -> socket.socket:
        with enter_netns(self.fd):
            return socket.socket(family, socket.SOCK_STREAM)

    def connect(self, address: str, port: int, source_port: int = 0) -> socket.socket:
        """A blocking client with a deadline."""
        sock = self.make_socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(PATIENCE_SECONDS)
        if source_port:
            sock.bind(("::" if ":" in address else "0.0.0.0", source_port))  # noqa: S104 - a pod of our own
        try:
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock

    def is_refused(self, address: str, port: int = PORT) -> bool:
        """A connection there is reset, at once or after it was accepted, without a byte before."""
        try:
            with self.connect(address, port) as client:
                client.recv(1)
        except ConnectionResetError:
            return True
        return False

    def listen(self, port: int = PORT) -> socket.socket:
        sock = self.make_socket(socket.AF_INET6)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::", port))
        sock.listen(64)
        sock.settimeout(PATIENCE_SECONDS)
        return sock


class Pod(Namespace):
    def __init__(self, v4: str, v6: str) -> None:
        super().__init__()
        self.v4, self.v6 = Ip(v4), Ip(v6)
        self.sysctl("net/ipv4/ip_local_port_range", "45001 60999")  # none of those that tests choose

    @property
    def addresses(self) -> tuple[Ip, Ip]:
        return self.v4, self.v6

    def plug(self, proxy: "Proxy", device: str, theirs: str, mac: str) -> None:
        self.link(device, proxy, theirs, mac)
        self.ip("address", "add", f"{self.v4}/32", "dev", device)
        self.ip("address", "add", f"{self.v6}/128", "dev", device, "nodad")
        for family in ("-4", "-6"):
            self.ip(family, "route", "add", "default", "dev", device)
        proxy.ip("route", "add", self.v4, "dev", theirs)
        proxy.ip("route", "add", self.v6, "dev", theirs)
        proxy.take_over(theirs)


class Proxy(Namespace):
    """As the proxy namespace of an agent, but with a device per pod."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in (
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/ip_nonlocal_bind", "1"),
            ("net/ipv6/ip_nonlocal_bind", "1"),
            ("net/ipv4/tcp_max_tw_buckets", "0"),
            ("net/ipv4/tcp_congestion_control", congestion.read().near),
        ):
            self.sysctl(name, value)
        for family in ("-4", "-6"):
            self.ip(family, "rule", "add", "pref", "20", "lookup", "main")
            self.ip(family, "rule", "del", "pref", "0")
            self.ip(family, "route", "add", "local", "default", "dev", "lo", "table", "local")

    def take_over(self, device: str) -> None:
        """Whatever comes in here is for a socket of this namespace."""
        for family in ("-4", "-6"):
            self.ip(family, "rule", "add", "pref", "10", "iif", device, "lookup", "local")

    def listener(self, port: int) -> socket.socket:
        sock = self.listen_socket(port)
        sock.listen(1024)
        return sock

    def listen_socket(self, port: int) -> socket.socket:
        sock = self.make_socket(socket.AF_INET6)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT
        sock.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
        sock.bind(("::", port))
        return sock


class Wires:
    """client - near - far - server, and an outsider at both proxies."""

    def __init__(self) -> None:
        self.near, self.far = Proxy(), Proxy()
        self.client, self.server = Pod("10.1.0.2", "fd00:1::2"), Pod("10.2.0.2", "fd00:2::2")
        self.outsider = Pod("10.3.0.2", "fd00:3::2")
        self.client.plug(self.near, "eth0", "client", "02:00:00:00:00:01")
        self.server.plug(self.far, "eth0", "server", "02:00:00:00:00:02")
        self.near.link("far", self.far, "near", "02:00:00:00:00:03")
        self.near.take_over("far")
        self.far.take_over("near")
        for address in self.server.addresses:
            self.near.ip("route", "add", address, "dev", "far")
        for address in self.client.addresses:
            self.far.ip("route", "add", address, "dev", "near")
        self.outsider.plug(self.near, "eth0", "outsider", "02:00:00:00:00:04")
        self.outsider.link("eth1", self.far, "outsider", "02:00:00:00:00:05")
        self.far.take_over("outsider")
        for address in self.outsider.addresses:
            self.far.ip("route", "add", address, "dev", "outsider")
        for address in self.server.addresses:
            self.outsider.ip("route", "add", address, "dev", "eth1")
