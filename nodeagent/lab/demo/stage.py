# SPDX-License-Identifier: Apache-2.0
"""The demo's stage: the lab, a control plane, an agent on each node, applications in the pods, and how to look at them.

node-a   web  api  batch  legacy2    web: shop/web     batch: backoffice/batch
node-b   db   legacy                 db: shop/db       legacy, legacy2: outside the mesh
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nodeagent.errors import NotPossible
from nodeagent.kernel.pins import read_counters
from nodeagent.lab import cgroups
from nodeagent.lab.demo import mesh, processes
from nodeagent.lab.demo.claims import ClaimFalse, eventually
from nodeagent.lab.demo.client import connect
from nodeagent.lab.demo.filters import attached_filters
from nodeagent.lab.demo.stranger import Stranger
from nodeagent.lab.demo.versions import THIS_VERSION, Version
from nodeagent.lab.lab import Lab
from nodeagent.lab.machine import State, difference, network_state
from nodeagent.lab.namespaces import RUN_DIR, Pod
from nodeagent.lab.ready import readable
from nodeagent.lab.topology import PodPlace, PodSpec, Topology
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity

PORT = 8080
OTHER_PORT = 9090
OUR_DEVICE = "na0"
"""The one thing that a node's namespace gets; facts about it (its sysctls exist with it) are no difference."""
XDS_PORT = 15012
SERVICE_IPS = ("10.96.0.10", "fd00:96::10")
API_SERVICE_IPS = ("10.96.0.11", "fd00:96::11")
SERVICE_PORT = 80
NODES = ("node-a", "node-b")
START_SECONDS = 120.0
"""Until an agent has captured its pods; a second on an idle machine."""
_ANSWER_SECONDS = 60.0
_REPLACED_WITHIN_SECONDS = 150.0
"""Longer than the command's own patience with a successor and a former worker."""
_NODE_PORT_TABLE = "node-port"
_AMBIENT = {"shop": True, "backoffice": True, "legacy": False}
_PODS = (
    ("web", "shop", "web", "node-a"),
    ("api", "shop", "api", "node-a"),
    ("batch", "backoffice", "batch", "node-a"),
    ("db", "shop", "db", "node-b"),
    ("legacy", "legacy", "default", "node-b"),
    ("legacy2", "legacy", "default", "node-a"),
)
_BACKEND = frozenset({"api", "db"})
"""On a node each, for a Service with endpoints on both."""


def topology() -> Topology:
    pods = [
        PodSpec(
            name=name,
            node=node,
            namespace=namespace,
            service_account=account,
            labels={"app": name} | ({"tier": "backend"} if name in _BACKEND else {}),
        )
        for name, namespace, account, node in _PODS
    ]
    return Topology.of(NODES, pods)


