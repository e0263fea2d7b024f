# SPDX-License-Identifier: Apache-2.0
"""trafficPolicy of DestinationRules: loadBalancer, connectionPool.tcp and outlierDetection at layer 4. Pure.

A subset's section goes before the rule's, section by section; what portLevelSettings say of a port inherits nothing, as
in Istio. What only layer 7 has is left out with a warning (MN0301).
"""

from collections.abc import Iterator

from nodeagent.controlplane.fields import Fields
from nodeagent.controlplane.parse_locality import parse_locality
from nodeagent.model.traffic import Algorithm, Keepalive, LocalityBalancing, OutlierDetection, PortPolicy, TrafficPolicy

API = "See the Istio reference of this kind."
_SIMPLE: dict[str, Algorithm | None] = {
    "UNSPECIFIED": None,
    "LEAST_REQUEST": Algorithm.LEAST_REQUEST,
    "LEAST_CONN": Algorithm.LEAST_REQUEST,
    "ROUND_ROBIN": Algorithm.ROUND_ROBIN,
    "RANDOM": Algorithm.RANDOM,
    "PASSTHROUGH": None,
}
_HASHES = ("httpHeaderName", "httpCookie", "httpQueryParameterName")
_ELSEWHERE = {
    "tls": "tunnels have their own TLS",
    "tunnel": "tunnels are HBONE",
    "proxyProtocol": "it is a sidecar's",
    "retryBudget": "it is about requests",
}


def parse_policies(written: Fields | None, of_rule: Fields | None = None) -> tuple[PortPolicy, ...]:
    """What is in force by port, sections that are not `written` taken from `of_rule`; without empty ones."""
    if written is None:
        return ()
    sections = {
        name: _section(name, written, of_rule) for name in ("loadBalancer", "connectionPool", "outlierDetection")
    }
    found = [PortPolicy(0, _policy(sections)), *_port_levels(written)]
    if of_rule is not None and not written.has("portLevelSettings"):
        found += _port_levels(of_rule)
    for name, why in _ELSEWHERE.items():
        if written.has(name):
            leave_out(written, name, why)
    written.refuse_others(API)
    return tuple(entry for entry in found if entry.policy != TrafficPolicy() or entry.port)


def _section(name: str, written: Fields, of_rule: Fields | None) -> Fields | None:
    own = written.within(name)
    return own if own is not None or of_rule is None else of_rule.within(name)


def _port_levels(written: Fields) -> Iterator[PortPolicy]:
    for entry in written.each("portLevelSettings"):
        port = entry.within("port")
        number = port.port("number") if port is not None else None
        if not number:
            entry.wrong("port", "a number is needed")
            continue
        names = ("loadBalancer", "connectionPool", "outlierDetection")
        yield PortPolicy(number, _policy({name: entry.within(name) for name in names}))
        if entry.has("tls"):
            leave_out(entry, "tls", _ELSEWHERE["tls"])
        entry.refuse_others(API)


def _policy(sections: dict[str, Fields | None]) -> TrafficPolicy:
    balancer, pool, outlier = sections["loadBalancer"], sections["connectionPool"], sections["outlierDetection"]
    tcp = pool.within("tcp") if pool is not None else None
    if pool is not None:
        if pool.has("http"):
            leave_out(pool, "http", "it is about requests")
        pool.refuse_others(API)
    policy = TrafficPolicy(
        algorithm=_algorithm(balancer) if balancer is not None else None,
        max_connections=tcp.number("maxConnections") if tcp is not None else 0,
        connect_seconds=tcp.seconds("connectTimeout", least=0.001) if tcp is not None else 0.0,
        idle_seconds=tcp.seconds("idleTimeout") if tcp is not None else 0.0,
        keepalive=_keepalive(tcp) if tcp is not None else None,
        outlier=_outlier(outlier) if outlier is not None else None,
        locality=_locality(balancer, counts_failures=outlier is not None) if balancer is not None else None,
    )
    if tcp is not None:
        if tcp.has("maxConnectionDuration"):
            leave_out(tcp, "maxConnectionDuration", "connections live as long as their ends want")
        tcp.refuse_others(API)
    return policy


def _algorithm(balancer: Fields) -> Algorithm | None:
    algorithm = balancer.choice("simple", _SIMPLE, None)
    if balancer.text("simple") == "PASSTHROUGH":
        leave_out(balancer, "simple", "PASSTHROUGH is the Service's to say")
    consistent = balancer.within("consistentHash")
    if consistent is not None:
        if consistent.flag("useSourceIp"):
            algorithm = Algorithm.SOURCE_IP
        for name in _HASHES:
            if consistent.has(name):
                leave_out(consistent, name, "it is about requests")
        for name in ("minimumRingSize", "ringHash", "maglev"):
            consistent.has(name)  # how a table is made that we have no need of
        consistent.refuse_others(API)
    balancer.has("localityLbSetting")
    for name in ("warmup", "warmupDurationSecs"):
        if balancer.has(name):
            leave_out(balancer, name, "there is none")
    balancer.refuse_others(API)
    return algorithm


def _locality(balancer: Fields, *, counts_failures: bool) -> LocalityBalancing | None:
    """None when it is not written, or would have no effect."""
    found = parse_locality(balancer)
    if found is None or not found.is_on or found.distributions or counts_failures:
        return found
    leave_out(balancer, "localityLbSetting", "without outlierDetection nobody knows when to go further")
    return None


def _keepalive(tcp: Fields) -> Keepalive | None:
    written = tcp.within("tcpKeepalive")
    if written is None:
        return None
    found = Keepalive(
        probes=written.number("probes", most=127),
        idle_seconds=round(written.seconds("time", least=1.0)),
        interval_seconds=round(written.seconds("interval", least=1.0)),
    )
    written.refuse_others(API)
    return found


def _outlier(written: Fields) -> OutlierDetection | None:
    """None when nothing is counted. Connections that cannot be made count as what Istio calls 5xx for TCP."""
    if written.flag("splitExternalLocalOriginErrors"):
        counts = [written.number("consecutiveLocalOriginFailures", 5)]
        for name in ("consecutive5xxErrors", "consecutiveGatewayErrors"):
            written.has(name)
    else:
        written.has("consecutiveLocalOriginFailures")
        counts = [written.number("consecutive5xxErrors", 5), written.number("consecutiveGatewayErrors", 0)]
    if written.has("consecutiveErrors"):
        leave_out(written, "consecutiveErrors", "consecutive5xxErrors has taken its place")
    if written.number("minHealthPercent"):
        leave_out(written, "minHealthPercent", "who is ejected stays so")
    interval = written.seconds("interval", 10.0, 0.001)
    base = written.seconds("baseEjectionTime", 30.0, 0.001)
    percent = written.number("maxEjectionPercent", 10, most=100)
    written.refuse_others(API)
    failures = min((count for count in counts if count), default=0)
    if not failures:
        return None
    return OutlierDetection(
        failures=failures, base_ejection_seconds=base, max_ejection_percent=percent, interval_seconds=interval
    )


def leave_out(fields: Fields, name: str, why: str) -> None:
    """A finding: it is written, and not applied here."""
    message = f"not applied by node agents: {why}"
    check = "Nothing to do if a waypoint has it."
    fields.report.warn(fields.line(name), message, check, "MN0301", field=fields.below(name))
