# SPDX-License-Identifier: Apache-2.0
"""A real istiod on a real API server and etcd, in the control plane's place of the demo's stage.

Its folder has pilot-discovery and istioctl of one Istio, and what tests/apiserver needs. istioctl renders the install,
of which the definitions of Istio's kinds are applied; the rest of it is for a cluster that runs pods.
"""

import base64
import json
import subprocess
import urllib.request
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import yaml

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.stage import Stage
from tests.apiserver.server import ADMIN, RealKube, running
from tests.kube_api import Json

SERVER_NAME = "istiod.istio-system.svc"
PORT = 15012
ACCOUNT = "nodeagent-system", "nodeagent"
"""Of our DaemonSet, trusted as its README says."""
WITHIN_SECONDS = 120.0
_HTTP, _MONITORING = 8080, 15014


def serving(folder: Path, directory: Path, stage: Stage) -> AbstractContextManager["Istiod"]:
    """To be entered inside the control plane's network namespace, and left there."""
    return running(Istiod(folder, directory, stage.lab.control.ipv4))


class Istiod(RealKube):
    """Everything is reached from inside the network namespace in which this is made."""

    def install(self) -> None:
        """What our DaemonSet's base has, Istio's kinds, and istiod, which is ready when this returns."""
        super().install()
        rendered = subprocess.run(
            [str(self._binaries / "istioctl"), "manifest", "generate", "--set", "profile=ambient"],
            capture_output=True, check=True, cwd=self._directory, env={"HOME": str(self._directory)},
        ).stdout  # fmt: skip
        objects = [one for one in yaml.safe_load_all(rendered) if one]
        self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}})
        self.put(*(one for one in objects if one["kind"] == "CustomResourceDefinition"))
        mesh = next(one for one in objects if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "istio")
        self.put(mesh, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _named("istiod")})
        self.start_istiod()

    def ztunnel_config(self, what: str, dump: Path) -> list[Json]:
        """What `istioctl ztunnel-config` reads out of an agent's config_dump."""
        words = [str(self._binaries / "istioctl"), "ztunnel-config", what, "--file", str(dump), "--output", "json"]
        environment = {"HOME": str(self._directory)}
        done = subprocess.run(words, capture_output=True, check=True, cwd=self._directory, env=environment)
        rows: list[Json] = json.loads(done.stdout)
        return rows

    def start_istiod(self) -> None:
        """Blocks until it is ready."""
        config = self._directory / "kubeconfig.json"
        config.write_text(json.dumps(self._kubeconfig()))
        self.launch(
            "pilot-discovery", "discovery", f"--kubeconfig={config}", "--domain=cluster.local",
            f"--httpAddr={self.ip}:{_HTTP}", f"--httpsAddr={self.ip}:15017", f"--grpcAddr={self.ip}:15010",
            f"--secureGRPCAddr={self.ip}:{PORT}", f"--monitoringAddr={self.ip}:{_MONITORING}", "--ctrlz_port=0",
            POD_NAME="istiod-0", POD_NAMESPACE="istio-system", SERVICE_ACCOUNT="istiod", REVISION="default",
            CLUSTER_ID="Kubernetes", PILOT_ENABLE_AMBIENT="true", CA_TRUSTED_NODE_ACCOUNTS="/".join(ACCOUNT),
            PILOT_CERT_PROVIDER="istiod", JWT_POLICY="third-party-jwt", GOMAXPROCS="1",
        )  # fmt: skip
        eventually(self._is_serving, WITHIN_SECONDS, f"istiod is ready; see {self._directory}/pilot-discovery.log")

    def restart_istiod(self) -> None:
        self.kill("pilot-discovery")
        self.start_istiod()

    def root(self) -> str:
        """PEM, from the ConfigMap that istiod writes into every namespace."""
        found: list[str] = []

        def is_written() -> bool:
            with suppress(AssertionError):  # not there yet
                where = f"/api/v1/namespaces/{ACCOUNT[0]}/configmaps/istio-ca-root-cert"
                found.append(self.ask("GET", where)["data"]["root-cert.pem"])
            return bool(found)

        eventually(is_written, WITHIN_SECONDS, "istiod has written its root certificate")
        return found[0]

    def agent_token(self, pod: str) -> str:
        """As the kubelet makes it for the volume `istio-token` of our DaemonSet's pod."""
        uid = self.pods()[pod]["uid"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        return self.token(*ACCOUNT, audiences=["istio-ca"], boundObjectRef=bound)

    def sync_status(self) -> list[Json]:
        """What `istioctl proxy-status` is told: a row for each connected client."""
        token = self.token("istio-system", "istiod", audiences=["istio-ca"])
        request = urllib.request.Request(
            f"http://{self.ip}:{_HTTP}/debug/syncz", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
            rows: list[Json] = json.load(answer)
        return rows

    def _is_serving(self) -> bool:
        assert self._running["pilot-discovery"].poll() is None, "istiod ended"
        try:
            urllib.request.urlopen(f"http://{self.ip}:{_HTTP}/ready", timeout=5).close()
        except OSError:  # an answer that is no 200 is one, too
            return False
        return True

    def _kubeconfig(self) -> Json:
        ca = base64.b64encode((self._directory / "ca.crt").read_bytes()).decode()
        cluster = {"server": f"https://{self.ip}:{self.api.port}", "certificate-authority-data": ca}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": ADMIN}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
            "current-context": "lab",
        }


def _named(name: str) -> Json:
    return {"name": name, "namespace": "istio-system"}
