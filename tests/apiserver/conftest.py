# SPDX-License-Identifier: Apache-2.0
"""The API server that all tests of this folder share, and its cluster as each of them finds it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver.server import RealKube, serving
from tests.kube_api import namespace
from tests.kube_node import Node


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKube]:
    folder = Path(os.environ["NODEAGENT_APISERVER"]).absolute()  # the `apiserver` marker has made sure
    for name in ("kube-apiserver", "etcd"):
        assert os.access(folder / name, os.X_OK), f"NODEAGENT_APISERVER: there is no program {folder / name}"
    with serving(folder, tmp_path_factory.mktemp("apiserver")) as kube:
        yield kube


@pytest.fixture
def kube(_server: RealKube) -> RealKube:
    """Without pods, with `shop` in the mesh and the agent's account as daemonset/base has it."""
    if not _server.is_running:
        _server.start()
    _server.wait_ready()
    _server.widen()
    _server.apply("rbac.yaml")
    _server.wait_answered(200)
    for name, metadata in _server.pods().items():
        _server.delete(name, metadata["namespace"])
    _server.put(namespace("shop", "ambient"))
    return _server


@pytest.fixture
def node(kube: RealKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node[RealKube]:
    made = Node(kube, kube.api, tmp_path)
    made.take_place(monkeypatch)
    return made
