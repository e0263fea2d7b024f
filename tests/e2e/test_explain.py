# SPDX-License-Identifier: Apache-2.0
"""What explain says of the lab's pods, from each to each in both families, is what becomes of real connections.

Enrolled and not, on one node and across, allowed and denied: each is asked about on both nodes, then made.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Fate, fate
from nodeagent.lab.demo.stage import NODES, OTHER_PORT, PORT, SERVICE_PORT, Stage, running
from nodeagent.lab.namespaces import RUN_DIR
from nodeagent.model.address import Ip

pytestmark = [pytest.mark.e2e, pytest.mark.any_kernel]

WITHIN_SECONDS = 60.0
PODS = ("web", "api", "batch", "db", "legacy", "legacy2")
PROXY_PORT = 15006
EXPECTED = {"ALLOWED": Fate.SERVED, "PASSES": Fate.SERVED, "DENIED": Fate.REFUSED, "REFUSED": Fate.REFUSED}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.prepare()
        stage.write(
            "30-policy.yaml",
            [
                mesh.authorization("db-web", "shop", "db", "ALLOW", [mesh.rule(principals=[_principal("web")])]),
                mesh.authorization("api-port", "shop", "api", "DENY", [mesh.rule(ports=[OTHER_PORT])]),
                mesh.authorization("no-batch", "shop", "api", "DENY", [mesh.rule(namespaces=["backoffice"])]),
            ],
        )
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node)
        yield stage


def _principal(account: str) -> str:
    return f"cluster.local/ns/shop/sa/{account}"


def _ask(stage: Stage, node: str, source: str, ip: Ip, port: int) -> dict[str, Any]:
    pod = stage.pod(source)
    client = AdminClient(str(RUN_DIR / "admin.sock"))
    query = {"source": f"{pod.place.spec.namespace}/{source}", "destination": ip, "port": str(port)}
    return stage.lab.nodes[node].call(lambda: client.fetch("/explain", **query))


def test_every_pair_is_explained_as_it_ends(stage: Stage) -> None:
    pairs = [
        (source, ip, port)
        for source, target in product(PODS, PODS)
        for ip, port in product(stage.pod(target).ips, (PORT, OTHER_PORT))
    ]
    pairs += [(source, ip, SERVICE_PORT) for source in ("web", "api", "batch") for ip in stage.service_ips]
    pairs += [("web", stage.pod("db").ips[0], PROXY_PORT), ("legacy", stage.pod("web").ips[1], PROXY_PORT)]
    seen: Counter[str] = Counter()
    for source, ip, port in pairs:
        told = {node: _ask(stage, node, source, ip, port)["verdict"] for node in NODES}
        assert len(set(told.values())) == 1, f"{source} to {ip}:{port}: the nodes disagree, {told}"
        verdict = told[NODES[0]]
        found = fate(stage.pod(source), ip, port)
        assert found is EXPECTED[verdict], f"{source} to {ip}:{port} is {found}, and explain said {verdict}"
        seen[verdict] += 1
    assert set(seen) == set(EXPECTED), seen
    assert min(seen["ALLOWED"], seen["DENIED"], seen["PASSES"]) >= 12, seen


def test_the_last_one_is_told_by_the_node_that_saw_it(stage: Stage) -> None:
    db = stage.pod("db").ips[0]
    assert fate(stage.pod("api"), db, PORT) is Fate.REFUSED

    def told(node: str) -> dict[str, Any]:
        seen = _ask(stage, node, "api", db, PORT)["last_seen"]
        return seen or {}

    # The agent hears of it from its worker, beside what the client sees.
    eventually(lambda: told("node-b").get("reason") == "policy_not_allowed", WITHIN_SECONDS, "db's node has seen it")
    eventually(lambda: told("node-a").get("reason") == "hbone_denied", WITHIN_SECONDS, "the client's node has seen it")
    assert told("node-b")["verdict"] == "denied"


def test_what_if_by_the_files_of_the_control_plane(stage: Stage, tmp_path: Path) -> None:
    """The directory that is in force says the same as the mesh, and names its files; another one says what would be."""
    in_force, proposed = tmp_path / "mesh.d", tmp_path / "new.d"  # a node has a /run of its own
    for directory in (in_force, proposed):
        shutil.copytree(stage.mesh_directory, directory)
    (proposed / "30-policy.yaml").unlink()
    words = [sys.executable, "-m", "nodeagent.cli.main", "explain", "shop/api", f"pod/shop/db:{PORT}", "--policy-dir"]
    same = stage.lab.nodes["node-b"].run([*words, str(in_force)])
    other = stage.lab.nodes["node-b"].run([*words, str(proposed)])
    assert same.returncode == 1, same.stderr
    assert f"{in_force}/30-policy.yaml:" in same.stdout
    assert "now          DENIED" in same.stdout
    assert other.returncode == 0, other.stderr
    assert "verdict      ALLOWED" in other.stdout
    assert "now          DENIED" in other.stdout
    assert fate(stage.pod("api"), stage.pod("db").ips[0], PORT) is Fate.REFUSED, "nothing was applied"
