# SPDX-License-Identifier: Apache-2.0
"""The cluster of the matrix: the demo's stage with an outside host, on either pod network, in changing surroundings."""

import contextlib
import dataclasses
import difflib
import itertools
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nodeagent.kernel.netns import enter_netns
from nodeagent.lab.demo import mesh, stage
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.stage import NODES, OUR_DEVICE, Stage
from nodeagent.lab.lab import Lab
from nodeagent.lab.machine import State, difference
from nodeagent.lab.namespaces import RUN_DIR, Host, Node, Pod
from nodeagent.lab.topology import PodNetwork, PodSpec
from nodeagent.lab.wire import Wire
from nodeagent.model.address import Ip
from tests.e2e.reach import surroundings
from tests.e2e.reach.applications import PATIENCE_SECONDS, Applications
from tests.e2e.reach.surroundings import NODE_SERVICE, PERMISSIVE, SERVICE_IPS, STRICT, Configuration
from tests.e2e.reach.ways import DENIED

REVOKED = 6060
"""A port whose connections a policy ends while they are open."""
_POD_PORTS = (STRICT, PERMISSIVE, DENIED, REVOKED)
MARKER = b"these are the bytes of the matrix"
_FIRST_PORT = 10_000
"""Of the clients; up to the ephemeral ports, which a proxy may use, there is room for twenty thousand."""
_EVERY_PROTOCOL = 0x0003  # ETH_P_ALL


class Ear:
    """Hears at once what crosses the link between the nodes; a Tap's process would answer some milliseconds later."""

    def __init__(self, wire: Wire) -> None:
        self._frames = wire.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
        self._frames.settimeout(0)

    def has_heard(self, words: bytes) -> bool:
        """Since the last call. What has arrived at its receiver has been heard here before."""
        heard = False
        with contextlib.suppress(BlockingIOError):
            while True:
                heard |= words in self._frames.recv(1 << 16)
        return heard

    def close(self) -> None:
        self._frames.close()


class Cluster(Stage):
    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.applications = Applications()
        self.ear = Ear(lab.wire)
        self.places: dict[str, Host] = {**lab.nodes, **lab.pods, "outside": lab.outside}
        self.configuration: Configuration | None = None
        self._before: dict[tuple[Configuration, str], tuple[State, str]] = {}
        self._ports = itertools.count(_FIRST_PORT)
        self._read: dict[str, int] = dict.fromkeys(NODES, 0)

    # ---- setting it ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Everything but control plane and agents."""
        self.mesh_directory.mkdir()
        self.write("00-cluster.yaml", self._cluster())
        self.write("10-pods.yaml", [mesh.pod(pod.place) for pod in self.lab.pods.values()])
        ports = {port: port for port in (STRICT, PERMISSIVE)}
        services = [
            mesh.service(name, "shop", {"app": name.partition("-")[0]}, ips, ports) for name, ips in SERVICE_IPS.items()
        ]
        self.write("20-services.yaml", services)
        denial = [mesh.authorization(app, "shop", app, "DENY", [mesh.rule(ports=[DENIED])]) for app in ("db", "api")]
        self.write("30-policies.yaml", [*(_strict_but_for_one_port(app) for app in ("web", "api", "db")), *denial])
        for node in self.lab.nodes.values():
            for gateway in self.lab.outside.ips:  # a node has a way out, or its own processes could use no Service
                added = node.run(["ip", "route", "add", "default", "via", gateway])
                assert added.returncode == 0, added.stderr

    def remember(self, configurations: Iterable[Configuration]) -> None:
        """How the nodes look in each of them; before there is an agent."""
        for configuration in configurations:
            self.configure(configuration)
            for name, node in self.lab.nodes.items():
                self._before[configuration, name] = _state(node)

    def start(self) -> None:
        """In the surroundings that are hardest to start in."""
        self.configure(Configuration(self.lab.topology.pod_network, 1, is_hostile=True))
        self.start_control_plane()
        for name in NODES:
            self.start_agent(name)
        self.await_the_kernel()

    def await_the_kernel(self) -> None:
        """Until node-a's decides between its pods: after a change of the mesh its workers do, for a moment."""
        web, api = self.places["web"], self.places["api"]

        def has_decided() -> bool:
            before = self.packets("node-a").get("LOCAL_ALLOWED", 0)
            with contextlib.suppress(OSError), web.connect(api.ipv4, STRICT) as connection:
                connection.recv(100)
            return self.packets("node-a").get("LOCAL_ALLOWED", 0) > before

        eventually(has_decided, PATIENCE_SECONDS, "the kernel of node-a decides")

    def configure(self, configuration: Configuration) -> None:
        if self.configuration == configuration:
            return
        self.configuration = configuration
        for node in self.lab.nodes.values():
            surroundings.apply(self.lab, node, configuration)
            if node.call((RUN_DIR / "proxy.netns").exists):
                self.in_proxy(node.name, lambda: surroundings.write_sysctls(_sysctls_of_proxy(configuration)))

    def in_proxy(self, node: str, function: Callable[[], object]) -> None:
        """In the proxy namespace of that node."""

        def inside() -> None:
            with enter_netns(RUN_DIR / "proxy.netns"):
                function()

        self.lab.nodes[node].call(inside)

    @contextlib.contextmanager
    def revoked(self) -> Iterator[None]:
        """Inside, a policy denies web the port of that name at api and db."""
        rules = [mesh.rule(principals=["cluster.local/ns/shop/sa/web"], ports=[REVOKED])]
        self.write(
            "40-revoked.yaml",
            [mesh.authorization(f"no-web-{app}", "shop", app, "DENY", rules) for app in ("api", "db")],
        )
        try:
            yield
        finally:
            self.write("40-revoked.yaml", [])

    # ---- looking at it ---------------------------------------------------------------------------------------------

    def differences(self, node: str) -> list[str]:
        """Between the node's namespace now and as it was in the same configuration before there was an agent."""
        assert self.configuration is not None
        (before, rules), (now, rules_now) = self._before[self.configuration, node], _state(self.lab.nodes[node])
        changed = difflib.unified_diff(rules.splitlines(), rules_now.splitlines(), lineterm="", n=0)
        return [*difference(before, now, except_device=OUR_DEVICE), *changed]

    def address(self, place: str, index: int, source: str = "") -> Ip:
        """Of a target or of whom an application sees (see ways.py), in the family of this index."""
        kind, _, name = place.partition(" ")
        match kind:
            case "itself":
                return self.places[source].ips[index]
            case "service":
                return Ip(SERVICE_IPS[name][index])
            case "inward" if self.lab.topology.pod_network is PodNetwork.ROUTED:
                return self.lab.nodes[name].ips[index]
            case "inward" | "gateway":
                return self.lab.gateways(self.lab.nodes[name])[index]
            case _:
                return self.places[name].ips[index]

    def own_end(self, source: str, index: int, target: Ip) -> tuple[str, int]:
        """What a client binds to: a port that no connection had before, or a node's NAT might choose another for it."""
        if target.startswith("fe80"):  # a pod has no identity at its address of the link
            return self.places[source].ips[index], next(self._ports)
        return "::" if index else "0.0.0.0", next(self._ports)  # noqa: S104 - a place of the lab

    def new_lines(self, node: str) -> list[dict[str, Any]]:
        """Complete lines of the node's access log since the last call."""
        complete, _, _ = self.lab.nodes[node].call(lambda: _read_from(self._read[node])).rpartition(b"\n")
        self._read[node] += len(complete) + bool(complete)
        return [json.loads(line) for line in complete.splitlines()]


