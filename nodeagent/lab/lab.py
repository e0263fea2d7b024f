# SPDX-License-Identifier: Apache-2.0
"""One lab: the nodes, pods and links of a topology as namespaces of this machine, from `with` to its end.

    with Lab(Topology.of(["node-a", "node-b"], [PodSpec(name="web", node="node-a"), ...])) as lab:
        agent = lab.nodes["node-a"].spawn(["nodeagent", "agent", "--node", "node-a", ...])
        connection = lab.pods["web"].connect(lab.pods["db"].ipv4, 5432)

Leaving the block, by whatever way, removes everything; a run that was killed is cleaned by the next start or by
`Lab.clean_all()`. Several labs can run beside each other. Nothing is made in the machine's own network namespace.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from nodeagent.errors import ConfigError, MissingPrivilege, NotPossible
from nodeagent.lab import bridged, build, cgroups, clean, link, routed
from nodeagent.lab.journal import DIRECTORY, Entry, Journal, Kind, living_runs
from nodeagent.lab.namespaces import Host, Namespace, Node, Pod
from nodeagent.lab.signals import deferred, raised_as_exit
from nodeagent.lab.topology import (
    CONTROL,
    OUTSIDE,
    WIRE,
    HostPlace,
    PodNetwork,
    PodPlace,
    PodSpec,
    Topology,
    device_name,
    netns_name,
)
from nodeagent.lab.wire import Wire
from nodeagent.model.address import Ip


class _PodWires(Protocol):
    """What routed.py and bridged.py are."""

    def gateways(self, node: HostPlace, /) -> tuple[Ip, Ip]: ...

    def wire_pod(self, place: PodPlace, netns: Path, node: HostPlace, node_netns: Path, mtu: int) -> None: ...

    def unwire_pod(self, device: str, node_netns: Path) -> None: ...


_POD_NETWORKS: Mapping[PodNetwork, _PodWires] = {PodNetwork.ROUTED: routed, PodNetwork.BRIDGED: bridged}


class Lab:
    """`nodes`, `pods`, `control`, `outside` and `wire` exist inside the `with` block."""

    nodes: dict[str, Node]
    pods: dict[str, Pod]
    control: Host
    wire: Wire
    directory: Path
    """For files of whoever uses the lab; goes with it, with everything in it."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.nodes, self.pods = {}, {}
        self._pod_network = _POD_NETWORKS[topology.pod_network]
        self._outside: Host | None = None
        self._mounts = ExitStack()  # what holds the nodes' mount namespaces

    @property
    def outside(self) -> Host:
        """A host that is neither node nor pod; there when the topology says so."""
        if self._outside is None:
            raise ConfigError("this lab has no outside host", check="Topology.of(..., outside=True) makes one.")
        return self._outside

    def gateways(self, node: Node) -> tuple[Ip, Ip]:
        """The next hop of this node's pods, in each family; IPv6's may be of link scope."""
        return self._pod_network.gateways(self.topology.node_place(node.name))

    @property
    def run(self) -> int:
        """1 for a lab that is alone; part of every name otherwise."""
        return self._journal.number

    @staticmethod
    def clean_all() -> clean.Cleaned:
        """Removes what killed runs left; living ones are left alone and listed. Raises NotPossible."""
        _demand_root()
        with deferred():
            return clean.clean_dead()

    def __enter__(self) -> Self:
        _demand_root()
        with ExitStack() as exit_stack:
            exit_stack.enter_context(raised_as_exit())
            with deferred():
                clean.clean_dead()
                self._journal = Journal.claim()
                exit_stack.callback(self._clean)
                try:
                    self._build()
                except OSError as error:
                    raise _refusal(error) from error
            self._exit = exit_stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()

    def add_pod(self, spec: PodSpec) -> Pod:
        """Makes a pod while the lab runs, and lists it in its node's pods file."""
        topology = self.topology.with_pod(spec)
        with deferred():
            try:
                pod = self._make_pod(topology.pod_place(spec.name))
            except OSError as error:
                raise _refusal(error) from error
            self.topology = topology
            self._write_pods(pod.node)
        return pod

    def remove_pod(self, pod: Pod) -> None:
        """The pod goes as a deleted pod does: its processes, then its device and namespace."""
        topology = self.topology.without_pod(pod.name)
        with deferred():
            self.topology = topology
            del self.pods[pod.name]
            self._write_pods(pod.node)
            cgroups.remove(pod.cgroup)
            pod.reap()
            node = self.nodes[pod.node]
            self._pod_network.unwire_pod(pod.device, node.netns)
            build.hide_netns(node.mounts, pod.netns)
            pin = Entry(Kind.PINNED, os.fspath(pod.netns))
            clean.remove(pin)
            self._journal.forget(pin)

    # -- making ------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self._cgroup = cgroups.unified_hierarchy() / f"na-{self.run}"
        entry = self._journal.note(Kind.CGROUP, self._cgroup)
        try:
            cgroups.make(self._cgroup)
        except NotPossible:
            self._journal.forget(entry)  # it may exist and be somebody else's
            raise
        self._names = DIRECTORY / str(self.run)
        self._journal.note(Kind.DIRECTORY, self._names)
        self._names.mkdir(mode=0o700)
        self.directory = self._names / "files"
        self._journal.note(Kind.TREE, self.directory)
        self.directory.mkdir(mode=0o700)
        self._adopt_netns_directory()

        wire = self._netns(WIRE)
        build.make_netns(self._journal, wire, build.WIRE)
        hosts = [(place, self._netns(place.name)) for place in self.topology.hosts]
        nodes = [self.topology.node_place(node.name) for node in self.topology.nodes]
        sysctls = {node.name: {**build.NODE, **node.sysctls} for node in self.topology.nodes}
        for place, netns in hosts:
            build.make_netns(self._journal, netns, sysctls.get(place.name, build.HOST))
        link.wire_hosts(wire, hosts, self.topology.mtu)
        for place, netns in hosts:
            link.address_host(place, netns, nodes)
            self._make_host(place, netns)
        self.wire = Wire(WIRE, wire, self._make_cgroup(WIRE))
        for pod in self.topology.pods:
            self._make_pod(pod)
        for name in self.nodes:
            self._write_pods(name)

    def _make_host(self, place: HostPlace, netns: Path) -> None:
        cgroup = self._make_cgroup(place.name)
        if place.name == CONTROL:
            self.control = Host(place.name, place.ips, netns, cgroup)
        elif place.name == OUTSIDE:
            self._outside = Host(place.name, place.ips, netns, cgroup)
        else:
            cgroups.make(cgroup / cgroups.PODS)
            mounts = self._names / place.name
            self._mounts.callback(os.close, build.make_mounts(self._journal, mounts, netns, cgroup))
            self.nodes[place.name] = Node(place.name, place.ips, netns, mounts, cgroup)

    def _make_pod(self, place: PodPlace) -> Pod:
        node = self.nodes[place.spec.node]
        netns = self._netns(place.spec.name)
        build.make_netns(self._journal, netns, build.HOST)
        self._pod_network.wire_pod(place, netns, self.topology.node_place(node.name), node.netns, self.topology.mtu)
        build.show_netns(node.mounts, netns)
        cgroup = node.cgroup / cgroups.PODS / place.spec.name
        cgroups.make(cgroup)
        pod = self.pods[place.spec.name] = Pod(place, device_name(place.spec.name), netns, cgroup)
        return pod

    def _make_cgroup(self, name: str) -> Path:
        """Below the run's, which stands in the journal."""
        path = self._cgroup / name
        cgroups.make(path)
        return path

    def _write_pods(self, node: str) -> None:
        self.nodes[node].write_pods(pod for pod in self.pods.values() if pod.node == node)

    def _netns(self, name: str) -> Path:
        return build.NETNS / netns_name(self.run, name)

    def _adopt_netns_directory(self) -> None:
        """/run/netns goes with the last lab, if a lab made it: each that lives beside its maker answers for it too."""
        entry = Entry(Kind.DIRECTORY, os.fspath(build.NETNS))
        if not build.NETNS.exists() or any(entry in run.entries for run in living_runs()):
            self._journal.note(entry.kind, entry.path)
            build.NETNS.mkdir(mode=0o755, exist_ok=True)

    # -- ending ------------------------------------------------------------------------------------------------------

    def _clean(self) -> None:
        with deferred():
            try:
                clean.clean(self._journal)
                for host in (*self.nodes.values(), *self.pods.values(), *self._others()):
                    host.reap()
            finally:  # what resisted is left to the next run, as after a crash
                self._mounts.close()
                self._journal.close()

    def _others(self) -> list[Namespace]:
        return [host for name in ("control", "_outside", "wire") if (host := getattr(self, name, None)) is not None]


def _demand_root() -> None:
    if os.geteuid() != 0:
        raise MissingPrivilege("a lab of network namespaces needs root", check="Run it with sudo.")


def _refusal(error: OSError) -> NotPossible:
    if isinstance(error, PermissionError):
        return MissingPrivilege(f"the lab cannot be built: {error}", check="Root in a container needs --privileged.")
    return NotPossible(f"the lab cannot be built: {error}", check="Does this kernel have network namespaces and bpffs?")
