# SPDX-License-Identifier: Apache-2.0
"""Objects, a state directory, a server and certificate requests for the control plane's tests."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.controlplane import serve
from nodeagent.controlplane.documents import parse_documents
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import MeshObject
from nodeagent.controlplane.parse import parse_document
from nodeagent.controlplane.state import StateDirectory
from nodeagent.controlplane.translate import Translation, translate
from tests.unit.controlplane.served import WITHIN_SECONDS, Play, Read, Story, running

MESH = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a, serviceAccountName: web}
status: {podIPs: [{ip: 10.244.1.10}, {ip: 'fd00:244:1::10'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {nodeName: node-b, serviceAccountName: db}
status: {podIP: 10.244.2.10}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, clusterIP: 10.96.0.10, ports: [{name: tcp, port: 5432}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  rules:
  - from:
    - source: {principals: [cluster.local/ns/shop/sa/web]}
"""


@pytest.fixture
def mesh() -> str:
    """Two enrolled pods on two nodes, a service and a policy."""
    return MESH


@pytest.fixture
def read() -> Read:
    """Text -> the valid objects and all findings."""

    def parse(text: str) -> tuple[list[MeshObject], list[Finding]]:
        parsed = [found for document in parse_documents(text) for found in parse_document(document, "mesh.d/a.yaml")]
        objects = [found.value for found in parsed if found.value is not None]
        return objects, [finding for found in parsed for finding in found.findings]

    return parse


@pytest.fixture
def translated(read: Read) -> Callable[[str], Translation]:
    """Text, in which nothing may be refused -> what agents are told."""

    def through(text: str) -> Translation:
        objects, findings = read(text)
        assert [str(finding) for finding in findings if finding.is_rejected] == []
        return translate(objects)

    return through


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


@pytest.fixture
def csr() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def play(state: StateDirectory, read: Read, mesh: str, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Runs a story against a server that publishes the example mesh."""
    monkeypatch.setattr(serve, "STOP_SECONDS", WITHIN_SECONDS)  # whoever is told to end ends, on a busy machine too

    def run(story: Story) -> None:
        async def told() -> None:
            async with asyncio.timeout(WITHIN_SECONDS), running(state, read, mesh) as stage:
                await story(stage)

        asyncio.run(told())

    return run
