# SPDX-License-Identifier: Apache-2.0
"""Which rows there are, which of them have a goal, and what is drawn of them."""

import dataclasses
from pathlib import Path
from typing import cast

import pytest

from nodeagent.errors import NotPossible
from nodeagent.lab.namespaces import Pod
from tests.bench import fairness, tunnel_memory, tunnels, two_workers, ztunnel_pair
from tests.bench.load import bulk, exchange
from tests.bench.overview import overview
from tests.bench.report import Comparison, Goal, Row, at_least, at_most, summarize
from tests.bench.rounds import Settings
from tests.bench.tunnels import BARE, ENVOY, GOALS, NO_MESH, STEERED, TITLE, UNPOOLED, WORKS, ZTUNNEL, comparisons

SUBJECTS = (NO_MESH, STEERED, BARE, ENVOY)


def _goals(subjects: tuple[str, ...] = SUBJECTS) -> dict[tuple[str, str, str], Goal | None]:
    return {(one.subject, one.peer, one.measure): one.goal for one in comparisons(WORKS, subjects)}


def test_ours_is_compared_with_each_peer_and_has_its_goals_with_envoy_only() -> None:
    goals = _goals((*SUBJECTS, ZTUNNEL))
    assert goals[STEERED, ENVOY, "bulk up, 1 connection"] == at_least(1.55)
    assert goals[BARE, ENVOY, "bulk up, 1 connection"] == at_least(1.55)
    assert goals[STEERED, ZTUNNEL, "bulk up, 1 connection"] is None
    assert goals[STEERED, NO_MESH, "bulk up, 1 connection"] is None


def test_steering_has_a_latency_of_its_own() -> None:
    goals = _goals()
    assert goals[BARE, ENVOY, "1 KiB request/response, p50"] == at_most(0.88)
    assert goals[STEERED, ENVOY, "1 KiB request/response, p50"] == at_most(1.0)


def test_every_goal_is_of_something_that_is_measured() -> None:
    measured = {measure for _, peer, measure in _goals() if peer == ENVOY}
    assert set(GOALS) <= measured


def test_no_proxy_has_no_cpu_time() -> None:
    assert not [measure for _, peer, measure in _goals() if peer == NO_MESH and measure.endswith("CPU")]


def test_without_pooling_there_are_two_subjects() -> None:
    names = [one.name for one in comparisons(UNPOOLED, (BARE, ENVOY))]
    assert names[0] == f"{TITLE} bare to Envoy, new connections without pooling, 64 at a time"
    assert len(names) == 3


def test_what_a_bulk_stream_does_to_others_is_a_ratio_with_a_goal() -> None:
    measure = "1 KiB request/response, 100 connections, p99"
    made = {(fairness.ALONE, measure): 10.0, (fairness.BESIDE, measure): 40.0}
    [row] = fairness.rows(TITLE, [made])
    assert row.name == f"{TITLE} {measure}, beside a bulk stream to alone"
    assert (row.value, row.baseline, row.ratio, row.met) == (40.0, 10.0, 4.0, True)


def test_names_are_unique() -> None:
    names = [one.name for one in (*comparisons(WORKS, SUBJECTS), *comparisons(UNPOOLED, SUBJECTS))]
    assert len(set(names)) == len(names)


def _rows(ratio: float) -> list[Row]:
    return [
        Row(one.name, 1.0, one.unit, 1.0, ratio, one.goal)
        for one in comparisons(WORKS, SUBJECTS)
        if one.goal is not None
    ]


def test_a_picture_shows_times_and_costs_upside_down() -> None:
    drawn = tunnels.picture(_rows(0.5), "a machine")
    assert drawn is not None
    assert drawn.count(">0.50<") == 2 * sum(goal.is_least for goal in GOALS.values())
    assert drawn.count(">2.00<") == 2 * sum(not goal.is_least for goal in GOALS.values())


def test_there_is_no_picture_of_a_part() -> None:
    assert tunnels.picture(_rows(1.0)[1:], "a machine") is None


