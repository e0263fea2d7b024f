# SPDX-License-Identifier: Apache-2.0
"""Istio's rules for layer 4, from YAML to the verdict, a row for each and named after it.

R: how an AuthorizationPolicy is read (istiod, authorization.go). E: how policies decide (ztunnel, rbac.rs and
state.rs). L: what becomes of layer 7 attributes. T: traps of the converter. P: PeerAuthentication. Each row is asked of
our whole way, parser to evaluator, and of the naive reading that the random cases are compared with.

What cannot be written in YAML (a clause without matches, a policy that has not arrived) has its rows in
tests/unit/policy/test_evaluate.py.
"""

import pytest
import yaml

from tests.differential.comparison import Plain
from tests.differential.mesh import MeshPart, OurMesh

ROOT = "istio-system"
PODS = """
kind: MeshConfig
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, status: {podIP: 10.9.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, status: {podIP: 10.9.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: job, namespace: ops, labels: {app: db}}, status: {podIP: 10.9.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: gate, namespace: istio-system, labels: {app: db}},
 status: {podIP: 10.9.0.4}}
---
{apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: shop}, status: {podIP: 10.9.0.5}}
"""

OPEN, CLOSED = "allowed by None", "not allowed"
STATIC = f"denied by {ROOT}/istio_converted_static_strict"
OWN = "denied by shop/converted_peer_authentication_pa"


def ap(spec: str, namespace: str = "shop", name: str = "ap", annotations: str = "") -> str:
    metadata = f"{{name: {name}, namespace: {namespace}, annotations: {{{annotations}}}}}"
    return f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {metadata}\nspec: {spec}\n"


def allow(rule: str, namespace: str = "shop", name: str = "ap") -> str:
    return ap(f"{{rules: [{rule}]}}", namespace, name)


def deny(rule: str, namespace: str = "shop", name: str = "ap") -> str:
    return ap(f"{{action: DENY, rules: [{rule}]}}", namespace, name)


def source(fields: str) -> str:
    return f"{{from: [{{source: {{{fields}}}}}]}}"


def operation(fields: str) -> str:
    return f"{{to: [{{operation: {{{fields}}}}}]}}"


def when(key: str, fields: str) -> str:
    return f"{{when: [{{key: {key}, {fields}}}]}}"


def pa(spec: str, namespace: str = "shop", name: str = "pa", created: str = "") -> str:
    metadata = f"{{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}"
    return f"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {metadata}\nspec: {spec}\n"


def mode(mode: str, namespace: str = "shop", name: str = "pa", created: str = "") -> str:
    return pa(f"{{mtls: {{mode: {mode}}}}}", namespace, name, created)


def own(mode: str, ports: str = "") -> str:
    """For the pods with app=db of shop."""
    levels = f", portLevelMtls: {{{ports}}}" if ports else ""
    return pa(f"{{selector: {{matchLabels: {{app: db}}}}, mtls: {{mode: {mode}}}{levels}}}")


DB = "selector: {matchLabels: {app: db}}"
WEB, PLAIN = "shop/web", ""
TARGET = "{kind: Gateway, group: gateway.networking.k8s.io, name: w}"


def ask(
    client: str = WEB,
    *,
    port: int = 80,
    ip: str = "10.0.0.1",
    to: str = "10.9.0.1",
    domain: str = "cluster.local",
    pod: str = "shop/db",
) -> Plain:
    """`client` is namespace/account, or empty for one without identity."""
    identity = f"spiffe://{domain}/ns/{client.replace('/', '/sa/')}" if client else ""
    return {"identity": identity, "source_ip": ip, "destination_ip": to, "port": port, "pod": pod}


def by(name: str = "shop/ap") -> str:
    return f"allowed by {name}"


def no(name: str = "shop/ap") -> str:
    return f"denied by {name}"


