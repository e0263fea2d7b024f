# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes both nodes of the lab, with the files that we ship; its answers are what has happened.

It runs in the control plane's namespace, from where it reaches both nodes, and listens on that namespace's loopback.
"""

import contextlib
import http.client
import json
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from nodeagent.lab.demo import program
from nodeagent.lab.demo.claims import ClaimFalse, eventually
from nodeagent.lab.demo.client import Fate, ask, fate
from nodeagent.lab.demo.stage import NODES, PORT, SERVICE_PORT, Stage, running
from tests.observability.kiali import Edge, edges, padlocks
from tests.observability.shipped import FOLDER, dashboard_queries, metric_names, rules

pytestmark = [pytest.mark.e2e, pytest.mark.any_kernel]

WITHIN_SECONDS = 120.0
_TALKS: list[Stage] = []
"""Each `talk` with the one stage of this module."""
_SILENT_PANELS = {"Dry runs that would change something", "Streams that ended", "Spans"}
"""Of what they show nothing happens here."""


class Prometheus:
    def __init__(self, stage: Stage, port: int) -> None:
        self._stage, self._port = stage, port

    def fetch(self, target: str) -> Any:
        def there() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WITHIN_SECONDS)
            with contextlib.closing(connection):
                connection.request("GET", target)
                answer = connection.getresponse()
                return answer.status, answer.read()

        status, body = self._stage.lab.control.call(there)
        assert status == 200, body
        return json.loads(body)["data"]

    def vector(self, promql: str) -> list[tuple[Mapping[str, str], float]]:
        found = self.fetch(f"/api/v1/query?{urllib.parse.urlencode({'query': promql})}")["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    def labels(self, promql: str) -> list[Mapping[str, str]]:
        return [labels for labels, _ in self.vector(promql)]

    def number(self, promql: str) -> float:
        """Of one sample; 0 when there is none."""
        samples = self.vector(promql)
        assert len(samples) <= 1, samples
        return samples[0][1] if samples else 0.0

    def is_ready(self) -> bool:
        try:
            return [target["health"] for target in self.fetch("/api/v1/targets")["activeTargets"]] == ["up", "up"]
        except (OSError, AssertionError):
            return False


@pytest.fixture(scope="module")
def stage(prometheus: str) -> Iterator[Stage]:
    del prometheus  # without it nothing is built
    with running() as stage:
        stage.prepare()
        stage.invite()  # db denies backoffice
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node)
        yield stage


@pytest.fixture(scope="module")
def watcher(stage: Stage, prometheus: str, tmp_path_factory: pytest.TempPathFactory) -> Prometheus:
    """With the shipped example, and this lab's addresses and a second's interval in it. It ends with the lab."""
    directory = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "rules.yaml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [
        f"{stage.lab.nodes[node].ipv4}:15020" for node in NODES
    ]
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with stage.lab.control.listen(0) as free:
        port = free.getsockname()[1]
    with (directory / "log").open("wb") as log:
        process = stage.lab.control.spawn(
            [
                prometheus,
                f"--config.file={directory / 'prometheus.yaml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    watcher = Prometheus(stage, port)

    def is_there() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        return watcher.is_ready()

    eventually(is_there, WITHIN_SECONDS, "Prometheus scrapes both nodes")
    return watcher


def talk(stage: Stage) -> None:
    """Each of the paths once."""
    pod = stage.pod
    for source, ip, port in (
        ("web", pod("db").ipv4, PORT),  # a tunnel
        ("web", stage.service_ips[0], SERVICE_PORT),  # a tunnel, to db by its Service
        ("web", stage.api_service_ips[0], SERVICE_PORT),  # by the proxy, to api of the same node
        ("legacy", pod("db").ipv4, PORT),  # plain text into the mesh
        ("web", pod("legacy").ipv4, PORT),  # plain text out of it
    ):
        assert ask(pod(source), ip, port, "WHO"), (source, ip)
    for source in ("web", "batch"):  # the fast path
        with program.connected(pod(source), pod("api").ipv4, PORT, "WHO") as made:
            assert made.received
    assert fate(pod("batch"), pod("db").ipv4, PORT) is Fate.REFUSED  # denied
    _TALKS.append(stage)


def test_what_has_happened_is_what_is_counted(stage: Stage, watcher: Prometheus) -> None:
    def opened(reporter: str, source: str, destination: str) -> float:
        return watcher.number(
            f'sum(istio_tcp_connections_opened_total{{reporter="{reporter}",source_workload="{source}",'
            f'destination_workload="{destination}",response_flags="-"}})'
        )

    def denied(reporter: str) -> float:
        return watcher.number(
            f'sum(istio_tcp_connections_failed_total{{reporter="{reporter}",source_workload="batch",'
            f'destination_workload="db",response_flags="DENY"}})'
        )

    def seen() -> tuple[float, ...]:
        both = ("source", "destination")
        return (
            *(opened(reporter, "web", "db") for reporter in both),
            *(opened(reporter, "web", "api") for reporter in both),
            *(opened(reporter, "batch", "api") for reporter in both),
            *(opened(reporter, "legacy", "db") for reporter in both),
            *(opened(reporter, "web", "legacy") for reporter in both),
            *(denied(reporter) for reporter in both),
        )

    for _ in range(3):
        talk(stage)
    expected = tuple(len(_TALKS) * times for times in (2, 2, 2, 2, 1, 1, 0, 1, 1, 0, 1, 1))
    eventually(lambda: seen() == expected, WITHIN_SECONDS, f"Prometheus has counted {expected}")


def test_the_state_of_the_nodes(stage: Stage, watcher: Prometheus) -> None:
    talk(stage)
    facts = {
        "sum(up)": 2,
        "sum(nodeagent_ready)": 2,
        'sum(nodeagent_workers{state="ready"})': 2,
        "sum(workload_manager_active_proxy_count)": 4,
        "sum(nodeagent_bugs_total)": 0,
        "count(nodeagent_verdict_table_generation > 0)": 2,
        "count(time() - nodeagent_verdict_table_timestamp_seconds < 3600)": 2,
        "count(time() - nodeagent_xds_connected_timestamp_seconds < 3600)": 2,
        "count(nodeagent_certificate_expiry_timestamp_seconds > time() "
        "and nodeagent_certificate_issued_timestamp_seconds < time())": 4,
        'sum(nodeagent_set_up_seconds_count{phase="outbound"}) > bool 2': 1,
        'sum(nodeagent_set_up_seconds_count{phase=~"tunnel_handshake|tunnel_accept|request"}) > bool 2': 1,
        'sum(nodeagent_kernel_packets_total{verdict="pass",reason="STEERED"}) > bool 0': 1,
    }
    for promql, expected in facts.items():
        eventually(
            lambda promql=promql, expected=expected: watcher.number(promql) == expected,  # type: ignore[misc]
            WITHIN_SECONDS,
            f"{promql} is {expected}",
        )


def test_kiali_draws_the_right_edges(stage: Stage, watcher: Prometheus) -> None:
    web_db = Edge("shop/web", "shop/db", "db")
    web_pod = Edge("shop/web", "shop/db", "unknown")  # at the client's side: no Service was asked for
    web_api = Edge("shop/web", "shop/api", "unknown")
    web_service = Edge("shop/web", "shop/api", "api")
    batch_api = Edge("backoffice/batch", "shop/api", "unknown")
    legacy_db = Edge("legacy/legacy", "shop/db", "unknown")
    web_legacy = Edge("shop/web", "legacy/legacy", "unknown")
    expected = {
        "shop": {web_db, web_pod, web_api, web_service, batch_api, legacy_db, web_legacy},
        "backoffice": {batch_api},  # what db denies carried nothing
        "legacy": set(),  # nobody there has a proxy that would tell
    }
    found: dict[str, set[Edge]] = {}

    def drawn() -> bool:
        talk(stage)
        found.update({namespace: edges(watcher.labels, namespace) for namespace in expected})
        return found == expected

    with contextlib.suppress(ClaimFalse):  # then the next line says what is missing
        eventually(drawn, WITHIN_SECONDS, "Kiali draws what there is")
    assert found == expected

    def locked() -> bool:
        talk(stage)
        policy, source, destination = padlocks(watcher.labels, "shop").get(web_db, ("", "", ""))
        return (policy, source, destination) == (
            "mutual_tls",
            "spiffe://cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/db",
        )

    eventually(locked, WITHIN_SECONDS, "web to db has a padlock")
    assert padlocks(watcher.labels, "shop")[web_api][0] == "unknown"


def test_the_dashboard_and_the_alerts_have_answers(stage: Stage, watcher: Prometheus) -> None:
    silent: set[str] = set()

    def answered() -> bool:
        talk(stage)
        shown = [(title, bool(watcher.vector(promql))) for title, promql in dashboard_queries()]
        silent.clear()
        silent.update({title for title, _ in shown} - {title for title, has_answer in shown if has_answer})
        return silent <= _SILENT_PANELS

    with contextlib.suppress(ClaimFalse):  # then the next line says which do not
        eventually(answered, WITHIN_SECONDS, "every panel shows something")
    assert silent <= _SILENT_PANELS
    evaluated = [rule for group in watcher.fetch("/api/v1/rules")["groups"] for rule in group["rules"]]
    assert len(evaluated) == len(rules())
    eventually(
        lambda: all(
            rule["health"] == "ok" for group in watcher.fetch("/api/v1/rules")["groups"] for rule in group["rules"]
        ),
        WITHIN_SECONDS,
        "every rule was evaluated",
    )
    asked = set().union(*(metric_names(rule["expr"]) for rule in rules()))
    names = set(watcher.fetch("/api/v1/label/__name__/values"))
    assert {name for name in asked if name not in names} == set()