def test_an_overview_has_a_line_for_each_measure_and_a_ratio_of_the_rounds_own() -> None:
    rounds = [
        {(STEERED, name): steered, (ENVOY, name): envoy, (STEERED, cost): 2.0, (ENVOY, cost): 4.0}
        for name, cost in (("bulk up, 1 connection", "bulk up, 1 connection, CPU"),)
        for steered, envoy in ((300.0, 100.0), (400.0, 200.0), (500.0, 500.0))
    ]
    assert overview(rounds, [bulk("upload")], [STEERED, ENVOY]) == [
        "| work | unit | steered | Envoy | steered to Envoy |",
        "| --- | --- | ---: | ---: | ---: |",
        "| bulk up, 1 connection | MB/s | 400.0 | 200.0 | 2.00 (1.00 to 3.00) |",
        "| bulk up, 1 connection, CPU | s/GB | 2.000 | 4.000 | 0.50 (0.50 to 0.50) |",
    ]


def test_an_overview_leaves_empty_what_was_not_measured() -> None:
    lines = overview([{(NO_MESH, "bulk up, 1 connection"): 1.0}], [bulk("upload")], [NO_MESH])
    assert lines[-1] == "| bulk up, 1 connection, CPU | s/GB |  |"


def test_of_two_proxies_the_one_that_needs_more_counts() -> None:
    row = tunnel_memory._each("idle", [10 << 20, 10 << 20], [(10 << 20) + (4 << 10), 10 << 20], 2, at_most(1))
    assert (row.value, row.lowest, row.highest, row.unit, row.met) == (2.0, 0.0, 2.0, "KiB", False)


def test_the_share_is_that_of_the_worker_that_did_least() -> None:
    assert two_workers.least_share([[1.0, 1.0], [3.0, 1.0]]) == 25.0
    row = two_workers.share_row("", [45.0, 39.0, 50.0])
    assert (row.value, row.met) == (45.0, True)


def test_costs_are_by_what_was_carried() -> None:
    works = {work.cost.key: work for work in (bulk("upload"), exchange())}
    assert works["bytes"].cost.amount == 1e9
    assert works["count"].cost == ("1 KiB request/response, CPU", "count", 1e6, "ms/1000")


@pytest.mark.parametrize(
    ("only", "name", "is_taken"),
    [((), "memory", True), (("bulk up",), "bulk up, 1 connection", True), (("bulk up", "memory"), "churn", False)],
)
def test_works_are_chosen_by_their_names(only: tuple[str, ...], name: str, *, is_taken: bool) -> None:
    assert Settings(5, 1.0, is_busy_good_enough=False, only=only).takes(name) is is_taken


def test_a_ztunnel_that_is_named_must_be_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ZTUNNEL", raising=False)
    assert ztunnel_pair.binary() is None
    monkeypatch.setenv("ZTUNNEL", str(tmp_path))
    with pytest.raises(NotPossible, match="is no program"):
        ztunnel_pair.binary()


def test_a_ztunnel_finds_its_own_workload_in_the_mesh() -> None:
    @dataclasses.dataclass
    class Place:
        name: str = "zt-client"
        namespace: str = "legacy"
        service_account: str = "zt-client"
        node: str = "node-a"
        ips: tuple[str, ...] = ("10.244.1.9",)

    pod = cast("Pod", Place())
    (workload,) = cast("list[dict[str, object]]", ztunnel_pair.mesh_file((pod,))["workloads"])
    told = ztunnel_pair.environment(pod, Path("/mesh.yaml"))
    assert told["PROXY_WORKLOAD_INFO"] == "legacy/zt-client/zt-client"
    assert told["NODE_NAME"] == workload["node"]


def test_two_workers_are_judged_by_their_cost() -> None:
    rounds = [{(two_workers.TWO, "CPU"): 1.1, (two_workers.ONE, "CPU"): 1.0}]
    wanted = Comparison("two to one", "CPU", "s/GB", two_workers.TWO, two_workers.ONE, two_workers.GOAL)
    assert [row.met for row in summarize(rounds, [wanted])] == [True]
