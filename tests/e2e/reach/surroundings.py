# SPDX-License-Identifier: Apache-2.0
"""What others put into a node's namespace: the kernel's settings, the CNI's and kube-proxy's rules, a strict firewall.

Nothing here is ours, and nothing here makes room for us: the firewall accepts what a CNI needs for its pods.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nodeagent.lab import bridged
from nodeagent.lab.lab import Lab
from nodeagent.lab.namespaces import Node
from nodeagent.lab.topology import PodNetwork

STRICT, PERMISSIVE = 8080, 9090
"""Ports of every application: who has no identity is refused, or is served."""
NODE_SERVICE = 8099
"""What listens on the nodes themselves."""


@dataclasses.dataclass(frozen=True)
class Configuration:
    network: PodNetwork
    rp_filter: int
    is_hostile: bool = False
    """The settings that break proxies in a node's namespace, and policy DROP on every chain."""
    has_early_demux: bool = True
    has_cookies: bool = False
    """The proxies' listeners answer every SYN with a cookie, as under a flood."""

    def __str__(self) -> str:
        words = [str(self.network), f"rp_filter {self.rp_filter}"]
        words += ["hostile"] * self.is_hostile + ["no early demux"] * (not self.has_early_demux)
        return ", ".join(words + ["SYN cookies"] * self.has_cookies)


CONFIGURATIONS = tuple(
    configuration
    for network in PodNetwork
    for configuration in (
        *(Configuration(network, rp_filter, is_hostile) for is_hostile in (False, True) for rp_filter in (0, 1, 2)),
        Configuration(network, 1, is_hostile=True, has_early_demux=False),
        Configuration(network, 1, has_cookies=True),
    )
)


@dataclasses.dataclass(frozen=True)
class Translation:
    """What is dialled, and where the nodes' NAT leads it."""

    name: str
    port: int
    endpoint: str
    endpoint_port: int
    is_masqueraded: bool = False


def _ports(name: str, endpoint: str, strict: int, permissive: int, *, masquerade: bool = False) -> list[Translation]:
    return [
        Translation(name, strict, endpoint, STRICT, masquerade),
        Translation(name, permissive, endpoint, PERMISSIVE, masquerade),
    ]


NODE_PORTS = (
    *_ports("db", "db", 30080, 30090),
    *_ports("api", "api", 30180, 30190),
    *_ports("db", "db", 31080, 31090, masquerade=True),
    *_ports("api", "api", 31180, 31190, masquerade=True),
)
"""Of both nodes, by kube-proxy."""
HOST_PORTS = tuple(_ports("api", "api", 32080, 32090))
"""Of node-a, by the CNI's portmap."""
SERVICE_IPS = {
    "db-svc": ("10.96.0.10", "fd00:96::10"),
    "api-svc": ("10.96.0.20", "fd00:96::20"),
    "db-bare": ("10.96.0.30", "fd00:96::30"),
}
"""The last is a Service for which no node has a rule: only the mesh knows it."""
SERVICES = (*_ports("db-svc", "db", STRICT, PERMISSIVE), *_ports("api-svc", "api", STRICT, PERMISSIVE))

_RULES = Path("/run/rules.nft")  # on the node's own /run


def apply(lab: Lab, node: Node, configuration: Configuration) -> None:
    """The node's namespace as this configuration has it; what the one before had is gone."""
    rules = "".join(_tables(lab, node, configuration))
    node.call(lambda: _RULES.write_text(rules))
    loaded = node.run(["nft", "-f", _RULES])
    assert loaded.returncode == 0, loaded.stderr
    node.call(lambda: write_sysctls(_sysctls(configuration)))


def write_sysctls(values: Mapping[str, int]) -> None:
    """Of the calling thread's network namespace; `*` stands for every device. A kernel may lack a bridge filter."""
    for name, value in values.items():
        paths = list(Path("/proc/sys/net").glob(name))
        assert paths or name.startswith("bridge"), f"no sysctl {name}"
        for path in paths:
            path.write_text(str(value))


def early_demux(*, is_on: bool) -> dict[str, int]:
    return {"ipv4/ip_early_demux": int(is_on), "ipv4/tcp_early_demux": int(is_on)}


