# SPDX-License-Identifier: Apache-2.0
"""A real kube-apiserver on its etcd, both on an address of loopback of their own, and what happens in its cluster.

Nothing but these two runs: pods are objects whose status is written here as a kubelet would, nothing schedules them, no
controller undoes what is done. They end with the process that started them, however it ends.
"""

import http.client
import json
import random
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.kubernetes.api import ApiServer
from nodeagent.model.opt_in import REDIRECTION
from tests.kube_api import Json
from tests.unit.conftest import TinyCa

BASE = Path(__file__).resolve().parents[2] / "daemonset/base"
START_SECONDS = 120.0
_ACCOUNT = "nodeagent-system", "nodeagent"
ADMIN = "the-admin"
_COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "AuthorizationPolicy": "/apis/security.istio.io/v1/namespaces/{}/authorizationpolicies",
    "PeerAuthentication": "/apis/security.istio.io/v1/namespaces/{}/peerauthentications",
    "ServiceEntry": "/apis/networking.istio.io/v1/namespaces/{}/serviceentries",
    "FlowSchema": "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
    "PriorityLevelConfiguration": "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
}
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [{"level": "Metadata", "users": ["system:serviceaccount:{}:{}".format(*_ACCOUNT)]}, {"level": "None"}],
}

Kube = TypeVar("Kube", bound="RealKube")


