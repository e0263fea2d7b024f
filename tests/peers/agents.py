# SPDX-License-Identifier: Apache-2.0
"""Our agents under istiod: the stage's pods as objects of its API server, and an agent as our DaemonSet has it."""

import json
import subprocess
from pathlib import Path

from nodeagent.lab import cgroups
from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.stage import NODES, PORT, SERVICE_PORT, START_SECONDS, Stage, command
from nodeagent.lab.demo.versions import THIS_VERSION
from nodeagent.lab.namespaces import RUN_DIR, Node, Pod
from tests.kube_api import Json
from tests.peers.istiod import ACCOUNT, SERVER_NAME, Istiod
from tests.peers.istiod import PORT as XDS_PORT

SERVICE_IPS = ("10.30.0.10", "fd00:30::10")
_ROOT, _TOKEN = RUN_DIR / "root-cert.pem", RUN_DIR / "istio-token"
_KUBE_CA, _KUBE_TOKEN = RUN_DIR / "kube-ca.crt", RUN_DIR / "kube-token"
RESOLV_CONF = RUN_DIR / "resolv.conf"


class Agents:
    def __init__(self, stage: Stage, istiod: Istiod) -> None:
        self._stage, self._istiod = stage, istiod

    def apply(self) -> None:
        """What a cluster with these pods has."""
        objects = [mesh.namespace(name, ambient=name != "legacy") for name in ("shop", "backoffice", "legacy")]
        objects += [mesh.node(name, f"zone-{name[-1]}") for name in NODES]
        objects += [mesh.service("db", "shop", {"app": "db"}, SERVICE_IPS, {SERVICE_PORT: PORT})]
        self._istiod.put(*objects)
        self._istiod.put(*(self.pod_object(pod) for pod in self._stage.lab.pods.values()))
        self._istiod.put(*(_agent_pod(node) for node in self._stage.lab.nodes.values()))

    def pod_object(self, pod: Pod) -> Json:
        made: Json = dict(mesh.pod(pod.place))
        made["spec"] = {**made["spec"], "containers": [{"name": "app", "image": "app"}]}
        made["status"] = {**made["status"], "hostIP": str(self._stage.lab.nodes[pod.node].ipv4)}
        return made

    def start(self, name: str) -> None:
        """It has captured its pods when this returns."""
        node, stage = self._stage.lab.nodes[name], self._stage
        self.bring_root(name)
        _bring(node, _TOKEN, self._istiod.agent_token(f"nodeagent-{name}"))
        _bring(node, _KUBE_CA, Path(self._istiod.api.ca_file).read_text())
        _bring(node, _KUBE_TOKEN, self._istiod.token(*ACCOUNT))
        _bring(node, RESOLV_CONF, f"nameserver {stage.lab.control.ipv4}\noptions timeout:1\n")
        options = {
            "node": name,
            "pod-name": f"nodeagent-{name}",
            "pod-namespace": ACCOUNT[0],
            "service-account": ACCOUNT[1],
            "instance-ip": node.ipv4,
            "xds-address": f"https://{stage.lab.control.ipv4}:{XDS_PORT}",
            "server-name": SERVER_NAME,
            "root-certificate": _ROOT,
            "token": _TOKEN,
            "kubernetes": "on",
            "kubernetes-host": self._istiod.api.host,
            "kubernetes-port": self._istiod.api.port,
            "kubernetes-ca": _KUBE_CA,
            "kubernetes-token": _KUBE_TOKEN,
            "drain-seconds": 2,
            "cgroup": cgroups.PODS,
            "access-log": RUN_DIR / "access.log",
            "resolv-conf": RESOLV_CONF,
            "log-format": "json",
            "workers": 1,
        }
        words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
        with self._log(name).open("ab") as log:
            stage.agents[name] = node.spawn(
                command("agent", *words), env=THIS_VERSION.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        eventually(lambda: stage.is_ready(name), START_SECONDS, f"the agent of {name} is ready; see {self._log(name)}")

    def bring_root(self, name: str) -> None:
        """As the kubelet does when the ConfigMap changes."""
        _bring(self._stage.lab.nodes[name], _ROOT, self._istiod.root())

    def complaints(self) -> list[str]:
        """What the agents have warned of, beside a control plane that is away."""
        lines = [line for name in NODES for line in self._log(name).read_text().splitlines()]
        rows = [
            row if line.startswith("{") and (row := json.loads(line)) else {"level": "error", "line": line}
            for line in lines
        ]
        return [str(row) for row in rows if row["level"] in {"warn", "error"} and not _is_expected(row)]

    def _log(self, name: str) -> Path:
        return self._stage.directory / f"{name}.log"


def _is_expected(row: Json) -> bool:
    """While istiod is away."""
    return row.get("scope") in {"xds.client", "certs.client"} and "UNAVAILABLE" in row["message"]


def _agent_pod(node: Node) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"nodeagent-{node.name}", "namespace": ACCOUNT[0]},
        "spec": {
            "nodeName": node.name,
            "serviceAccountName": ACCOUNT[1],
            "hostNetwork": True,
            "containers": [{"name": "agent", "image": "nodeagent"}],
        },
        "status": {"phase": "Running", "podIP": node.ipv4, "podIPs": [{"ip": node.ipv4}], "hostIP": node.ipv4},
    }


def _bring(node: Node, path: Path, text: str) -> None:
    """In one step, as a kubelet's volume changes."""

    def replace() -> None:
        aside = path.with_suffix(".part")
        aside.write_text(text)
        aside.replace(path)

    node.call(replace)