def _sysctls(configuration: Configuration) -> dict[str, int]:
    hostile = int(configuration.is_hostile)
    return {
        "ipv4/conf/*/rp_filter": configuration.rp_filter,
        "ipv4/conf/all/src_valid_mark": hostile,
        "ipv4/fwmark_reflect": hostile,
        "ipv6/fwmark_reflect": hostile,
        "ipv4/tcp_fwmark_accept": hostile,
        "bridge/bridge-nf-call-iptables": hostile,
        "bridge/bridge-nf-call-ip6tables": hostile,
        **early_demux(is_on=configuration.has_early_demux),
    }


# ---- rules ---------------------------------------------------------------------------------------------------------


def _tables(lab: Lab, node: Node, configuration: Configuration) -> Iterator[str]:
    for table in ("nat", "firewall"):
        yield f"table inet {table}\ndelete table inet {table}\n"  # the first makes sure that there is one
    yield _nat(lab, node)
    if configuration.is_hostile:
        yield _firewall(lab, node)


def _nat(lab: Lab, node: Node) -> str:
    translations = "\n".join(_translations(lab, node))
    masquerades = "\n".join(_masquerades(lab))
    return f"""table inet nat {{
        chain prerouting {{
            type nat hook prerouting priority -100;
            {translations}
        }}
        chain output {{
            type nat hook output priority -100;
            {translations}
        }}
        chain postrouting {{
            type nat hook postrouting priority 100;
            meta mark & 0x4000 == 0x4000 masquerade
            {masquerades}
        }}
    }}
    """


def _translations(lab: Lab, node: Node) -> Iterator[str]:
    """A Service's address, a node port, a host port: to their endpoint, in both families."""
    for translation in SERVICES:
        yield from _rules(lab, translation, SERVICE_IPS[translation.name])
    for translation in NODE_PORTS:
        for other in lab.nodes.values():
            yield from _rules(lab, translation, other.ips)
    for translation in HOST_PORTS if node.name == "node-a" else ():
        yield from _rules(lab, translation, node.ips)


def _rules(lab: Lab, translation: Translation, dialled: Sequence[str]) -> Iterator[str]:
    mark = "meta mark set mark or 0x4000 " if translation.is_masqueraded else ""
    for family, ip, endpoint in zip(("ip", "ip6"), dialled, lab.pods[translation.endpoint].ips, strict=True):
        target = f"[{endpoint}]" if family == "ip6" else endpoint
        matched = f"{family} daddr {ip} tcp dport {translation.port}"
        yield f"{matched} {mark}dnat {family} to {target}:{translation.endpoint_port}"


def _masquerades(lab: Lab) -> Iterator[str]:
    """A pod that reaches itself by NAT (kube-proxy), and pods that leave the cluster (the CNI)."""
    for pod in lab.pods.values():
        for family, ip in zip(("ip", "ip6"), pod.ips, strict=True):
            yield f"ct status dnat {family} saddr {ip} {family} daddr {ip} masquerade"
            yield f"{family} saddr {ip} {family} daddr {lab.outside.ips[family == 'ip6']} masquerade"


def _firewall(lab: Lab, node: Node) -> str:
    if lab.topology.pod_network is PodNetwork.BRIDGED:
        names = [bridged.BRIDGE_DEVICE]
    else:
        names = [pod.device for pod in lab.pods.values() if pod.node == node.name]
    devices = ", ".join(f'"{name}"' for name in names)
    usual = "ct state invalid drop; ct state established,related accept; meta l4proto { icmp, ipv6-icmp } accept;"
    return f"""table inet firewall {{
        chain input {{
            type filter hook input priority 0; policy drop; {usual}
            iifname lo accept
            tcp dport {NODE_SERVICE} accept
        }}
        chain output {{
            type filter hook output priority 0; policy drop; {usual}
            accept
        }}
        chain forward {{
            type filter hook forward priority 0; policy drop; {usual}
            iifname {{ {devices} }} accept
            oifname {{ {devices} }} accept
            meta mark & 0x4000 == 0x4000 accept
        }}
    }}
    """