def _state(node: Node) -> tuple[State, str]:
    """The rules as text: the surroundings were put there anew, so the kernel's handles are others."""
    rules = node.run(["nft", "--stateless", "list", "ruleset"])
    assert rules.returncode == 0, rules.stderr
    return frozenset(fact for fact in node.network_state() if fact.section != "nftables"), rules.stdout


@contextlib.contextmanager
def running(
    network: PodNetwork, remembered: Iterable[Configuration] = (), *, more_pods: Iterable[PodSpec] = ()
) -> Iterator[Cluster]:
    """`remembered`: in which configurations `differences` will be asked."""
    topology = dataclasses.replace(stage.topology(), has_outside=True, pod_network=network)
    for pod in more_pods:
        topology = topology.with_pod(pod)
    with Lab(topology) as lab:
        cluster = Cluster(lab)
        listening = [(place, _ports(place)) for place in cluster.places.values()]
        with cluster.applications.running(listening):
            try:
                cluster.prepare()
                cluster.remember(remembered)
                cluster.start()
                yield cluster
            finally:
                cluster.ear.close()


def _ports(place: Host) -> tuple[int, ...]:
    if isinstance(place, Pod):
        return _POD_PORTS
    return (STRICT,) if place.name == "outside" else (NODE_SERVICE,)


def _strict_but_for_one_port(app: str) -> mesh.Object:
    policy = mesh.peer_authentication(app, "shop", "STRICT")
    spec = policy["spec"]
    assert isinstance(spec, dict)
    return policy | {
        "spec": spec
        | {"selector": {"matchLabels": {"app": app}}, "portLevelMtls": {PERMISSIVE: {"mode": "PERMISSIVE"}}}
    }


def _sysctls_of_proxy(configuration: Configuration) -> Mapping[str, int]:
    cookies = 2 if configuration.has_cookies else 1
    return {"ipv4/tcp_syncookies": cookies, **surroundings.early_demux(is_on=configuration.has_early_demux)}


def _read_from(offset: int) -> bytes:
    descriptor = os.open(RUN_DIR / "access.log", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, 1 << 24, offset)
    finally:
        os.close(descriptor)