class Stage:
    """Everything that the claims touch. Made by `running`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.directory = lab.directory
        self.mesh_directory = self.directory / "mesh.d"
        self.state_directory = self.directory / "control-plane"
        self.service_ips = tuple(Ip(ip) for ip in SERVICE_IPS)
        self.api_service_ips = tuple(Ip(ip) for ip in API_SERVICE_IPS)
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.versions: dict[str, Version] = {}
        """Of the agents that are started from here on, by node; this one where there is none."""
        self.settings: dict[str, str] = {}
        """Of all agents that are started from here on, by their names."""
        self.control_plane: subprocess.Popen[bytes]
        self._nodes_before: dict[str, State] = {}
        self._stranger: Stranger | None = None

    # ---- setting it ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Everything but control plane and agents: files, applications, and how the nodes look without us."""
        self.mesh_directory.mkdir()
        self.write("00-cluster.yaml", self._cluster())
        self.write("10-pods.yaml", [mesh.pod(pod.place) for pod in self.lab.pods.values()])
        self.write(
            "20-services.yaml",
            [
                mesh.service("db", "shop", {"app": "db"}, SERVICE_IPS, {SERVICE_PORT: PORT}),
                mesh.service("api", "shop", {"app": "api"}, API_SERVICE_IPS, {SERVICE_PORT: PORT}),
            ],
        )
        for pod in self.lab.pods.values():
            self.start_application(pod, PORT, OTHER_PORT)
        for name in NODES:
            self._nodes_before[name] = self.lab.nodes[name].call(network_state)

    def start_control_plane(self) -> None:
        self.control_plane = self.lab.control.spawn(
            command(
                "control-plane",
                "--config-dir",
                self.mesh_directory,
                "--state-dir",
                self.state_directory,
                "--listen",
                f"{self.lab.control.ipv4}:{XDS_PORT}",
            ),
            stdout=self._log("control-plane"),
            stderr=subprocess.STDOUT,
        )
        root = self.state_directory / "root-cert.pem"
        self._await(lambda: root.exists() and self._accepts(), "control-plane")
        if self._stranger is None:
            directory = self.directory / "stranger"
            directory.mkdir(mode=0o700)
            self._stranger = Stranger(self.lab.control, self.state_directory, directory)

    def start_agent(self, name: str, *, takeover: bool = False, **settings: str) -> None:
        """Starts the agent of a node, with settings of one's own by their names; waits until its pods are captured.

        With `takeover` also until the former one has left, which answers until then.
        """
        node, former = self.lab.nodes[name], self.agents.get(name) if takeover else None
        token = subprocess.run(
            command("token", "--node", name, "--state-dir", self.state_directory), check=True, capture_output=True
        ).stdout
        root = (self.state_directory / "root-cert.pem").read_bytes()
        node.call(lambda: (RUN_DIR / "token").write_bytes(token))
        node.call(lambda: (RUN_DIR / "root-cert.pem").write_bytes(root))
        options = {
            "node": name,
            "xds-address": f"https://{self.lab.control.ipv4}:{XDS_PORT}",
            "root-certificate": RUN_DIR / "root-cert.pem",
            "token": RUN_DIR / "token",
            "pods-file": RUN_DIR / "pods.yaml",
            "cgroup": cgroups.PODS,
            "access-log": RUN_DIR / "access.log",
            "log-format": "json",
            "workers": 1,
            **{setting.replace("_", "-"): value for setting, value in (self.settings | settings).items()},
        }
        words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
        self.agents[name] = node.spawn(
            command("agent", *words, *(["--takeover"] if takeover else [])),
            env=self.versions.get(name, THIS_VERSION).environment,
            stdout=self._log(name),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        self._await(lambda: self.is_ready(name, former), name)

    def stop_agent(self, name: str, number: int = signal.SIGTERM) -> None:
        """In order, or killed: what it has set up goes on without it."""
        self.agents[name].send_signal(number)
        self.agents[name].wait(START_SECONDS)

    def clean(self, name: str) -> None:
        """The node as it was before its first agent, which has been stopped. Raises NotPossible."""
        result = self.lab.nodes[name].run(command("cleanup"))
        if result.returncode != 0:
            raise NotPossible(f"nodeagent cleanup on {name}: {result.stderr.strip()}")

    def _cluster(self) -> list[mesh.Object]:
        nodes = [mesh.node(name, f"zone-{name[-1]}") for name in NODES]
        return [*(mesh.namespace(name, ambient=ambient) for name, ambient in _AMBIENT.items()), *nodes]

    def start_application(self, pod: Pod, *ports: int) -> "subprocess.Popen[bytes]":
        """It listens when this returns. Raises NotPossible."""
        script = Path(__file__).with_name("application.py")
        process = pod.spawn(
            [sys.executable, "-S", "-E", script, *map(str, ports)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        if not readable([process.stdout], START_SECONDS) or process.stdout.readline() != b"ready\n":
            raise NotPossible(f"the application of pod {pod.name} did not start")
        return process

    def _accepts(self) -> bool:
        try:
            self.lab.control.connect(self.lab.control.ipv4, XDS_PORT).close()
        except OSError:
            return False
        return True

    def is_ready(self, name: str, former: "subprocess.Popen[bytes] | None" = None) -> bool:
        if self.agents[name].poll() is not None:
            raise NotPossible(f"the agent of {name} ended; its last words: {self._last_words(name)}")
        if former is not None and former.poll() is None:
            return False
        try:
            with self.lab.nodes[name].connect("127.0.0.1", 15021) as probe:
                probe.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
                return probe.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def _await(self, condition: Callable[[], bool], part: str) -> None:
        """Raises NotPossible with the part's last words, since its log goes with the lab."""
        try:
            eventually(condition, START_SECONDS, f"{part} is ready")
        except ClaimFalse as failure:
            raise NotPossible(f"{failure}; its last words: {self._last_words(part)}") from failure

    def _last_words(self, part: str) -> str:
        path = self.directory / f"{part}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return " | ".join(lines[-3:]) or "none"

    def _log(self, name: str) -> int:
        """Descriptor of `<name>.log`, opened to append: a restarted part goes on in the same file."""
        return os.open(self.directory / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    # ---- what claims do --------------------------------------------------------------------------------------------

    def pod(self, name: str) -> Pod:
        return self.lab.pods[name]

    def write(self, name: str, objects: Sequence[mesh.Object]) -> None:
        """A file of mesh.d, replaced in one step; without objects it is removed."""
        if objects:
            mesh.write(self.mesh_directory / name, objects)
        else:
            (self.mesh_directory / name).unlink(missing_ok=True)

    def write_text(self, name: str, content: str) -> None:
        """As `write`, whatever the text is."""
        mesh.replace(self.mesh_directory / name, content)

    @property
    def stranger(self) -> Stranger:
        """There once the control plane has made the mesh's root."""
        assert self._stranger is not None
        return self._stranger

    @contextlib.contextmanager
    def stranger_in_mesh(self) -> Iterator[Identity]:
        """For as long, the mesh has a workload at the control plane's host, where the stranger can stand for it."""
        place = PodPlace(PodSpec(name="stranger", node="elsewhere", namespace="shop", service_account="stranger"), 0, 0)
        self.write("50-stranger.yaml", [mesh.pod(place, self.lab.control.ips)])
        try:
            for ip in self.lab.control.ips:
                eventually(lambda ip=ip: self._is_captured("web", ip), _ANSWER_SECONDS, f"{ip} is captured")  # type: ignore[misc]
            yield Identity("cluster.local", "shop", "stranger")
        finally:
            self.write("50-stranger.yaml", [])

    def _is_captured(self, source: str, ip: Ip) -> bool:
        """Of an address where nobody listens: the proxy accepts what its host would refuse."""
        try:
            connect(self.pod(source), ip, PORT).close()
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def node_port(self, pod: Pod, port: int, target: int) -> Iterator[None]:
        """For as long, the pod's node has a NodePort as kube-proxy would make it: destination NAT, in both families."""
        node, (ipv4, ipv6) = self.lab.nodes[pod.node], pod.ips
        rules = (
            f"add table inet {_NODE_PORT_TABLE}",
            f"add chain inet {_NODE_PORT_TABLE} nat {{ type nat hook prerouting priority dstnat; }}",
            f"add rule inet {_NODE_PORT_TABLE} nat meta nfproto ipv4 tcp dport {port} dnat ip to {ipv4}:{target}",
            f"add rule inet {_NODE_PORT_TABLE} nat meta nfproto ipv6 tcp dport {port} dnat ip6 to [{ipv6}]:{target}",
        )
        done = node.run(["nft", "; ".join(rules)])
        if done.returncode:
            raise NotPossible(f"nft on {pod.node}: {done.stderr.strip()}", check="Has this kernel nf_tables with NAT?")
        try:
            yield
        finally:
            node.run(["nft", f"delete table inet {_NODE_PORT_TABLE}"])

    def renew_certificates(self) -> None:
        for name in NODES:
            self.ask(name, "certs", "--renew")

    def replace_worker(self, node: str) -> dict[str, Any]:
        """As the operator does it. What is told of the only worker of that node, when the former one has ended."""
        [replaced] = self.ask(node, "workers", "replace", seconds=_REPLACED_WITHIN_SECONDS)["replaced"]
        row: dict[str, Any] = replaced
        return row

    def kill_worker(self, pid: int) -> None:
        """Returns when it is dead: until then the kernel takes in what its tunnels bring, and nobody will answer."""
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            if not readable([descriptor], _ANSWER_SECONDS):
                raise NotPossible(f"worker {pid} was killed and does not end", check="Is it in state D (ps -o stat)?")
        finally:
            os.close(descriptor)

    # ---- what claims look at ---------------------------------------------------------------------------------------

    def ask(self, node: str, *words: str, seconds: float = _ANSWER_SECONDS) -> dict[str, Any]:
        """The JSON of a nodeagent command on that node."""
        result = self.lab.nodes[node].run(command(*words, "-o", "json"), seconds=seconds)
        if result.returncode not in {0, 1} or not result.stdout:
            raise NotPossible(f"nodeagent {' '.join(words)} on {node}: {result.stderr.strip()}")
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def packets(self, node: str) -> Mapping[str, int]:
        """The kernel's counters by reason, read from the map itself and not from the agent."""
        return self.lab.nodes[node].call(lambda: read_counters("/sys/fs/bpf"))

    def attached(self, node: str) -> dict[str, list[str]]:
        """Filters by device and hook as the kernel lists them, each `nodeagent/<program>:<the kernel's id>`."""
        return self.lab.nodes[node].call(attached_filters)

    def attachment_fault(self, node: str) -> str:
        """Empty when na0 and each pod of the mesh have their programs, all of one generation, and nothing else has."""
        expected = {f"{OUR_DEVICE} ingress": ["nodeagent/from_proxy"]}
        for pod in self.lab.pods.values():
            if pod.node == node and _AMBIENT[pod.namespace]:
                expected[f"{pod.device} ingress"] = ["nodeagent/from_pod"]
                expected[f"{pod.device} egress"] = ["nodeagent/to_pod"]
        attached = self.attached(node)
        names = {place: [filter_.rpartition(":")[0] for filter_ in filters] for place, filters in attached.items()}
        if names != expected:
            return f"attached are {attached}, expected {expected}"
        generation = {filter_ for filters in attached.values() for filter_ in filters}
        return "" if len(generation) == 3 else f"more than one generation: {sorted(generation)}"

    def worker_pids(self, node: str) -> list[int]:
        """All processes in the node's proxy namespace, as the kernel has them."""
        place = self.lab.nodes[node]
        inode: int = place.call(lambda: (RUN_DIR / "proxy.netns").stat().st_ino)
        return processes.in_netns(inode, place.cgroup)

    def certificate_serials(self, node: str) -> list[str]:
        rows = self.ask(node, "certs")["certificates"]
        return [row["serial"] for row in rows if row["type"] == "Leaf"]

    def access_lines(self, node: str) -> list[dict[str, Any]]:
        """The access log of a node, oldest first; a line that is being written is not there yet."""
        complete, _, _ = self.lab.nodes[node].read(RUN_DIR / "access.log").rpartition(b"\n")
        return [json.loads(line) for line in complete.splitlines()]

    def access_line(self, node: str, source_ip: str, source_port: int) -> dict[str, Any]:
        """The line of the connection from this address, waited for. Raises ClaimFalse."""
        wanted = f"[{source_ip}]:{source_port}" if ":" in source_ip else f"{source_ip}:{source_port}"
        found: list[dict[str, Any]] = []

        def written() -> bool:
            found[:] = [line for line in self.access_lines(node) if line.get("src.addr") == wanted]
            return bool(found)

        eventually(written, _ANSWER_SECONDS, f"the access log of {node} has a line from {wanted}")
        return found[-1]

    def findings(self) -> list[str]:
        """What the control plane has to say about mesh.d, a line each with file and line."""
        path = self.state_directory / "findings.json"
        if not path.exists():
            return []
        return [
            f"{row['file']}:{row['line']}: {row['message']}"
            for row in json.loads(path.read_text(encoding="utf-8"))["findings"]
        ]

    def finding(self, place: str, words: str, within_seconds: float) -> str:
        """The first finding at `place` (end of a path, and line) with these words, waited for. Raises ClaimFalse."""
        found: list[str] = []

        def told() -> bool:
            found[:] = [finding for finding in self.findings() if place in finding and words in finding]
            return bool(found)

        try:
            eventually(told, within_seconds, f"the control plane named {place} with {words!r}")
        except ClaimFalse as failure:
            raise ClaimFalse(f"{failure}; it says: {' | '.join(self.findings()) or 'nothing'}") from failure
        return found[0]

    def node_differences(self, node: str) -> list[str]:
        return difference(self._nodes_before[node], self.lab.nodes[node].call(network_state), except_device=OUR_DEVICE)

    @property
    def shell_words(self) -> str:
        """What a visitor types in front of the name of a node or pod, and of a command that shall run there."""
        return f"{Path(sys.executable).with_name('nodeagent')} lab exec --run {self.lab.run}"

    def invite(self) -> None:
        """A policy to begin with, for the visitor to edit."""
        self.write(
            "30-policy.yaml", [mesh.authorization("db", "shop", "db", "DENY", [mesh.rule(namespaces=["backoffice"])])]
        )

    def node_netns_inode(self, node: str) -> int:
        inode: int = self.lab.nodes[node].netns.stat().st_ino
        return inode

    def gateway_mac(self, pod: str) -> bytes:
        """What the pod's packets are sent to: the node's end of its veth pair."""
        place = self.lab.pods[pod]
        with self.lab.nodes[place.node].socket(socket.AF_PACKET, socket.SOCK_RAW) as probe:
            probe.bind((place.device, 0))
            address: bytes = probe.getsockname()[4]
            return address


@contextlib.contextmanager
def running() -> Iterator[Stage]:
    """The whole stage, removed at the end of the block."""
    with Lab(topology()) as lab:
        yield Stage(lab)


def command(*words: str | Path) -> list[str]:
    """The command line of this very program, for a child process."""
    return [sys.executable, "-m", "nodeagent.cli.main", *(str(word) for word in words)]
