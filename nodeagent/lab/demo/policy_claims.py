# SPDX-License-Identifier: Apache-2.0
"""Claims about who may talk to whom, and how fast a change of mind is in force."""

import time

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import Echo, is_served
from nodeagent.lab.demo.stage import OTHER_PORT, PORT, Stage

ENFORCED_WITHIN_SECONDS = 5.0
POLICY = "30-policy.yaml"
PEER = "40-peer-authentication.yaml"


def _expect(stage: Stage, expected: dict[tuple[str, int], bool], words: str) -> None:
    """Every (client, port) of db is served or not as expected, IPv4 and IPv6, once the rule has arrived."""
    db = stage.pod("db")
    cases = [(name, ip, port, wanted) for (name, port), wanted in expected.items() for ip in db.ips]
    # The refusals first: they are how the arrival of a rule is seen.
    cases.sort(key=lambda case: case[3])
    for name, ip, port, wanted in cases:
        words_here = f"{words}: {name} to {ip} port {port} {'served' if wanted else 'refused'}"
        eventually(
            lambda name=name, ip=ip, port=port, wanted=wanted: is_served(stage.pod(name), ip, port) is wanted,  # type: ignore[misc]
            ENFORCED_WITHIN_SECONDS,
            words_here,
        )


def policies(stage: Stage) -> str:
    """ALLOW and DENY by principal, namespace, address block and port."""
    web_ips = [str(ip) for ip in stage.pod("web").ips]
    rules: list[tuple[str, str, mesh.Object, dict[tuple[str, int], bool]]] = [
        (
            "principal",
            "ALLOW",
            mesh.rule(principals=["cluster.local/ns/shop/sa/web"]),
            {("web", PORT): True, ("batch", PORT): False},
        ),
        ("namespace", "DENY", mesh.rule(namespaces=["backoffice"]), {("web", PORT): True, ("batch", PORT): False}),
        ("address block", "ALLOW", mesh.rule(ip_blocks=web_ips), {("web", PORT): True, ("batch", PORT): False}),
        ("port", "ALLOW", mesh.rule(ports=[PORT]), {("web", PORT): True, ("web", OTHER_PORT): False}),
        ("port", "DENY", mesh.rule(ports=[OTHER_PORT]), {("web", PORT): True, ("web", OTHER_PORT): False}),
    ]
    told = []
    for kind, action, rule, expected in rules:
        stage.write(POLICY, [mesh.authorization("db", "shop", "db", action, [rule])])
        _expect(stage, expected, f"{action} by {kind}")
        told.append(f"{action} by {kind}")
    stage.write(POLICY, [])
    _expect(stage, {("web", OTHER_PORT): True, ("batch", PORT): True}, "without a policy")
    return f"{', '.join(told)}: each let the right ones in and kept the others out, IPv4 and IPv6"


def plaintext(stage: Stage) -> str:
    """A client without identity is refused under STRICT and served under PERMISSIVE."""
    stage.write(PEER, [mesh.peer_authentication("default", "shop", "STRICT")])
    _expect(stage, {("legacy", PORT): False, ("web", PORT): True}, "STRICT")
    line = stage.last_refusal("node-b", {str(ip) for ip in stage.pod("legacy").ips})
    stage.write(PEER, [mesh.peer_authentication("default", "shop", "PERMISSIVE")])
    _expect(stage, {("legacy", PORT): True, ("web", PORT): True}, "PERMISSIVE")
    stage.write(PEER, [])
    return f"legacy to db: refused under STRICT by {line.get('policy', '?')}, served under PERMISSIVE, IPv4 and IPv6"


def edit_enforced(stage: Stage) -> str:
    """An edit is in force for new connections and cuts an open one."""
    web, db, told = stage.pod("web"), stage.pod("db"), []
    deny = mesh.authorization("db", "shop", "db", "DENY", [mesh.rule(principals=["cluster.local/ns/shop/sa/web"])])
    for ip in db.ips:
        echo = Echo(web, ip, PORT)
        echo.exchange()
        began = time.monotonic()
        stage.write(POLICY, [deny])
        cut = echo.seconds_until_cut(ENFORCED_WITHIN_SECONDS)
        demand(cut is not None, f"{ip}: the open connection lived on for {ENFORCED_WITHIN_SECONDS:g} s")
        echo.close()
        demand(not is_served(web, ip, PORT), f"{ip}: a new connection was served after the open one had been cut")
        refused = (time.monotonic() - began) * 1000
        family = "IPv6" if ":" in ip else "IPv4"
        told.append(f"{family} cut after {(cut or 0) * 1000:.0f} ms, new refused by {refused:.0f} ms")
        stage.write(POLICY, [])
        eventually(lambda ip=ip: is_served(web, ip, PORT), ENFORCED_WITHIN_SECONDS, "the policy is gone")  # type: ignore[misc]
    return "; ".join(told)


def invalid_refused(stage: Stage) -> str:
    """An edit that is not valid is refused with file and line, and the old rule stays in force."""
    stage.write(POLICY, [mesh.authorization("db", "shop", "db", "DENY", [mesh.rule(namespaces=["backoffice"])])])
    _expect(stage, {("batch", PORT): False, ("web", PORT): True}, "the valid rule")
    stage.write(POLICY, [mesh.authorization("db", "shop", "db", "DENY", [mesh.rule(ip_blocks=["10.244.1.0/99"])])])
    found: list[str] = []

    def told() -> bool:
        found[:] = [finding for finding in stage.findings() if POLICY in finding and "10.244.1.0/99" in finding]
        return bool(found)

    eventually(told, ENFORCED_WITHIN_SECONDS, "the control plane named file and line")
    _expect(stage, {("batch", PORT): False, ("web", PORT): True}, "the old rule")
    stage.write(POLICY, [])
    _expect(stage, {("batch", PORT): True}, "without a policy")
    return f"{found[0]}; the old rule stayed in force"
