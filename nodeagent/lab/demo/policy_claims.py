# SPDX-License-Identifier: Apache-2.0
"""Claims about who may talk to whom, and how fast a change of mind is in force."""

import contextlib
import dataclasses
import socket
import time
from collections.abc import Iterator, Sequence

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import PATIENCE_SECONDS, Echo, Fate, ask, connect, fate, is_served
from nodeagent.lab.demo.program import Program, connected
from nodeagent.lab.demo.stage import OTHER_PORT, PORT, Stage
from nodeagent.model.address import Ip

ENFORCED_WITHIN_SECONDS = PATIENCE_SECONDS
NODE_PORT = 30080
POLICY = "30-policy.yaml"
OTHER_POLICY = "31-other-policy.yaml"
PEER = "40-peer-authentication.yaml"
_WEB = "cluster.local/ns/shop/sa/web"
_BATCH = "cluster.local/ns/backoffice/sa/batch"


@dataclasses.dataclass(frozen=True)
class Case:
    """One client, one target, and whether it shall be served."""

    client: str
    target: str
    port: int
    is_served: bool


def _cases(*rows: tuple[str, int, bool], targets: Sequence[str] = ("db",)) -> list[Case]:
    return [Case(client, target, port, wanted) for target in targets for client, port, wanted in rows]


def _expect(stage: Stage, cases: Sequence[Case], words: str) -> None:
    """Each client is served or refused as expected, IPv4 and IPv6, once the rule has arrived.

    Refused is a reset, of which the application has seen nothing, not even a connection.
    """
    # The refusals first: they are how the arrival of a rule is seen.
    for case in sorted(cases, key=lambda case: case.is_served):
        for index, ip in enumerate(stage.pod(case.target).ips):
            wanted = Fate.SERVED if case.is_served else Fate.REFUSED
            words_here = f"{words}: {case.client} to {ip} port {case.port} {wanted}"

            def is_so(case: Case = case, ip: Ip = ip, wanted: Fate = wanted) -> bool:
                return fate(stage.pod(case.client), ip, case.port) is wanted

            eventually(is_so, ENFORCED_WITHIN_SECONDS, words_here)
            if not case.is_served:
                before = _met(stage, case, index)
                demand(is_so(), f"{words_here}: and then not any more")
                met = _met(stage, case, index) - before
                demand(not met, f"{words_here}: but its application accepted {met} connections")


def _met(stage: Stage, case: Case, index: int) -> int:
    """Connections that the target accepted from the client; asked from within its own pod, past everything of ours."""
    target, client = stage.pod(case.target), stage.pod(case.client)
    loopback = Ip(("127.0.0.1", "::1")[index])
    return int(ask(target, loopback, case.port, f"MET {client.ips[index]}"))


def policies(stage: Stage) -> str:
    """ALLOW and DENY by principal, namespace, address block and port, between nodes and on one."""
    # Blocks that hold web (.2) and api (.3), and neither batch (.4) nor the other family.
    blocks = [f"{ip}/{bits}" for ip, bits in zip(stage.pod("web").ips, (31, 127), strict=True)]
    others = [f"{ip}/{bits}" for ip, bits in zip(stage.pod("batch").ips, (31, 127), strict=True)]
    by_client = (("web", PORT, True), ("batch", PORT, False))
    by_port = (("web", PORT, True), ("web", OTHER_PORT, False))
    rules = (
        ("principal", "ALLOW", mesh.rule(principals=[_WEB]), by_client),
        ("principal", "DENY", mesh.rule(principals=[_BATCH]), by_client),
        ("namespace", "ALLOW", mesh.rule(namespaces=["shop"]), by_client),
        ("namespace", "DENY", mesh.rule(namespaces=["backoffice"]), by_client),
        ("address block", "ALLOW", mesh.rule(ip_blocks=blocks), by_client),
        ("address block", "DENY", mesh.rule(ip_blocks=others), by_client),
        ("port", "ALLOW", mesh.rule(ports=[PORT]), by_port),
        ("port", "DENY", mesh.rule(ports=[OTHER_PORT]), by_port),
    )
    targets, told = ("db", "api"), []
    for kind, action, rule, rows in rules:
        stage.write(POLICY, [mesh.authorization(app, "shop", app, action, [rule]) for app in targets])
        _expect(stage, _cases(*rows, targets=targets), f"{action} by {kind}")
        told.append(f"{action} by {kind}")
    stage.write(POLICY, [])
    _expect(stage, _cases(("web", OTHER_PORT, True), ("batch", PORT, True), targets=targets), "without a policy")
    return (
        f"{', '.join(told)}: each let the right ones in and reset the others before the application saw them, "
        "IPv4 and IPv6, between nodes and on one"
    )


