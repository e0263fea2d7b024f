# SPDX-License-Identifier: Apache-2.0
"""What a lab consists of and which address each part has. Pure: a topology is a value, its plan is derived from it.

    node n              192.168.77.<n>/24      fd00:77::<n>/64       on the inter-node link
    pod k of node n     10.244.<n>.<k>         fd00:244:<n>::<k>     behind a veth of its own, routed or on a bridge
    control             192.168.77.250/24      fd00:77::250/64       where a control plane runs
    outside             192.168.77.251/24      fd00:77::251/64       a host that is neither node nor pod (optional)

Numbers are written as decimal text in both families, so that 10.244.1.12 and fd00:244:1::12 are visibly one pod.
A name is unique in its lab, whatever its Kubernetes namespace, because it names the network namespace: `na-<name>`.
"""

import dataclasses
import enum
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Self

from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip

CONTROL = "control"
OUTSIDE = "outside"
WIRE = "wire"
BRIDGE = "bridge"
UPLINK = "uplink"
POD_BRIDGE = "cni0"
RESERVED = frozenset({CONTROL, OUTSIDE, WIRE, BRIDGE, UPLINK, POD_BRIDGE})

POD_DEVICE = "eth0"
"""Without the prefix, since a pod's programs look for it; it is only ever seen inside the pod's own namespace."""

CONTROL_NUMBER = 250
OUTSIDE_NUMBER = 251
MAX_NODES = 200
FIRST_POD_NUMBER = 2  # .1 is where a bridged pod network has its gateway
LAST_POD_NUMBER = 254

DEVICE_NAME_LENGTH = 15  # IFNAMSIZ without its zero byte
MINIMUM_MTU = 1280  # RFC 8200 §5: below it the kernel switches IPv6 off on the device

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class PodNetwork(enum.StrEnum):
    """How the pods of all nodes are attached: the modules of these names."""

    ROUTED = "routed"
    BRIDGED = "bridged"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeSpec:
    name: str
    sysctls: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Set in the node's namespace before it has devices, such as {"net.ipv4.conf.all.rp_filter": "2"}."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodSpec:
    name: str
    node: str
    namespace: str = "default"
    service_account: str = "default"
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PodPlace:
    """A pod with its number on its node, and so its addresses."""

    spec: PodSpec
    node_number: int
    number: int

    @property
    def ips(self) -> tuple[Ip, Ip]:
        return Ip(f"10.244.{self.node_number}.{self.number}"), Ip(f"fd00:244:{self.node_number}::{self.number}")


@dataclasses.dataclass(frozen=True)
class HostPlace:
    """Something with a leg on the inter-node link: a node, the control plane, the outside host."""

    name: str
    number: int

    @property
    def ips(self) -> tuple[Ip, Ip]:
        return Ip(f"192.168.77.{self.number}"), Ip(f"fd00:77::{self.number}")

    @property
    def pod_blocks(self) -> tuple[str, str]:
        """The blocks of a node's pods; every other host on the link has a route to them by this node."""
        return f"10.244.{self.number}.0/24", f"fd00:244:{self.number}::/64"


@dataclasses.dataclass(frozen=True)
class Topology:
    nodes: tuple[NodeSpec, ...]
    pods: tuple[PodPlace, ...]
    mtu: int
    has_outside: bool
    pod_network: PodNetwork

    @classmethod
    def of(
        cls,
        nodes: Iterable[str | NodeSpec],
        pods: Iterable[PodSpec] = (),
        *,
        mtu: int = 1500,
        outside: bool = False,
        pod_network: PodNetwork = PodNetwork.ROUTED,
    ) -> Self:
        """Raises ConfigError for names that are not DNS labels, are used twice or reserved, and for unknown nodes."""
        specs = tuple(NodeSpec(name=node) if isinstance(node, str) else node for node in nodes)
        if not 1 <= len(specs) <= MAX_NODES:
            raise ConfigError(f"a lab of {len(specs)} nodes", check=f"1 to {MAX_NODES} nodes are possible.")
        if not MINIMUM_MTU <= mtu <= 65535:
            raise ConfigError(f"MTU {mtu}", check=f"{MINIMUM_MTU} (the least for IPv6) to 65535 is possible.")
        topology = cls((), (), mtu, outside, pod_network)
        for node in specs:
            _demand_usable(node.name, topology._names())
            topology = dataclasses.replace(topology, nodes=(*topology.nodes, node))
        for pod in pods:
            topology = topology.with_pod(pod)
        return topology

    def with_pod(self, spec: PodSpec) -> Self:
        """The pod gets the lowest number that is free on its node, so a successor may inherit an address."""
        _demand_usable(spec.name, self._names())
        node = self.node_place(spec.node).number
        taken = {place.number for place in self.pods if place.node_number == node}
        free = [number for number in range(FIRST_POD_NUMBER, LAST_POD_NUMBER + 1) if number not in taken]
        if not free:
            raise ConfigError(f"node {spec.node} is full", check=f"A node has room for {len(taken)} pods.")
        return dataclasses.replace(self, pods=(*self.pods, PodPlace(spec, node, free[0])))

    def without_pod(self, name: str) -> Self:
        self.pod_place(name)
        return dataclasses.replace(self, pods=tuple(place for place in self.pods if place.spec.name != name))

    def node_place(self, name: str) -> HostPlace:
        for number, node in enumerate(self.nodes, start=1):
            if node.name == name:
                return HostPlace(name, number)
        raise ConfigError(f"the lab has no node {name!r}", check=f"It has {self._list(self.nodes)}.")

    def pod_place(self, name: str) -> PodPlace:
        for place in self.pods:
            if place.spec.name == name:
                return place
        raise ConfigError(
            f"the lab has no pod {name!r}", check=f"It has {self._list(place.spec for place in self.pods)}."
        )

    @property
    def hosts(self) -> tuple[HostPlace, ...]:
        """Everything on the inter-node link: nodes first, in their order."""
        others = [HostPlace(CONTROL, CONTROL_NUMBER)]
        if self.has_outside:
            others.append(HostPlace(OUTSIDE, OUTSIDE_NUMBER))
        return (*(self.node_place(node.name) for node in self.nodes), *others)

    def _names(self) -> set[str]:
        return {node.name for node in self.nodes} | {place.spec.name for place in self.pods}

    @staticmethod
    def _list(specs: Iterable[NodeSpec | PodSpec]) -> str:
        return ", ".join(spec.name for spec in specs) or "none"


def netns_name(run: int, name: str) -> str:
    """Run 1 has the plain names, which an operator types; a run beside it is told apart by its number."""
    return f"na-{name}" if run == 1 else f"na-{name}.{run}"


def device_name(name: str) -> str:
    """`na-<name>`, or a shortened form with a digest: a device's name has 15 characters, a pod's up to 63."""
    plain = f"na-{name}"
    if len(plain) <= DEVICE_NAME_LENGTH:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:5]
    return f"{plain[: DEVICE_NAME_LENGTH - len(digest) - 1]}-{digest}"


def _demand_usable(name: str, taken: set[str]) -> None:
    if not _LABEL.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a node or pod", check="Lower-case letters, digits and inner hyphens.")
    if name in RESERVED:
        raise ConfigError(f"{name!r} is a name of the lab's own", check=f"Not possible: {', '.join(sorted(RESERVED))}.")
    if name in taken:
        raise ConfigError(f"the lab already has {name!r}", check="A name is unique in its lab, across namespaces.")
