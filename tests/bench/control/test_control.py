# SPDX-License-Identifier: Apache-2.0
"""The large mesh is what it is said to be, and rows say what was measured."""

import dataclasses

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.review import review
from nodeagent.controlplane.translate import Translation, translate
from tests.bench.control import large_mesh
from tests.bench.control.decode import decode_seconds
from tests.bench.control.measure import Figures, text
from tests.bench.control.rows import rows

FIGURES = Figures(
    files=1,
    start=1.0,
    start_cpu=0.5,
    memory=1 << 20,
    agent_start=2.0,
    agent_memory=10 << 20,
    worker_memory=5 << 20,
    crowd=3.0,
    crowd_memory=2 << 20,
    enforced=[0.01, 0.02, 0.3],
    told=[0.01, 0.02, 0.04],
    pod_told=[0.01],
    pod_cpu=0.004,
    pod_agent_cpu=0.002,
    pod_bytes=300,
)


def translated(version: str) -> Translation:
    contents = {name: Content(name, text(objects)) for name, objects in large_mesh.files(200)}
    changed = text(large_mesh.application(0, 20, version))
    contents[large_mesh.file_of(0)] = Content(large_mesh.file_of(0), changed)
    catalog = admit(Catalog(), contents)
    translation = translate(catalog.values)
    assert review(catalog, catalog.values, translation) == ()
    return translation


def test_the_mesh_is_as_large_as_asked_for_and_a_version_changes_one_workload() -> None:
    before, after = translated("1"), translated("v2")
    assert (len(before.workloads), len(before.services), len(before.policies)) == (200, 20, 20)
    differing = {uid for uid in before.workloads if before.workloads[uid] != after.workloads[uid]}
    assert differing == {large_mesh.first_pod(0)}
    assert (before.services, before.policies) == (after.services, after.policies)


def test_an_agent_can_read_all_of_it() -> None:
    assert decode_seconds(100) > 0


def test_rows_have_the_goals_of_the_large_mesh() -> None:
    larger = dataclasses.replace(FIGURES, agent_memory=(10 << 20) + 9000 * 1024, pod_cpu=0.005)
    made = {row.name: row for row in rows({1_000: FIGURES, 10_000: larger}, {1_000: 0.1, 10_000: 2.0})}
    assert made["mesh of 1000: policy's file to enforced on a node, p99"].goal is None
    p50, p99 = (made[f"mesh of 10000: policy's file to enforced on a node, {share}"] for share in ("p50", "p99"))
    assert (p50.value, p50.met, p99.value, p99.met) == (20, True, 300, False)
    assert made["mesh of 10000: agent, full snapshot decoded, CPU"].met is False
    change = made["one pod's change, CPU of the control plane, mesh of 10000 to 1000"]
    assert (change.value, change.ratio, change.met) == (5, 1.25, True)
    assert made["agent, memory of a workload"].value == 1
    assert made["worker, memory of a workload"].value == 0