def plaintext(stage: Stage) -> str:
    """A client without identity is refused under STRICT and served under PERMISSIVE."""
    rows = [(client, PORT, True) for client in ("web", "legacy", "legacy2")]
    refused = [(client, port, client == "web") for client, port, _ in rows]
    # For the whole mesh, so that PERMISSIVE has something to say afterwards.
    strict = mesh.peer_authentication("default", "istio-system", "STRICT")
    stage.write(PEER, [strict])
    _expect(stage, _cases(*refused), "STRICT")
    stage.write(PEER, [strict, mesh.peer_authentication("default", "shop", "PERMISSIVE")])
    _expect(stage, _cases(*rows), "PERMISSIVE")
    stage.write(PEER, [])
    _expect(stage, _cases(*rows), "without a mode")
    return (
        "legacy (on db's node) and legacy2 (on the other): reset under the mesh's STRICT, served under shop's "
        "PERMISSIVE, IPv4 and IPv6; web served under both"
    )


def node_port_guarded(stage: Stage) -> str:
    """A NodePort of the node (its own NAT, as kube-proxy has it) leads to the guard of the pod, and not past it."""
    db, client, told = stage.pod("db"), stage.lab.control, []
    node = stage.lab.nodes[db.node]
    with stage.node_port(db, NODE_PORT, PORT):
        for ip, application in zip(node.ips, db.ips, strict=True):
            before = stage.packets(db.node).get("INBOUND", 0)
            served = fate(client, ip, NODE_PORT)
            demand(served is Fate.SERVED, f"{ip} port {NODE_PORT} was {served} although plain text is permitted")
            steered = stage.packets(db.node).get("INBOUND", 0) - before
            demand(steered > 0, f"{ip} port {NODE_PORT}: INBOUND stayed {before}, the proxy was not asked")
            told.append(f"{application} by {ip}: INBOUND +{steered}")
        stage.write(PEER, [mesh.peer_authentication("default", "istio-system", "STRICT")])
        for ip, loopback in zip(node.ips, (Ip("127.0.0.1"), Ip("::1")), strict=True):

            def is_refused(ip: Ip = ip) -> bool:
                return fate(client, ip, NODE_PORT) is Fate.REFUSED

            eventually(is_refused, ENFORCED_WITHIN_SECONDS, f"STRICT: {ip} port {NODE_PORT} refused")
            source = client.ips[loopback == "::1"]
            met = int(ask(db, loopback, PORT, f"MET {source}"))
            demand(is_refused(), f"STRICT: {ip} was refused and then not any more")
            more = int(ask(db, loopback, PORT, f"MET {source}")) - met
            demand(not more, f"STRICT: {ip} port {NODE_PORT} refused, and the application accepted {more} connections")
        stage.write(PEER, [])
        for ip in node.ips:
            eventually(
                lambda ip=ip: fate(client, ip, NODE_PORT) is Fate.SERVED,  # type: ignore[misc]
                ENFORCED_WITHIN_SECONDS,
                f"without a mode: {ip} port {NODE_PORT} served",
            )
    return f"{'; '.join(told)}, served in plain text; reset under STRICT before the application saw anything"


def flow_revoked(stage: Stage) -> str:
    """An idle connection in the kernel ends at both ends when a policy forbids it, without a packet of either.

    The record of one says why, and by which policy.
    """
    web, api, told = stage.pod("web"), stage.pod("api"), []
    deny = mesh.authorization("api", "shop", "api", "DENY", [mesh.rule(principals=[_WEB])])
    for ip in api.ips:
        with _in_the_kernel(stage, ip) as (connection, program):
            connection.sendall(b"HOW\n")
            demand(connection.recv(100) == b"watching\n", f"{ip}: the application did not answer")
            began = time.monotonic()
            stage.write(POLICY, [deny])
            demand(_was_aborted(connection), f"{ip}: the client's end lived on, or ended as if all were well")
            loopback = Ip("::1" if ":" in ip else "127.0.0.1")
            eventually(
                lambda loopback=loopback: ask(api, loopback, PORT, "ENDINGS") == "reset",  # type: ignore[misc]
                ENFORCED_WITHIN_SECONDS,
                f"{ip}: the application's end was aborted too",
            )
            seconds = time.monotonic() - began
            line = stage.access_line("node-a", str(web.ips[":" in ip]), program.port)
        recorded = line.get("path"), line.get("reason"), line.get("policy")
        demand(recorded == ("kernel", "policy_changed", "shop/api"), f"{ip}: recorded as {line}")
        stage.write(POLICY, [])
        eventually(lambda ip=ip: is_served(web, ip, PORT), ENFORCED_WITHIN_SECONDS, f"{ip}: the policy is gone")  # type: ignore[misc]
        told.append(f"{'IPv6' if ':' in ip else 'IPv4'} within {seconds * 1000:.0f} ms")
    return (
        f"connections between web and api on which nobody sent, both ends aborted: {', '.join(told)}; "
        "recorded with path=kernel, reason=policy_changed, policy=shop/api"
    )


