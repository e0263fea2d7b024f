# SPDX-License-Identifier: Apache-2.0
"""A real ztunnel in the place of our agent on a node of the stage, started as docs/control-plane.md says."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.stage import XDS_PORT, Stage, command
from nodeagent.lab.namespaces import RUN_DIR, Node, Pod
from tests.peers.cni import CniPlugin
from tests.peers.node_http import ADMIN_PORT, get

WITHIN_SECONDS = 60.0
CRL = RUN_DIR / "ztunnel-crl.pem"
"""Its CRL_PATH: the list of revoked certificates. It watches the file."""
_TOKEN, _ROOT, _SOCKET = RUN_DIR / "ztunnel-token", RUN_DIR / "root-cert.pem", RUN_DIR / "cni.sock"
_EXPECTED = (
    "XDS client connection error",  # while the control plane is away
    "XDS client terminated",
    "peer closed connection without sending TLS close_notify",  # itself, of a pod of its own that has gone
    "tried to remove service, but it was not found",  # on demand: the answer to an address
    "skipping unknown policy",  # of a connection that is open: its workload is that of its beginning
)
_READY_PORT = 15021


class Ztunnel:
    """Of one node, with what it does for that node's pods of the mesh. Made by `ztunnel_on`."""

    def __init__(self, node: Node, process: "subprocess.Popen[bytes]", log: Path, cni: CniPlugin) -> None:
        self.node, self.process, self.log, self.cni = node, process, log, cni

    def tell(self, pods: tuple[Pod, ...]) -> None:
        """Raises AssertionError with its last words, when it does not come for them."""
        try:
            self.cni.serve(pods, WITHIN_SECONDS)
        except OSError as error:
            raise AssertionError(f"{error}; ztunnel says: {self.log.read_text()[-2000:]}") from error

    @property
    def is_on_demand(self) -> bool:
        return bool(self.config_dump()["config"].get("xdsOnDemand"))

    def config_dump(self) -> dict[str, Any]:
        """What `istioctl ztunnel-config` reads."""
        found: dict[str, Any] = json.loads(get(self.node, ADMIN_PORT, "/config_dump"))
        return found

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"ztunnel ended: {self.log.read_text()[-2000:]}"
        try:
            get(self.node, _READY_PORT, "/healthz/ready")
        except OSError:
            return False
        return True

    def certificates(self) -> dict[str, str]:
        """Their state by identity."""
        return {row["identity"]: row["state"] for row in self.config_dump()["certificates"]}

    def complaints(self) -> list[str]:
        """What it warns of, less what has to be expected here: see _EXPECTED."""
        rows = map(json.loads, self.log.read_text().splitlines())
        warnings = [row for row in rows if row["level"] in {"warn", "error"} and row["scope"] != "access"]
        return [str(row) for row in warnings if not any(words in row["message"] for words in _EXPECTED)]


@contextmanager
def ztunnel_on(stage: Stage, name: str, program: str, pods: tuple[Pod, ...], **more: str) -> Iterator[Ztunnel]:
    """It is ready and knows the pods when this begins, and has ended when this ends. `more`: of its environment."""
    node, log = stage.lab.nodes[name], stage.directory / f"ztunnel-{name}.log"
    _bring(stage, node)
    with CniPlugin(node, _SOCKET) as cni, log.open("ab") as writer:
        environment = {**os.environ, **_environment(stage, node), **more}
        process = node.spawn([program], env=environment, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
        try:
            ztunnel = Ztunnel(node, process, log, cni)
            ztunnel.tell(pods)
            eventually(ztunnel.is_ready, WITHIN_SECONDS, f"ztunnel is ready, see {log}")
            yield ztunnel
        finally:
            process.kill()
            process.wait()


def _bring(stage: Stage, node: Node) -> None:
    """Token, root certificate and list of revoked certificates, to where only this node sees them."""
    written = stage.directory / f"token-{node.name}"
    making = command("token", "--node", node.name, "--state-dir", stage.state_directory, "--output", written)
    subprocess.run(making, check=True)
    state = stage.state_directory
    for target, source in ((_TOKEN, written), (_ROOT, state / "root-cert.pem"), (CRL, state / "ca-crl.pem")):
        content = source.read_bytes()
        node.call(lambda target=target, content=content: target.write_bytes(content))  # type: ignore[misc]


def _environment(stage: Stage, node: Node) -> Mapping[str, str]:
    address = f"https://{stage.lab.control.ipv4}:{XDS_PORT}"
    return {
        "XDS_ADDRESS": address,
        "CA_ADDRESS": address,
        "XDS_ROOT_CA": str(_ROOT),
        "CA_ROOT_CA": str(_ROOT),
        "AUTH_TOKEN": str(_TOKEN),
        "NODE_NAME": node.name,
        "CLUSTER_ID": "Kubernetes",
        "POD_NAME": f"ztunnel-{node.name}",
        "POD_NAMESPACE": "istio-system",
        "SERVICE_ACCOUNT": "ztunnel",
        "INSTANCE_IP": str(node.ipv4),
        "CRL_PATH": str(CRL),
        "INPOD_UDS": str(_SOCKET),
        "LOG_FORMAT": "json",
        "ZTUNNEL_WORKER_THREADS": "1",
    }
