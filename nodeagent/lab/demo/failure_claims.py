# SPDX-License-Identifier: Apache-2.0
"""Claims about what happens when a part of the mesh dies: nothing is refused, nothing crosses in plain text."""

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import Traffic, is_served
from nodeagent.lab.demo.policy_claims import POLICY
from nodeagent.lab.demo.stage import PORT, Stage
from nodeagent.lab.demo.traffic_claims import MARKER

CHANGES_FLOW_WITHIN_SECONDS = 20.0
"""The agents' backoff is at most 15 s after a long outage; after a short one it is far less."""


def _undisturbed(traffic: Traffic) -> str:
    demand(not traffic.failures, f"{len(traffic.failures)} failures, the first: {(traffic.failures or [''])[0]}")
    return (
        f"{traffic.served} new connections and {traffic.exchanges} exchanges on an open one without a failure "
        f"(slowest {traffic.slowest * 1000:.0f} ms)"
    )


def control_plane_dies(stage: Stage) -> str:
    """Killed: new and open connections go on. Back: changes flow again."""
    web, db = stage.pod("web"), stage.pod("db")
    with Traffic(web, db.ips[0], PORT).running() as v4, Traffic(web, db.ips[1], PORT).running() as v6:
        for traffic in (v4, v6):
            traffic.wait_for_more(10)
        stage.control_plane.kill()
        for traffic in (v4, v6):
            traffic.wait_for_more(25)
    told = f"without it: IPv4 {_undisturbed(v4)}; IPv6 {_undisturbed(v6)}"
    stage.start_control_plane()
    stage.write(POLICY, [mesh.authorization("db", "shop", "db", "DENY", [mesh.rule(namespaces=["backoffice"])])])
    seconds = eventually(
        lambda: not is_served(stage.pod("batch"), db.ips[0], PORT),
        CHANGES_FLOW_WITHIN_SECONDS,
        "a change after its return",
    )
    stage.write(POLICY, [])
    eventually(lambda: is_served(stage.pod("batch"), db.ips[0], PORT), CHANGES_FLOW_WITHIN_SECONDS, "the change back")
    return f"{told}; back again, a policy was in force {seconds:.1f} s after its start"


def agent_dies(stage: Stage) -> str:
    """Killed with SIGKILL: everything goes on. Restarted: one generation of programs, nothing lost."""
    web, db = stage.pod("web"), stage.pod("db")
    with Traffic(web, db.ips[0], PORT).running() as v4, Traffic(web, db.ips[1], PORT).running() as v6:
        for node in ("node-a", "node-b"):
            before = stage.worker_pids(node)
            v4.wait_for_more(5)
            stage.agents[node].kill()
            v4.wait_for_more(15)
            v6.wait_for_more(5)
            stage.start_agent(node)
            demand(stage.worker_pids(node) == before, f"{node}: its workers changed from {before}")
            v4.wait_for_more(10)
            demand(not stage.attachment_fault(node), f"{node}: {stage.attachment_fault(node)}")
    told = f"IPv4 {_undisturbed(v4)}; IPv6 {_undisturbed(v6)}"
    return f"both agents killed and restarted under traffic, workers adopted: {told}; one generation of programs"


def worker_dies(stage: Stage) -> str:
    """Killed with SIGKILL: no plain text on the wire; new connections wait for the replacement, none is refused."""
    web, db, slowest = stage.pod("web"), stage.pod("db"), 0.0
    with stage.lab.wire.tap(marker=MARKER) as tap:
        for node in ("node-a", "node-b"):
            for ip in db.ips:
                sender = stage.marker_sender(web, ip, MARKER)
                before = stage.worker_pids(node)
                stage.kill_worker(before[0])
                after_kill = Traffic(web, ip, PORT, pause_seconds=0.0)
                with after_kill.running():
                    after_kill.wait_for_more(20)
                sender.stop()
                demand(not after_kill.failures, f"{node} {ip}: after the kill: {(after_kill.failures or [''])[0]}")
                demand(after_kill.served >= 20, f"{node} {ip}: only {after_kill.served} connections were served")
                demand(stage.worker_pids(node) != before, f"{node}: the worker was not replaced")
                slowest = max(slowest, after_kill.slowest)
    seen = tap.result()
    demand(seen.dropped == 0, f"the tap lost {seen.dropped} packets, so its counts prove nothing")
    demand(seen.markers == 0, f"the marker crossed the link {seen.markers} times in plain text")
    return (
        "4 workers killed in mid-stream: marker on the link 0 times, no new connection refused, "
        f"slowest {slowest * 1000:.0f} ms"
    )


def rotation(stage: Stage) -> str:
    """Certificates are renewed under traffic; no connection notices."""
    web, db = stage.pod("web"), stage.pod("db")
    before = {node: stage.certificate_serials(node) for node in ("node-a", "node-b")}
    with Traffic(web, db.ips[0], PORT).running() as v4, Traffic(web, db.ips[1], PORT).running() as v6:
        v4.wait_for_more(5)

        def renewed() -> bool:
            return all(not set(before[node]) & set(stage.certificate_serials(node)) for node in before)

        stage.renew_certificates()
        seconds = eventually(renewed, 30, "all certificates of both nodes were renewed")
        for traffic in (v4, v6):
            traffic.wait_for_more(20)
    return f"all serials of both nodes changed within {seconds:.1f} s: IPv4 {_undisturbed(v4)}; IPv6 {_undisturbed(v6)}"