@contextlib.contextmanager
def _in_the_kernel(stage: Stage, ip: Ip) -> Iterator[tuple[socket.socket, Program]]:
    """Two connections from web to api that the kernel carries: after an edit the workers do, for a moment.

    Tried again until it does, since an edit of the claim before may come to this node as late as now.
    """
    web = stage.pod("web")
    with contextlib.ExitStack() as stack:

        def are_there() -> bool:
            stack.close()
            before = stage.packets("node-a").get("LOCAL_ALLOWED", 0)
            pair[:] = [
                (stack.enter_context(connect(web, ip, PORT)), stack.enter_context(connected(web, ip, PORT, "ECHO")))
            ]
            return stage.packets("node-a").get("LOCAL_ALLOWED", 0) >= before + 2

        pair: list[tuple[socket.socket, Program]] = []
        eventually(are_there, ENFORCED_WITHIN_SECONDS, f"{ip}: the kernel lets web through")
        yield pair[0]


def _was_aborted(connection: socket.socket) -> bool:
    connection.settimeout(ENFORCED_WITHIN_SECONDS)
    try:
        connection.recv(1)
    except (ConnectionResetError, ConnectionAbortedError):
        return True
    except TimeoutError:
        return False
    return False


def edit_enforced(stage: Stage) -> str:
    """An edit is in force for new connections and cuts an open one, and no other."""
    web, told = stage.pod("web"), []
    targets = [("db", ip) for ip in stage.pod("db").ips] + [("api", ip) for ip in stage.pod("api").ips]
    for app, ip in targets:
        deny = mesh.authorization(app, "shop", app, "DENY", [mesh.rule(principals=[_WEB])])
        echo, bystander = Echo(web, ip, PORT), Echo(stage.pod("batch"), ip, PORT)
        for connection in (echo, bystander):
            connection.exchange()
        began = time.monotonic()
        stage.write(POLICY, [deny])
        cut = echo.seconds_until_cut(ENFORCED_WITHIN_SECONDS)
        demand(cut is not None, f"{ip}: the open connection lived on for {ENFORCED_WITHIN_SECONDS:g} s")
        echo.close()
        found = fate(web, ip, PORT)
        demand(found is Fate.REFUSED, f"{ip}: a new connection was {found} after the open one had been cut")
        refused = (time.monotonic() - began) * 1000
        bystander.exchange()
        bystander.close()
        place = f"{'IPv6' if ':' in ip else 'IPv4'} {'between nodes' if app == 'db' else 'on one node'}"
        told.append(f"{place} cut after {(cut or 0) * 1000:.0f} ms, new refused by {refused:.0f} ms")
        stage.write(POLICY, [])
        eventually(lambda ip=ip: is_served(web, ip, PORT), ENFORCED_WITHIN_SECONDS, "the policy is gone")  # type: ignore[misc]
    return f"{'; '.join(told)}; connections of a client still allowed went on"


def invalid_refused(stage: Stage) -> str:
    """An edit that is not valid is refused with file and line, and the old rule stays in force."""
    denied = _cases(("batch", PORT, False), ("web", PORT, True))
    valid = mesh.authorization("db", "shop", "db", "DENY", [mesh.rule(namespaces=["backoffice"])])
    bad_block = mesh.authorization("db", "shop", "db", "DENY", [mesh.rule(ip_blocks=["10.244.1.0/99"])])
    told = []
    for words, text in (("10.244.1.0/99", mesh.text([bad_block])), ("not YAML", "apiVersion: v1\nkind: [Pod\n")):
        stage.write(POLICY, [valid])
        _expect(stage, denied, "the valid rule")
        stage.write_text(POLICY, text)
        wanted = f"/{POLICY}:{_wrong_line(text)}: "
        told.append(stage.finding(wanted, words, ENFORCED_WITHIN_SECONDS))
        # A later edit that is valid: when it is in force, the invalid one has been everywhere, too.
        stage.write(OTHER_POLICY, [mesh.authorization("api", "shop", "api", "DENY", [mesh.rule(principals=[_WEB])])])
        _expect(stage, _cases(("web", PORT, False), targets=("api",)), "an edit after the invalid one")
        demand(not is_served(stage.pod("batch"), stage.pod("db").ipv4, PORT), f"{words}: the old rule was lost")
        _expect(stage, denied, "the old rule")
        stage.write(OTHER_POLICY, [])
    stage.write(POLICY, [])
    _expect(stage, _cases(("batch", PORT, True)), "without a policy")
    _expect(stage, _cases(("web", PORT, True), targets=("api",)), "without a policy")
    return f"{'; '.join(told)}; the old rule stayed in force, and a later edit of another file was applied"


def _wrong_line(text: str) -> int:
    """Where the block stands that is none, or where the text ends in the middle of a list."""
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if "/99" in line), len(lines) + 1)