Row = tuple[str, Plain, str]
ROWS: dict[str, Row] = {
    # ---- how a policy is read
    "R1 targetRef: for waypoints": (ap(f"{{action: DENY, rules: [{{}}], targetRef: {TARGET}}}"), ask(), OPEN),
    "R1 targetRefs: for waypoints": (ap(f"{{action: DENY, rules: [{{}}], targetRefs: [{TARGET}]}}"), ask(), OPEN),
    "R2 no selector: its namespace": (deny("{}"), ask(), no()),
    "R2 no selector: no other namespace": (deny("{}"), ask(pod="ops/job"), OPEN),
    "R2 no selector in the root namespace: all": (deny("{}", ROOT), ask(pod="ops/job"), no(f"{ROOT}/ap")),
    "R2 a selector": (ap(f"{{action: DENY, rules: [{{}}], {DB}}}"), ask(), no()),
    "R2 a selector selects no other pod": (ap(f"{{action: DENY, rules: [{{}}], {DB}}}"), ask(pod="shop/web"), OPEN),
    "R3 a selector in the root namespace: everywhere": (
        ap(f"{{action: DENY, rules: [{{}}], {DB}}}", ROOT),
        ask(pod="ops/job"),
        no(f"{ROOT}/ap"),
    ),
    "R3 a selector elsewhere: its own namespace": (
        ap(f"{{action: DENY, rules: [{{}}], {DB}}}"),
        ask(pod="ops/job"),
        OPEN,
    ),
    "R3 a pod without labels: as if every selector selected it": (
        ap(f"{{action: DENY, rules: [{{}}], {DB}}}", ROOT),
        ask(pod="shop/bare"),
        no(f"{ROOT}/ap"),
    ),
    "R4 ALLOW by default": (ap("{rules: [{}]}"), ask(), by()),
    "R4 ALLOW": (ap("{action: ALLOW, rules: [{}]}"), ask(), by()),
    "R4 DENY": (ap("{action: DENY, rules: [{}]}"), ask(), no()),
    "R4 AUDIT is not converted": (ap("{action: AUDIT, rules: [{}]}"), ask(), OPEN),
    "R4 CUSTOM is not converted": (ap("{action: CUSTOM, provider: {name: x}, rules: [{}]}"), ask(), OPEN),
    "R5 a dry run is not enforced": (
        ap("{action: DENY, rules: [{}]}", annotations="istio.io/dry-run: 'true'"),
        ask(),
        OPEN,
    ),
    "R5 dry run: only the word true": (
        ap("{action: DENY, rules: [{}]}", annotations="istio.io/dry-run: 'false'"),
        ask(),
        no(),
    ),
    "R6 rules are alternatives": (
        allow(f"{source('namespaces: [ops]')}, {source('namespaces: [shop]')}"),
        ask(),
        by(),
    ),
    "R6 from entries are alternatives": (
        allow("{from: [{source: {namespaces: [ops]}}, {source: {namespaces: [shop]}}]}"),
        ask(),
        by(),
    ),
    "R6 to entries are alternatives": (
        allow("{to: [{operation: {ports: ['1']}}, {operation: {ports: ['80']}}]}"),
        ask(),
        by(),
    ),
    "R6 from and to": (
        allow("{from: [{source: {namespaces: [shop]}}], to: [{operation: {ports: ['1']}}]}"),
        ask(),
        CLOSED,
    ),
    "R6 from and when": (
        allow("{from: [{source: {namespaces: [shop]}}], when: [{key: destination.port, values: ['1']}]}"),
        ask(),
        CLOSED,
    ),
    "R6 each when is one more condition": (
        allow("{when: [{key: destination.port, values: ['80']}, {key: source.namespace, values: [ops]}]}"),
        ask(),
        CLOSED,
    ),
    "R6 fields of an entry: all": (allow(source("namespaces: [shop], ipBlocks: [10.7.0.0/16]")), ask(), CLOSED),
    "R6 values of a field: any": (allow(source("namespaces: [ops, shop]")), ask(), by()),
    "R6 a not-list: none of them": (allow(source("notNamespaces: [ops, shop]")), ask(), CLOSED),
    "R6 a list and its not-list": (allow(source("namespaces: ['*'], notNamespaces: [ops]")), ask(), by()),
    "R7 no rules: nothing is allowed": (ap("{}"), ask(), CLOSED),
    "R7 an empty list of rules: nothing is allowed": (ap("{rules: []}"), ask(), CLOSED),
    "R7 an empty rule: everything": (allow("{}"), ask(PLAIN), by()),
    "R8 a policy is named by namespace and name": (deny("{}", name="a.b-c"), ask(), no("shop/a.b-c")),
    # ---- fields
    "principals": (allow(source("principals: [cluster.local/ns/shop/sa/web]")), ask(), by()),
    "principals: another account": (allow(source("principals: [cluster.local/ns/shop/sa/web2]")), ask(), CLOSED),
    "principals: another trust domain": (
        allow(source("principals: [cluster.local/ns/shop/sa/web]")),
        ask(domain="td1"),
        CLOSED,
    ),
    "notPrincipals": (deny(source("notPrincipals: [cluster.local/ns/shop/sa/web]")), ask(), OPEN),
    "notPrincipals: another": (deny(source("notPrincipals: [cluster.local/ns/shop/sa/x]")), ask(), no()),
    "namespaces": (allow(source("namespaces: [shop]")), ask(), by()),
    "namespaces: another": (allow(source("namespaces: [sho]")), ask(), CLOSED),
    "notNamespaces": (deny(source("notNamespaces: [shop]")), ask(), OPEN),
    "serviceAccounts: namespace/name": (allow(source("serviceAccounts: [ops/job]")), ask("ops/job"), by()),
    "serviceAccounts: a name is of the policy's namespace": (allow(source("serviceAccounts: [web]")), ask(), by()),
    "serviceAccounts: and of no other": (allow(source("serviceAccounts: [web]")), ask("ops/web"), CLOSED),
    "serviceAccounts: of any trust domain": (allow(source("serviceAccounts: [web]")), ask(domain="td1"), by()),
    "notServiceAccounts": (deny(source("notServiceAccounts: [web]")), ask(), OPEN),
    "ipBlocks: a block": (allow(source("ipBlocks: [10.0.0.0/24]")), ask(), by()),
    "ipBlocks: an address": (allow(source("ipBlocks: [10.0.0.1]")), ask(), by()),
    "ipBlocks: host bits do not matter": (allow(source("ipBlocks: [10.0.0.77/24]")), ask(), by()),
    "ipBlocks: families do not mix": (allow(source("ipBlocks: ['::/0']")), ask(), CLOSED),
    "ipBlocks: IPv6": (allow(source("ipBlocks: ['fd00::/16']")), ask(ip="fd00::7"), by()),
    "notIpBlocks": (deny(source("notIpBlocks: [10.0.0.0/24]")), ask(), OPEN),
    "ports": (allow(operation("ports: ['80']")), ask(), by()),
    "ports: another": (allow(operation("ports: ['8080']")), ask(), CLOSED),
    "notPorts": (deny(operation("notPorts: ['80']")), ask(), OPEN),
    "when source.ip": (allow(when("source.ip", "values: [10.0.0.0/8]")), ask(), by()),
    "when source.ip, not": (deny(when("source.ip", "notValues: [10.0.0.0/8]")), ask(), OPEN),
    "when source.namespace": (allow(when("source.namespace", "values: ['sh*']")), ask(), by()),
    "when source.namespace, not": (deny(when("source.namespace", "notValues: [shop]")), ask(), OPEN),
    "when source.principal": (allow(when("source.principal", "values: ['*/sa/web']")), ask(), by()),
    "when source.principal, not": (deny(when("source.principal", "notValues: ['*']")), ask(), OPEN),
    "when destination.ip": (allow(when("destination.ip", "values: [10.9.0.0/24]")), ask(), by()),
    "when destination.ip, not": (deny(when("destination.ip", "notValues: [10.9.0.1]")), ask(), OPEN),
    "when destination.port": (allow(when("destination.port", "values: ['80', '81']")), ask(), by()),
    "when destination.port, not": (deny(when("destination.port", "notValues: ['80']")), ask(), OPEN),
    "when with values and notValues: both": (
        allow(when("source.namespace", "values: ['*'], notValues: [shop]")),
        ask(),
        CLOSED,
    ),
    "strings: * is presence": (allow(source("principals: ['*']")), ask(), by()),
    "strings: a star first is a suffix": (allow(source("principals: ['*/ns/shop/sa/web']")), ask(), by()),
    "strings: a star last is a prefix": (allow(source("principals: ['cluster.local/ns/shop/*']")), ask(), by()),
    "strings: else exact": (allow(source("principals: [ns/shop/sa/web]")), ask(), CLOSED),
    "strings: principals have no spiffe://": (
        allow(source("principals: ['spiffe://cluster.local/ns/shop/sa/web']")),
        ask(),
        CLOSED,
    ),
    # ---- how policies decide
    "E1 a DENY that matches denies": (deny("{}") + "---\n" + allow("{}", name="other"), ask(), no()),
    "E2 without ALLOW policies: allowed": (deny(source("namespaces: [ops]")), ask(), OPEN),
    "E3 any ALLOW that matches allows": (allow("{}") + "---\n" + ap("{}", name="nothing"), ask(), by()),
    "E4 ALLOW policies, and none matches": (allow(source("namespaces: [ops]")), ask(), CLOSED),
    "E a dry-run ALLOW does not close": (ap("{}", annotations="istio.io/dry-run: 'true'"), ask(), OPEN),
    "E policies of namespace, mesh and selector add up": (
        allow("{}") + "---\n" + deny(source("namespaces: [shop]"), ROOT),
        ask(),
        no(f"{ROOT}/ap"),
    ),
    "E plaintext: principals * is false": (allow(source("principals: ['*']")), ask(PLAIN), CLOSED),
    "E plaintext: namespaces * is false": (allow(source("namespaces: ['*']")), ask(PLAIN), CLOSED),
    "E plaintext: notPrincipals is true": (deny(source("notPrincipals: [x]")), ask(PLAIN), no()),
    "E plaintext: notNamespaces admits strangers": (allow(source("notNamespaces: [ops]")), ask(PLAIN), by()),
    "E plaintext: notServiceAccounts is true": (deny(source("notServiceAccounts: [web]")), ask(PLAIN), no()),
    # ---- layer 7 attributes: ALLOW leaves out the rule, DENY the attribute
    "L mixed entry, ALLOW: nothing left": (allow(operation("ports: ['80'], methods: [GET]")), ask(), CLOSED),
    "L mixed entry, DENY: denies more": (deny(operation("ports: ['80'], methods: [GET]")), ask(), no()),
    "L mixed source, ALLOW: nothing left": (allow(source("namespaces: [shop], requestPrincipals: [x]")), ask(), CLOSED),
    "L mixed source, DENY: denies more": (deny(source("namespaces: [shop], requestPrincipals: [x]")), ask(), no()),
    "L layer 7 to with a source, ALLOW": (
        allow("{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [GET]}}]}"),
        ask(),
        CLOSED,
    ),
    "L layer 7 to with a source, DENY: never fires": (
        deny("{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [GET]}}]}"),
        ask(),
        OPEN,
    ),
    "L layer 7 to beside another to, DENY: the other fires": (
        deny("{to: [{operation: {methods: [GET]}}, {operation: {ports: ['80']}}]}"),
        ask(),
        no(),
    ),
    "L layer 7 when with a source, ALLOW": (
        allow("{from: [{source: {namespaces: [shop]}}], when: [{key: 'request.headers[a]', values: [b]}]}"),
        ask(),
        CLOSED,
    ),
    "L layer 7 when with a source, DENY: never fires": (
        deny("{from: [{source: {namespaces: [shop]}}], when: [{key: 'request.headers[a]', values: [b]}]}"),
        ask(),
        OPEN,
    ),
    "L only layer 7, ALLOW: nothing left": (allow(operation("paths: [/x]")), ask(), CLOSED),
    "L only layer 7, DENY: no effect": (deny(operation("paths: [/x]")), ask(), OPEN),
    "L one rule of two is left out, ALLOW": (allow(f"{operation('hosts: [x]')}, {{}}"), ask(), by()),
    # ---- traps
    "T1 trustDomains": (allow(source("trustDomains: [td1]")), ask(domain="td1"), by()),
    "T1 trustDomains, another": (allow(source("trustDomains: [td1]")), ask(), CLOSED),
    "T1 trustDomains, a longer one": (allow(source("trustDomains: [td1]")), ask(domain="td12"), CLOSED),
    "T1 trustDomains beside principals": (
        allow(source("trustDomains: [td1], principals: ['*/sa/web']")),
        ask("shop/db", domain="td1"),
        CLOSED,
    ),
    "T1 trustDomains without identity": (deny(source("trustDomains: ['*']")), ask(PLAIN), OPEN),
    "T1 notTrustDomains": (deny(source("notTrustDomains: [td1]")), ask(), no()),
    "T1 notTrustDomains, this one": (deny(source("notTrustDomains: [td1]")), ask(domain="td1"), OPEN),
    "L DENY of layer 7 alone, strict": (
        ap(
            "{action: DENY, rules: [" + operation("methods: [POST]") + "]}", annotations="nodeagent/strict-deny: 'true'"
        ),
        ask(),
        no(),
    ),
    "T2 when source.serviceAccount is layer 7, ALLOW": (
        allow(when("source.serviceAccount", "values: [web]")),
        ask(),
        CLOSED,
    ),
    "T2 when source.serviceAccount is layer 7, DENY": (
        deny(when("source.serviceAccount", "values: [web]")),
        ask(),
        OPEN,
    ),
    "T2 when source.trustDomain is layer 7, DENY": (deny(when("source.trustDomain", "values: ['*']")), ask(), OPEN),
    "T3 cluster.local is no alias": (allow(source("principals: ['cluster.local/*']")), ask(domain="td1"), CLOSED),
    "T5 dots of an account are dots": (allow(source("serviceAccounts: [we.b]")), ask("shop/wexb"), CLOSED),
    "T5 an account with dots": (allow(source("serviceAccounts: [we.b]")), ask("shop/we.b"), by()),
    "T6 port exceptions are one rule, not two": (own("STRICT", "80: {mode: PERMISSIVE}"), ask(port=81), OPEN),
    "T7 an empty selector is none": (ap("{action: DENY, rules: [{}], selector: {}}"), ask(pod="shop/web"), no()),
    # ---- PeerAuthentication: plaintext is what it refuses
    "P STRICT does not ask who": (mode("STRICT"), ask("ops/job", domain="td1"), OPEN),
    "P1 mesh": (mode("STRICT", ROOT), ask(PLAIN), STATIC),
    "P1 namespace": (mode("STRICT"), ask(PLAIN), STATIC),
    "P1 namespace, not another": (mode("STRICT"), ask(PLAIN, pod="ops/job"), OPEN),
    "P1 namespace with an empty selector": (pa("{mtls: {mode: STRICT}, selector: {}}"), ask(PLAIN), STATIC),
    "P1 workload": (own("STRICT"), ask(PLAIN), STATIC),
    "P1 workload, not another": (own("STRICT"), ask(PLAIN, pod="shop/web"), OPEN),
    "P1 a selector in the root namespace is ignored": (
        pa(f"{{{DB}, mtls: {{mode: STRICT}}}}", ROOT),
        ask(PLAIN, pod=f"{ROOT}/gate"),
        OPEN,
    ),
    "P1 of several the oldest": (
        mode("PERMISSIVE", name="young", created="2026-02-01T00:00:00Z")
        + "---\n"
        + mode("STRICT", name="old", created="2026-01-01T00:00:00Z"),
        ask(PLAIN),
        STATIC,
    ),
    "P1 without a timestamp it is the youngest": (
        mode("PERMISSIVE", name="a") + "---\n" + mode("STRICT", name="b", created="2026-01-01T00:00:00Z"),
        ask(PLAIN),
        STATIC,
    ),
    "P2 namespace over mesh": (mode("STRICT", ROOT) + "---\n" + mode("PERMISSIVE"), ask(PLAIN), OPEN),
    "P2 workload over namespace": (mode("STRICT", name="ns") + "---\n" + own("PERMISSIVE"), ask(PLAIN), OPEN),
    "P2 UNSET inherits from the namespace": (mode("STRICT", name="ns") + "---\n" + own("UNSET"), ask(PLAIN), STATIC),
    "P2 UNSET inherits from the mesh": (mode("STRICT", ROOT) + "---\n" + mode("UNSET"), ask(PLAIN), STATIC),
    "P2 absent inherits": (mode("STRICT", ROOT) + "---\n" + pa("{}"), ask(PLAIN), STATIC),
    "P2 PERMISSIVE by default": (pa("{}"), ask(PLAIN), OPEN),
    "P2 DISABLE is PERMISSIVE": (mode("STRICT", ROOT) + "---\n" + mode("DISABLE"), ask(PLAIN), OPEN),
    "P3 STRICT without port exceptions: the static policy": (own("STRICT"), ask(PLAIN), STATIC),
    "P4 a converted object has its name": (own("STRICT", "80: {mode: PERMISSIVE}"), ask(PLAIN, port=81), OWN),
    "P5 STRICT, a PERMISSIVE port": (own("STRICT", "80: {mode: PERMISSIVE}"), ask(PLAIN), OPEN),
    "P5 STRICT, a DISABLE port": (own("STRICT", "80: {mode: DISABLE}"), ask(PLAIN), OPEN),
    "P5 STRICT, two excepted ports": (
        own("STRICT", "80: {mode: DISABLE}, 81: {mode: PERMISSIVE}"),
        ask(PLAIN, port=81),
        OPEN,
    ),
    "P5 the static policy is not attached": (
        mode("STRICT", ROOT) + "---\n" + own("STRICT", "80: {mode: PERMISSIVE}"),
        ask(PLAIN),
        OPEN,
    ),
    "P6 PERMISSIVE, a STRICT port": (own("PERMISSIVE", "80: {mode: STRICT}"), ask(PLAIN), OWN),
    "P6 PERMISSIVE, other ports": (own("PERMISSIVE", "80: {mode: STRICT}"), ask(PLAIN, port=81), OPEN),
    "P6 DISABLE, a STRICT port": (own("DISABLE", "80: {mode: STRICT}"), ask(PLAIN), OWN),
    "P6 UNSET, a STRICT port": (own("UNSET", "80: {mode: STRICT}"), ask(PLAIN), OWN),
    "P7 STRICT, all ports STRICT: the static policy": (own("STRICT", "80: {mode: STRICT}"), ask(PLAIN), STATIC),
    "P8 UNSET under STRICT, a PERMISSIVE port": (
        mode("STRICT", ROOT) + "---\n" + own("UNSET", "80: {mode: PERMISSIVE}"),
        ask(PLAIN),
        OPEN,
    ),
    "P8 UNSET under STRICT, other ports": (
        mode("STRICT", ROOT) + "---\n" + own("UNSET", "80: {mode: PERMISSIVE}"),
        ask(PLAIN, port=81),
        OWN,
    ),
    "P8 UNSET under STRICT, a STRICT port": (
        mode("STRICT", ROOT) + "---\n" + own("UNSET", "80: {mode: STRICT}"),
        ask(PLAIN, port=81),
        STATIC,
    ),
    "P9 UNSET under STRICT, a DISABLE port: overlooked": (
        mode("STRICT", ROOT) + "---\n" + own("UNSET", "80: {mode: DISABLE}"),
        ask(PLAIN),
        STATIC,
    ),
    "P10 the port is the workload's": (
        own("STRICT", "80: {mode: PERMISSIVE}")
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop},\n"
        + " spec: {clusterIP: 10.96.0.1, selector: {app: db}, ports: [{port: 80, targetPort: 8080}]}}",
        ask(PLAIN, port=8080),
        OWN,
    ),
}


