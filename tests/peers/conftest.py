# SPDX-License-Identifier: Apache-2.0
"""The demo's stage with a real ztunnel for our agent on node-b, or a real istiod for our control plane.

Each serves all tests of a run, and at the end has had nothing to complain of; nor have our agents.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodeagent.lab.demo.stage import NODES, Stage, running
from tests.peers.agents import Agents
from tests.peers.istiod import Istiod, serving
from tests.peers.ztunnel import Ztunnel, ztunnel_on


@dataclass(frozen=True)
class Beside:
    """Our agent serves web, api and batch; the ztunnel serves db."""

    stage: Stage
    ztunnel: Ztunnel


_MODES = {"wildcard": {}, "on-demand": {"XDS_ON_DEMAND": "true", "ISTIO_META_DNS_CAPTURE": "false"}}


@pytest.fixture(scope="session", params=_MODES)
def beside(request: pytest.FixtureRequest) -> Iterator[Beside]:
    program = os.environ["NODEAGENT_ZTUNNEL"]  # the `ztunnel` marker has made sure
    assert os.access(program, os.X_OK), f"NODEAGENT_ZTUNNEL: there is no program {program}"
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        stage.start_agent("node-a")
        with ztunnel_on(stage, "node-b", program, (stage.pod("db"),), **_MODES[request.param]) as ztunnel:
            yield Beside(stage, ztunnel)
            assert ztunnel.process.poll() is None
            assert ztunnel.complaints() == []


@dataclass(frozen=True)
class Under:
    """Our agents serve all pods."""

    stage: Stage
    istiod: Istiod
    agents: Agents


@pytest.fixture(scope="session")
def under(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Under]:
    folder = Path(os.environ["NODEAGENT_ISTIOD"]).absolute()  # the `istiod` marker has made sure
    for name in ("pilot-discovery", "istioctl", "kube-apiserver", "etcd"):
        assert os.access(folder / name, os.X_OK), f"NODEAGENT_ISTIOD: there is no program {folder / name}"
    with running() as stage:
        stage.prepare()
        with stage.lab.control.inside(), serving(folder, tmp_path_factory.mktemp("istiod"), stage) as istiod:
            agents = Agents(stage, istiod)
            agents.apply()
            for node in NODES:
                agents.start(node)
            yield Under(stage, istiod, agents)
            assert agents.complaints() == []
