# SPDX-License-Identifier: Apache-2.0
"""trafficPolicy: Istio's fields and defaults, what a subset and a port inherit, and what is refused or left out."""

import pytest

from nodeagent.controlplane.objects import DestinationRule
from nodeagent.model.traffic import Algorithm, Keepalive, OutlierDetection, PortPolicy, TrafficPolicy
from tests.unit.controlplane.served import Read


def rule(policy: str, subset: str = "", more: str = "") -> str:
    of_subset = f", trafficPolicy: {subset}" if subset else ""
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: db, namespace: shop}}
spec:
  host: db
  trafficPolicy: {policy}
  subsets:
  - {{name: v1{of_subset}}}
{more}"""


def read_rule(read: Read, text: str) -> DestinationRule:
    (found,), findings = read(text)
    assert findings == []
    assert isinstance(found, DestinationRule)
    return found


def policy_of(read: Read, policy: str) -> TrafficPolicy:
    (entry,) = read_rule(read, rule(policy)).policies
    assert entry.port == 0
    return entry.policy


@pytest.mark.parametrize(
    ("written", "algorithm"),
    [
        ("{simple: LEAST_REQUEST}", Algorithm.LEAST_REQUEST),
        ("{simple: LEAST_CONN}", Algorithm.LEAST_REQUEST),
        ("{simple: ROUND_ROBIN}", Algorithm.ROUND_ROBIN),
        ("{simple: RANDOM}", Algorithm.RANDOM),
        ("{consistentHash: {useSourceIp: true}}", Algorithm.SOURCE_IP),
        ("{consistentHash: {useSourceIp: true, maglev: {}}}", Algorithm.SOURCE_IP),
    ],
)
def test_load_balancers(read: Read, written: str, algorithm: Algorithm) -> None:
    assert policy_of(read, f"{{loadBalancer: {written}}}") == TrafficPolicy(algorithm=algorithm)


def test_a_connection_pool(read: Read) -> None:
    found = policy_of(
        read,
        "{connectionPool: {tcp: {maxConnections: 100, connectTimeout: 250ms, idleTimeout: 1h30m, "
        "tcpKeepalive: {probes: 3, time: 7200s, interval: 75s}}}}",
    )
    assert found == TrafficPolicy(
        max_connections=100,
        connect_seconds=0.25,
        idle_seconds=5400,
        keepalive=Keepalive(probes=3, idle_seconds=7200, interval_seconds=75),
    )


@pytest.mark.parametrize(
    ("written", "outlier"),
    [
        ("{}", OutlierDetection(failures=5, base_ejection_seconds=30, max_ejection_percent=10, interval_seconds=10)),
        (
            "{consecutive5xxErrors: 3, baseEjectionTime: 1m, maxEjectionPercent: 50, interval: 5s}",
            OutlierDetection(failures=3, base_ejection_seconds=60, max_ejection_percent=50, interval_seconds=5),
        ),
        (
            "{consecutive5xxErrors: 7, consecutiveGatewayErrors: 2}",
            OutlierDetection(failures=2, base_ejection_seconds=30, max_ejection_percent=10, interval_seconds=10),
        ),
        (
            "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 4, consecutive5xxErrors: 1}",
            OutlierDetection(failures=4, base_ejection_seconds=30, max_ejection_percent=10, interval_seconds=10),
        ),
    ],
)
def test_outlier_detection_with_istios_defaults(read: Read, written: str, outlier: OutlierDetection) -> None:
    assert policy_of(read, f"{{outlierDetection: {written}}}") == TrafficPolicy(outlier=outlier)


@pytest.mark.parametrize(
    "written", ["{}", "{outlierDetection: {consecutive5xxErrors: 0}}", "{connectionPool: {tcp: {}}}"]
)
def test_what_asks_for_nothing_is_no_policy(read: Read, written: str) -> None:
    assert read_rule(read, rule(written)).policies == ()


RANDOM, IN_TURN = TrafficPolicy(algorithm=Algorithm.RANDOM), TrafficPolicy(algorithm=Algorithm.ROUND_ROBIN)
LIMITED = TrafficPolicy(max_connections=5)
POOL = "connectionPool: {tcp: {maxConnections: 5}}"


@pytest.mark.parametrize(
    ("of_rule", "of_subset", "policies"),
    [
        pytest.param("{loadBalancer: {simple: RANDOM}}", "", (), id="without its own it has the rule's"),
        pytest.param(
            "{loadBalancer: {simple: RANDOM}}",
            "{loadBalancer: {simple: ROUND_ROBIN}}",
            (PortPolicy(0, IN_TURN),),
            id="its own section goes first",
        ),
        pytest.param(
            f"{{{POOL}, loadBalancer: {{simple: RANDOM}}}}",
            "{loadBalancer: {simple: ROUND_ROBIN}}",
            (PortPolicy(0, TrafficPolicy(algorithm=Algorithm.ROUND_ROBIN, max_connections=5)),),
            id="the other sections are the rule's",
        ),
        pytest.param(
            f"{{{POOL}, portLevelSettings: [{{port: {{number: 80}}, loadBalancer: {{simple: RANDOM}}}}]}}",
            "{loadBalancer: {simple: ROUND_ROBIN}}",
            (
                PortPolicy(0, TrafficPolicy(algorithm=Algorithm.ROUND_ROBIN, max_connections=5)),
                PortPolicy(80, RANDOM),
            ),
            id="so are ports",
        ),
    ],
)
def test_what_a_subset_inherits(read: Read, of_rule: str, of_subset: str, policies: tuple[PortPolicy, ...]) -> None:
    (subset,) = read_rule(read, rule(of_rule, of_subset)).subsets
    assert subset.policies == policies


def test_a_port_inherits_nothing(read: Read) -> None:
    settings = "[{port: {number: 80}, loadBalancer: {simple: RANDOM}}, {port: {number: 90}}]"
    found = read_rule(read, rule(f"{{{POOL}, portLevelSettings: {settings}}}"))
    assert found.policies == (PortPolicy(0, LIMITED), PortPolicy(80, RANDOM), PortPolicy(90, TrafficPolicy()))


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("{loadBalancer: {simple: FASTEST}}", "loadBalancer.simple: 'FASTEST' is not one of"),
        ("{loadBalancer: {simpel: RANDOM}}", "loadBalancer.simpel: there is no such field"),
        ("{loadBalancer: {consistentHash: {useSourceIP: true}}}", "consistentHash.useSourceIP: there is no such field"),
        ("{connectionPool: {tcp: {maxConnections: -1}}}", "tcp.maxConnections: '-1' is not a whole number"),
        (
            "{connectionPool: {tcp: {connectTimeout: 0s}}}",
            "tcp.connectTimeout: '0s' is not a duration of 0.001 s or more",
        ),
        ("{connectionPool: {tcp: {connectTimeout: soon}}}", "tcp.connectTimeout: 'soon' is not a duration"),
        ("{connectionPool: {tcp: {idleTimeout: 5}}}", "tcp.idleTimeout: '5' is not a duration"),
        ("{connectionPool: {tcp: {idleTimeout: 1s2}}}", "tcp.idleTimeout: '1s2' is not a duration"),
        ("{connectionPool: {tcp: {idleTimeout: 999999h}}}", "tcp.idleTimeout: '999999h' is not a duration"),
        ("{connectionPool: {udp: {}}}", "connectionPool.udp: there is no such field"),
        ("{outlierDetection: {maxEjectionPercent: 101}}", "'101' is not a whole number from 0 to 100"),
        ("{outlierDetection: {interval: 0s}}", "outlierDetection.interval: '0s' is not a duration"),
        ("{outlierDetection: {intervals: 1s}}", "outlierDetection.intervals: there is no such field"),
        ("{portLevelSettings: [{loadBalancer: {simple: RANDOM}}]}", "portLevelSettings[0].port: a number is needed"),
        ("{loadBalancers: {}}", "trafficPolicy.loadBalancers: there is no such field"),
    ],
)
def test_a_mistake_is_refused(read: Read, policy: str, words: str) -> None:
    found, findings = read(rule(policy))
    assert found == []
    assert any(words in f"{finding.field}: {finding.message}" and finding.line == 7 for finding in findings), findings


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ("{tls: {mode: ISTIO_MUTUAL}}", "tls"),
        ("{connectionPool: {http: {http1MaxPendingRequests: 1}}}", "connectionPool.http"),
        ("{connectionPool: {tcp: {maxConnectionDuration: 1h}}}", "connectionPool.tcp.maxConnectionDuration"),
        ("{loadBalancer: {simple: PASSTHROUGH}}", "loadBalancer.simple"),
        ("{loadBalancer: {localityLbSetting: {enabled: true}}}", "loadBalancer.localityLbSetting"),
        ("{loadBalancer: {localityLbSetting: {failoverPriority: [a]}}}", "loadBalancer.localityLbSetting"),
        ("{loadBalancer: {consistentHash: {httpHeaderName: x}}}", "loadBalancer.consistentHash.httpHeaderName"),
        ("{outlierDetection: {minHealthPercent: 50}}", "outlierDetection.minHealthPercent"),
    ],
)
def test_what_layer_4_leaves_out_is_told(read: Read, policy: str, name: str) -> None:
    found, (finding,) = read(rule(policy))
    assert len(found) == 1
    assert finding.field == f"spec.trafficPolicy.{name}"
    assert finding.message.startswith("not applied by node agents")