def _written(text: str) -> list[Plain]:
    return [one for one in yaml.safe_load_all(f"{PODS}---\n{text}") if one is not None]


@pytest.mark.parametrize(("text", "asked", "verdict"), [pytest.param(*row, id=name) for name, row in ROWS.items()])
def test_a_rule(text: str, asked: Plain, verdict: str) -> None:
    connection = {name: value for name, value in asked.items() if name != "pod"}
    comparison = MeshPart().replay({"objects": _written(text), "pod": asked["pod"], "connection": connection})
    assert comparison.found == verdict
    assert comparison.agrees, comparison


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(allow(source("principals: ['*web*']")), id="strings: two stars"),
        pytest.param(allow(source("principals: ['a*b']")), id="strings: a star inside"),
        pytest.param(allow(source("serviceAccounts: ['*']")), id="serviceAccounts: no wildcard"),
        pytest.param(allow(source("serviceAccounts: [a], namespaces: [b]")), id="serviceAccounts: not with namespaces"),
        pytest.param(allow(source(f"serviceAccounts: {[f'a{n}' for n in range(17)]}")), id="serviceAccounts: 17"),
        pytest.param(deny(operation("ports: ['65536']")), id="T4 an impossible port"),
        pytest.param(deny(source("ipBlocks: [10.0.0.0/33]")), id="T4 an impossible block"),
        pytest.param(allow(source("trustDomains: ['*.td']")), id="T1 a trust domain that no principal can say"),
        pytest.param(allow(source("trustDomains: [a/b]")), id="T1 no trust domain"),
        pytest.param(
            ap("{rules: [{}]}", annotations="nodeagent/strict-deny: 'yes'"), id="strict: neither true nor false"
        ),
        pytest.param(ap("{action: DENY}"), id="R7 DENY without rules"),
        pytest.param(pa("{portLevelMtls: {80: {mode: STRICT}}}"), id="P10 ports need a selector"),
        pytest.param(own("STRICT", "0: {mode: STRICT}"), id="P10 port 0"),
    ],
)
def test_what_is_refused_and_not_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="refused"):
        OurMesh(_written(text))
