# SPDX-License-Identifier: Apache-2.0
"""The dashboard and the alerts are what Prometheus and Grafana can read, and ask for nothing that is not there."""

import itertools
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.observability.shipped import FOLDER, dashboard, dashboard_queries, metric_names, panels, rules


def _run(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_are_rules(promtool: str) -> None:
    _run(promtool, "check", "rules", FOLDER / "rules.yaml")


def test_the_alerts_fire_when_they_must_and_only_then(promtool: str) -> None:
    _run(promtool, "test", "rules", FOLDER / "rules.test.yaml")


def test_the_example_is_a_configuration(promtool: str) -> None:
    _run(promtool, "check", "config", FOLDER / "prometheus.yaml")
    _run(promtool, "check", "config", FOLDER / "demo.yaml")


def test_every_query_of_the_dashboard_is_promql(promtool: str, tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": expr} for number, (_, expr) in enumerate(dashboard_queries())]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    _run(promtool, "check", "rules", tmp_path / "queries.yaml")


def test_each_alert_has_a_test_and_says_what_to_look_at() -> None:
    told = (FOLDER / "rules.test.yaml").read_text(encoding="utf-8")
    for rule in rules():
        assert rule["alert"] in told
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize(
    ("where", "expression"),
    [*((rule["alert"], rule["expr"]) for rule in rules()), *dashboard_queries()],
)
def test_only_what_is_exposed_is_asked_for(where: str, expression: str, documented: frozenset[str]) -> None:
    names = metric_names(expression)
    assert names, f"{where} asks for nothing of ours"
    assert {name for name in names if not name.startswith("process_")} <= documented


def test_names_are_found_wherever_they_stand() -> None:
    expression = 'sum by (istio_x) (rate(nodeagent_a_total{b="istio_c"}[5m])) / on (nodeagent_d) istio_e > 0'
    assert metric_names(expression) == {"nodeagent_a_total", "istio_e"}


def test_everything_that_is_exposed_is_shown(documented: frozenset[str]) -> None:
    shown = set().union(*(metric_names(expression) for _, expression in dashboard_queries()))
    families = {name.removesuffix(part) for name in shown for part in ("_bucket", "_sum", "_count")}
    missing = {
        name
        for name in documented - shown
        if not name.startswith("process_") and not any(name.startswith(family) for family in families)
    }
    assert missing == {"istio_tcp_connections_closed_total"}  # opened less open, by labels that few ask for


def test_panels_have_a_place_of_their_own() -> None:
    places = [(panel["id"], panel["title"], panel["gridPos"]) for panel in panels()]
    assert len({number for number, _, _ in places}) == len(places)
    assert all(title for _, title, _ in places)
    for (_, one, a), (_, other, b) in itertools.combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one} and {other} overlap"


def test_the_dashboard_asks_whichever_prometheus_is_chosen() -> None:
    sources = {panel["datasource"]["uid"] for panel in panels() if "datasource" in panel}
    assert sources == {"${datasource}"}
    assert [variable["name"] for variable in dashboard()["templating"]["list"]] == [
        "datasource",
        "instance",
        "namespace",
    ]