class RealKube:
    """Made by `serving`."""

    def __init__(self, binaries: Path, directory: Path, ip: str = "") -> None:
        self.ip = ip or f"127.{random.randint(64, 127)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
        self._binaries, self._directory = binaries, directory
        self._etcd_port, self._peer_port, self._port = _free_ports(self.ip, 3)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.warnings: list[str] = []
        """What the API server had to say of objects that it took."""
        self._write_files()
        self._tls = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        self.api = ApiServer(self.ip, self._port, str(directory / "ca.crt"), str(directory / "token"))
        """How the agent finds it."""

    def _write_files(self) -> None:
        ca, key = TinyCa("Kubernetes"), ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        files = {
            "key.pem": private,
            "server.pem": ca.sign(key.public_key(), [x509.IPAddress(ip_address(self.ip))]).encode(),
            "ca.crt": ca.pem.encode(),
            "tokens.csv": f'{ADMIN},admin,admin,"system:masters"\n'.encode(),
            "audit.json": json.dumps(_AUDIT).encode(),
        }
        for name, content in files.items():
            (self._directory / name).write_bytes(content)

    # ---- processes ---------------------------------------------------------------------------------------------------

    def start_etcd(self) -> None:
        clients, peers = f"http://{self.ip}:{self._etcd_port}", f"http://{self.ip}:{self._peer_port}"
        self.launch(
            "etcd", f"--data-dir={self._directory}/store", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        )  # fmt: skip

    def start(self) -> None:
        """The API server; it serves when `is_ready`. From the main thread: with the one that called, it ends."""
        at = self._directory
        self.launch(
            "kube-apiserver", f"--etcd-servers=http://{self.ip}:{self._etcd_port}",
            f"--bind-address={self.ip}", f"--advertise-address={self.ip}", f"--secure-port={self._port}",
            "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.30.0.0/16,fd00:30::/112",
            f"--tls-cert-file={at}/server.pem", f"--tls-private-key-file={at}/key.pem",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={at}/key.pem", f"--service-account-signing-key-file={at}/key.pem",
            f"--token-auth-file={at}/tokens.csv", "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",  # it would wait for accounts that a controller makes
            "--allow-privileged=true", "--profiling=false",
            f"--audit-policy-file={at}/audit.json", f"--audit-log-path={at}/audit.log",
        )  # fmt: skip

    def launch(self, name: str, *arguments: str, **environment: str) -> None:
        """A program of the folder; what it says is in `<name>.log`."""
        with (self._directory / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", str(self._binaries / name), *arguments],
                cwd=self._directory, env={"HOME": str(self._directory), **environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self, name: str = "kube-apiserver") -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def restart(self) -> None:
        """Blocks. What the next one remembers of the history begins with the state that it finds."""
        self.kill()
        self.start()
        self.wait_ready()

    def end(self) -> None:
        for name in list(self._running):
            self.kill(name)

    @property
    def is_running(self) -> bool:
        return "kube-apiserver" in self._running

    def is_ready(self) -> bool:
        for name, process in self._running.items():
            assert process.poll() is None, f"{name} ended: {(self._directory / f'{name}.log').read_text()[-2000:]}"
        with suppress(OSError, http.client.HTTPException):
            return self._exchange("GET", "/readyz")[0] == 200
        return False

    def wait_ready(self) -> None:
        """Blocks."""
        self._wait(self.is_ready, "ready")

    # ---- requests ----------------------------------------------------------------------------------------------------

    def ask(self, method: str, target: str, body: Json | None = None, content: str = "application/json") -> Json:
        status, answer = self._exchange(method, target, body, content)
        assert 200 <= status < 300, f"{method} {target}: {status} {answer!r}"
        found: Json = json.loads(answer)
        return found

    def _exchange(
        self, method: str, target: str, body: Json | None = None, content: str = "", token: str = ADMIN
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(self.ip, self._port, timeout=60, context=self._tls)
        try:
            headers = {"Authorization": f"Bearer {token}"} | ({"Content-Type": content} if content else {})
            connection.request(method, target, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            self.warnings += answer.headers.get_all("Warning") or ()
            return answer.status, answer.read()
        finally:
            connection.close()

    # ---- what happens in the cluster ---------------------------------------------------------------------------------

    def put(self, *objects: Json) -> None:
        """Applied as kubectl would, refused when a field is unknown; a pod's status as by its kubelet."""
        for one in objects:
            known = json.loads(json.dumps(one))
            status = known.pop("status", None)
            known["metadata"].pop("uid", None)
            path = _path(known)
            query = "fieldManager=test&force=true&fieldValidation=Strict"
            self.ask("PATCH", f"{path}?{query}", known, "application/apply-patch+yaml")
            if known["kind"] == "Pod":
                self.ask("PATCH", f"{path}/status", {"status": status}, "application/merge-patch+json")

    def delete(self, name: str, namespace: str = "shop", seconds: int = 0) -> None:
        """`seconds`: which the kubelet is given to end it; 0: it has."""
        self.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", {"gracePeriodSeconds": seconds})

    def remove(self, kind: str, name: str, namespace: str = "") -> None:
        """One that is not there is removed already."""
        status, answer = self._exchange("DELETE", f"{_COLLECTIONS[kind].format(namespace)}/{name}")
        assert status in {200, 404}, answer

    def narrow(self) -> None:
        """Of the requests of the agent's account one is served at a time, others are told to come again."""
        account = {"namespace": _ACCOUNT[0], "name": _ACCOUNT[1]}
        everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
        rule = {"subjects": [{"kind": "ServiceAccount", "serviceAccount": account}], "resourceRules": [everything]}
        seats = {"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0}
        level = {"type": "Limited", "limited": seats | {"limitResponse": {"type": "Reject"}}}
        schema = {"priorityLevelConfiguration": {"name": "one-seat"}, "matchingPrecedence": 10, "rules": [rule]}
        self.put(_one_seat("PriorityLevelConfiguration", level), _one_seat("FlowSchema", schema))

    def widen(self) -> None:
        """Ends `narrow`."""
        self.remove("FlowSchema", "one-seat")
        self.remove("PriorityLevelConfiguration", "one-seat")

    def pods(self) -> dict[str, Json]:
        """Metadata by name."""
        return {one["metadata"]["name"]: one["metadata"] for one in self.ask("GET", "/api/v1/pods")["items"]}

    def annotation(self, name: str) -> str | None:
        found: str | None = self.pods()[name].get("annotations", {}).get(REDIRECTION)
        return found

    def version(self) -> str:
        """Of the newest state."""
        return str(self.ask("GET", "/api/v1/pods?limit=1")["metadata"]["resourceVersion"])

    def compact(self) -> None:
        """The store forgets all but its newest state; the API server's own memory of it ends with the process."""
        connection = http.client.HTTPConnection(self.ip, self._etcd_port, timeout=60)
        try:
            connection.request("POST", "/v3/kv/compaction", json.dumps({"revision": self.version(), "physical": True}))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
        finally:
            connection.close()

    def asked(self) -> set[tuple[str, str]]:
        """Verb and resource of what the agent's account has asked for, by the API server's audit log."""
        rows = map(json.loads, (self._directory / "audit.log").read_text().splitlines())
        return {(row["verb"], "/".join(_resource(row["objectRef"]))) for row in rows if "objectRef" in row}

    # ---- the agent's account -----------------------------------------------------------------------------------------

    def install(self) -> None:
        """What daemonset/base has, and a token as the kubelet makes it for the DaemonSet's pods."""
        for name in self.base("kustomization.yaml")[0]["resources"]:
            self.apply(name)
        Path(self.api.token_file).write_text(self.token(*_ACCOUNT))

    def apply(self, name: str) -> None:
        self.put(*self.base(name))

    @staticmethod
    def base(name: str) -> list[Json]:
        """The documents of a file of daemonset/base."""
        return list(yaml.safe_load_all((BASE / name).read_text()))

    def token(self, namespace: str, account: str, **spec: Any) -> str:
        """`spec`: of the TokenRequest."""
        target = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.ask("POST", target, {"spec": {"expirationSeconds": 3607, **spec}})["status"]["token"])

    def wait_answered(self, status: int, method: str = "GET", target: str = "/api/v1/pods?limit=1") -> None:
        """Blocks until the account is answered so: what was applied is in force a moment later."""
        token, content = Path(self.api.token_file).read_text(), "application/merge-patch+json"
        self._wait(lambda: self._exchange(method, target, {}, content, token)[0] == status, f"{method}: {status}")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + START_SECONDS
        while not condition():
            assert time.monotonic() < until, f"{what}: not within {START_SECONDS:.0f} s; see {self._directory}"
            time.sleep(0.02)


def _path(one: Json) -> str:
    metadata = one["metadata"]
    return f"{_COLLECTIONS[one['kind']].format(metadata.get('namespace', ''))}/{metadata['name']}"


def _one_seat(kind: str, spec: Json) -> Json:
    version = "flowcontrol.apiserver.k8s.io/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "one-seat"}, "spec": spec}


def _resource(about: dict[str, Any]) -> list[str]:
    return [about["resource"], *filter(None, [about.get("subresource")])]


def _free_ports(ip: str, count: int) -> list[int]:
    """Nobody else draws ports of this address; who listens at every address would be told by the bind."""
    held = [socket.create_server((ip, 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


@contextmanager
def serving(binaries: Path, directory: Path) -> Iterator[RealKube]:
    with running(RealKube(binaries, directory)) as kube:
        yield kube


@contextmanager
def running(kube: Kube) -> Iterator[Kube]:
    try:
        kube.start_etcd()
        kube.start()
        kube.wait_ready()
        kube.install()
        yield kube
    finally:
        kube.end()
