# SPDX-License-Identifier: Apache-2.0
"""What would become of a connection by policies that are not applied, beside what becomes of it now."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodeagent.admin.dump import dump
from nodeagent.admin.explain import Question, explain
from nodeagent.admin.schema import SCHEMA
from nodeagent.admin.state import AgentState
from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.workload import TunnelProtocol, Workload

Call = Callable[..., tuple[int, str, str]]

POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-api, namespace: shop}
spec:
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/api]}}]}]
"""


@pytest.fixture
def live(agent: dict[str, Any]) -> AgentState:
    """web may reach db, by the policies in force."""
    mesh = Mesh()
    mesh.apply(
        Changes(
            workloads=tuple(
                Workload(
                    uid=f"Kubernetes//Pod/shop/{name}",
                    name=name,
                    namespace="shop",
                    addresses=(Ip(f"10.0.0.{number}"),),
                    protocol=TunnelProtocol.HBONE,
                    node="node-a",
                    service_account=name,
                )
                for number, name in enumerate(("web", "db"), 1)
            )
        )
    )
    state = AgentState(version="1", node="node-a", network="", started=0.0, now=1.0, mesh=mesh)
    question = Question(source="web", destination="db", port=80)
    agent["/dump"] = json.loads(msgspec.json.encode({"schema": SCHEMA, **dump(state, [], [])}))
    agent["/explain"] = json.loads(msgspec.json.encode(explain(state, question)))
    return state


@pytest.mark.usefixtures("live")
def test_it_says_what_would_be_what_is_and_in_which_file(call: Call, tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(POLICY)
    status, out, err = call("explain", "web", "db:80", "--policy-dir", str(tmp_path))
    assert (status, err) == (1, "")
    assert "verdict      DENIED  reason=policy_not_allowed" in out
    assert f"files        shop/only-api  {tmp_path}/api.yaml:5\n" in out
    assert 'to allow     add "cluster.local/ns/shop/sa/web" to principals in rule 1 of shop/only-api' in out
    assert "now          ALLOWED  by the policies that are in force\n" in out


@pytest.mark.usefixtures("live")
def test_what_would_be_refused_is_told_beside_it(call: Call, tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(POLICY.replace("rules:", "rulez:"))
    status, out, err = call("explain", "web", "db:80", "--policy-dir", str(tmp_path), "-o", "json")
    assert status == 0
    assert json.loads(out)["verdict"] == "ALLOWED"
    assert f"{tmp_path}/api.yaml:5" in err
    assert "rulez" in err


@pytest.mark.usefixtures("live")
def test_of_a_pod_whose_labels_are_not_known_a_warning_says_so(call: Call, tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(POLICY + "  selector: {matchLabels: {app: db}}\n")
    status, out, _ = call("explain", "web", "db:80", "--policy-dir", str(tmp_path))
    assert status == 0
    assert "warnings     " in out
    assert "has no pod shop/db, so its labels are not known" in out


@pytest.mark.usefixtures("live")
def test_a_pod_that_only_the_directory_has(call: Call, agent: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: new, namespace: shop}\nstatus: {podIP: 10.0.0.3}\n"
    )
    agent["/explain"] = ConfigError("this node knows nothing called 'new'")
    status, out, _ = call("explain", "web", "new:80", "--policy-dir", str(tmp_path))
    assert status == 0
    assert "now          unknown there  by the policies that are in force\n" in out


@pytest.mark.usefixtures("live")
def test_a_directory_that_is_not_there(call: Call, tmp_path: Path) -> None:
    status, _, err = call("explain", "web", "db:80", "--policy-dir", str(tmp_path / "nowhere"))
    assert status == 2
    assert "nowhere" in err
