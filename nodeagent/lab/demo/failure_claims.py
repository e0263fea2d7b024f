# SPDX-License-Identifier: Apache-2.0
"""Claims about what happens when a part of the mesh dies: nothing is refused, nothing crosses in plain text."""

import contextlib
import socket
import time
from collections.abc import Iterator

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import PATIENCE_SECONDS, Fate, MarkerSender, Traffic, connect, fate, read_all
from nodeagent.lab.demo.policy_claims import POLICY
from nodeagent.lab.demo.stage import NODES, PORT, Stage
from nodeagent.lab.demo.traffic_claims import MARKER
from nodeagent.lab.demo.under_load import UnderLoad, in_words
from nodeagent.lab.demo.versions import OTHER_FLOWS, THIS_VERSION, make_version
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip

CHANGES_FLOW_WITHIN_SECONDS = 120.0
"""The agents' backoff is at most 15 s after a long outage; after a short one it is far less."""
WAITING = 16
"""Connections that are opened while there is no worker."""


@contextlib.contextmanager
def _traffic(stage: Stage) -> Iterator[tuple[Traffic, Traffic]]:
    """From web to db, IPv4 and IPv6."""
    web, db = stage.pod("web"), stage.pod("db")
    with Traffic(web, db.ipv4, PORT).running() as v4, Traffic(web, db.ipv6, PORT).running() as v6:
        yield v4, v6


def _wait_for_more(traffics: tuple[Traffic, Traffic], times: int) -> None:
    for traffic in traffics:
        traffic.wait_for_more(times)


def _undisturbed(traffics: tuple[Traffic, Traffic]) -> str:
    """Once it has stopped, so that what hung is known."""
    told = []
    for family, traffic in zip(("IPv4", "IPv6"), traffics, strict=True):
        demand(not traffic.failures, f"{len(traffic.failures)} failures, the first: {(traffic.failures or [''])[0]}")
        told.append(
            f"{family} {traffic.served} new connections and {traffic.exchanges} exchanges on an open one without a "
            f"failure (slowest {traffic.slowest * 1000:.0f} ms)"
        )
    return "; ".join(told)


def _changes_flow(stage: Stage, within_seconds: float) -> float:
    """Seconds until a policy was in force for IPv4 and IPv6; it is withdrawn again."""
    batch, db = stage.pod("batch"), stage.pod("db")

    def all_are(wanted: Fate) -> bool:
        return all(fate(batch, ip, PORT) is wanted for ip in db.ips)

    stage.write(POLICY, [mesh.authorization("db", "shop", "db", "DENY", [mesh.rule(namespaces=["backoffice"])])])
    seconds = eventually(lambda: all_are(Fate.REFUSED), within_seconds, "a change is in force")
    stage.write(POLICY, [])
    eventually(lambda: all_are(Fate.SERVED), within_seconds, "the change back is in force")
    return seconds


def control_plane_dies(stage: Stage) -> str:
    """Killed: new and open connections go on. Back: changes flow again."""
    with _traffic(stage) as traffics:
        _wait_for_more(traffics, 10)
        stage.control_plane.kill()
        stage.control_plane.wait(PATIENCE_SECONDS)
        _wait_for_more(traffics, 25)
        stage.start_control_plane()
        seconds = _changes_flow(stage, CHANGES_FLOW_WITHIN_SECONDS)
        _wait_for_more(traffics, 5)
    return (
        f"without it and at its return: {_undisturbed(traffics)}; a policy was in force {seconds:.1f} s after its start"
    )


def agent_dies(stage: Stage) -> str:
    """Killed with SIGKILL: everything goes on. Restarted: one generation of programs, nothing lost."""
    with _traffic(stage) as traffics:
        for node in NODES:
            workers, packets = stage.worker_pids(node), stage.packets(node)
            _wait_for_more(traffics, 5)
            stage.agents[node].kill()
            stage.agents[node].wait(PATIENCE_SECONDS)
            _wait_for_more(traffics, 15)
            stage.start_agent(node)
            demand(stage.worker_pids(node) == workers, f"{node}: its workers changed from {workers}")
            lost = [name for name, count in stage.packets(node).items() if count < packets.get(name, 0)]
            demand(not lost, f"{node}: the kernel's counters {', '.join(lost)} went back")
            _wait_for_more(traffics, 10)
            demand(not stage.attachment_fault(node), f"{node}: {stage.attachment_fault(node)}")
        # The workers are the old ones; they must listen to the new agents.
        seconds = _changes_flow(stage, CHANGES_FLOW_WITHIN_SECONDS)
    return (
        f"both agents killed and restarted under traffic, workers adopted: {_undisturbed(traffics)}; one generation of "
        f"programs, no counter went back, the adopted workers enforced a policy after {seconds * 1000:.0f} ms"
    )


def upgraded(stage: Stage) -> str:
    """Agents and programs of another version, with maps of another layout, and back: no connection notices."""
    other = make_version(stage.directory / "other-version", OTHER_FLOWS)
    places = [ip for name in ("db", "api") for ip in stage.pod(name).ips]
    with stage.lab.wire.tap(marker=MARKER) as tap, UnderLoad(stage.pod("web"), places, PORT, MARKER) as load:
        load.wait_for_more(5)
        for version in (other, THIS_VERSION):
            for node in NODES:
                stage.stop_agent(node)
                stage.versions[node] = version
                stage.start_agent(node)
                load.wait_for_more(5)
                demand(not stage.attachment_fault(node), f"{node}: {stage.attachment_fault(node)}")
    seen, report = tap.result(), load.last
    demand(seen.dropped == 0, f"the tap lost {seen.dropped} packets, so its counts prove nothing")
    demand(seen.markers == 0, f"the marker crossed the link {seen.markers} times in plain text")
    demand(not report.failures and not report.broken, in_words(report))
    demand(report.whole == len(places), f"{report.whole} of {len(places)} streams arrived unchanged")
    return (
        f"both agents, their programs and the layout of their maps replaced and rolled back: {report.opened} new "
        f"connections, by tunnel and in the kernel, and {report.whole} streams of {min(report.bytes.values()) >> 20} "
        f"MiB and more without a failure, slowest {report.slowest * 1000:.0f} ms; marker on the link 0 times"
    )


def worker_replaced(stage: Stage) -> str:
    """Its successor goes on with what is open, by tunnel and past it, in the middle of everything."""
    places, rounds, handed_over = list(stage.pod("db").ips), 5, 0
    with stage.lab.wire.tap(marker=MARKER) as tap, UnderLoad(stage.pod("web"), places, PORT, MARKER) as load:
        load.wait_for_more(5)
        for _ in range(rounds):
            for node in NODES:
                former, told = stage.worker_pids(node), stage.replace_worker(node)
                after = stage.worker_pids(node)
                demand(after == [told["pid"]] and not {*former} & {*after}, f"{node}: {former} became {after}")
                demand(not told["cut"] and not told["left"], f"{node}: {told}")
                handed_over += told["handed_over"]
                load.wait_for_more(2)
    seen, report = tap.result(), load.last
    demand(seen.markers == 0, f"the marker crossed the link {seen.markers} times in plain text")
    demand(not report.failures and not report.broken, in_words(report))
    demand(report.whole == len(places), f"{report.whole} of {len(places)} streams arrived unchanged")
    return (
        f"{rounds * len(NODES)} workers replaced, {handed_over} connections handed over: {report.whole} streams that "
        f"were open all the time, of {min(report.bytes.values()) >> 20} MiB and more, arrived unchanged; "
        f"{report.opened} new connections without a failure, slowest {report.slowest * 1000:.0f} ms"
    )


def worker_dies(stage: Stage) -> str:
    """Killed with SIGKILL: no plain text on the wire; new connections wait for the replacement, none is refused."""
    web, db, slowest, waited = stage.pod("web"), stage.pod("db"), 0.0, 0.0
    for node in NODES:
        for ip in db.ips:
            with stage.lab.wire.tap(marker=MARKER) as tap, MarkerSender(web, ip, PORT, MARKER) as sender:
                sender.wait_for_more(10)
                before = stage.worker_pids(node)
                stage.kill_worker(before[0])
                waiting, seconds = _served_while_waiting(web, ip)
                after_kill = Traffic(web, ip, PORT, pause_seconds=0.0)
                with after_kill.running():
                    after_kill.wait_for_more(20)
                sender.wait_for_more(10)
            where = f"{node} {ip}: after the kill"
            demand(waiting == WAITING, f"{where}: {waiting} of {WAITING} connections that waited were served")
            demand(not after_kill.failures, f"{where}: {(after_kill.failures or [''])[0]}")
            after = stage.worker_pids(node)
            demand(after and not {*before} & {*after}, f"{node}: workers {before} became {after}")
            seen = tap.result()
            demand(seen.dropped == 0, f"the tap lost {seen.dropped} packets, so its counts prove nothing")
            demand(seen.markers == 0, f"{where}: the marker crossed the link {seen.markers} times in plain text")
            demand(seen.hbone_bytes > 20 * len(sender.portion), f"{where}: the tunnel carried {seen.hbone_bytes} bytes")
            slowest, waited = max(slowest, after_kill.slowest), max(waited, seconds)
    return (
        f"4 workers killed in mid-stream: marker on the link 0 times before, while and after; {WAITING} connections "
        f"opened at each of these moments were served within {waited * 1000:.0f} ms, and all after them, "
        f"slowest {slowest * 1000:.0f} ms"
    )


def _served_while_waiting(client: Pod, ip: Ip) -> tuple[int, float]:
    """How many of the connections that are opened at once get their answer, and the seconds until all had theirs."""
    served, began = 0, time.monotonic()
    with contextlib.ExitStack() as stack:
        opened: list[socket.socket] = []
        for _ in range(WAITING):
            with contextlib.suppress(OSError):  # refused: not served
                opened.append(stack.enter_context(connect(client, ip, PORT)))
        for connection in opened:
            with contextlib.suppress(OSError):
                connection.sendall(b"WHO\n")
                served += bool(read_all(connection))
    return served, time.monotonic() - began


def rotation(stage: Stage) -> str:
    """Certificates are renewed under traffic; no connection notices. Peers are shown the new ones."""
    pods = [stage.pod(name) for name in ("web", "batch", "db")]

    def shown() -> dict[Ip, str]:
        return {ip: stage.stranger.proof_of(ip).serial for pod in pods for ip in pod.ips}

    with _traffic(stage) as traffics:
        _wait_for_more(traffics, 5)
        before = shown()
        demand(all(before.values()), f"certificates without a serial number: {before}")
        stage.renew_certificates()
        seconds = eventually(
            lambda: not {*before.values()} & {*shown().values()}, PATIENCE_SECONDS, "peers are shown new certificates"
        )
        _wait_for_more(traffics, 20)
    told = {node: stage.certificate_serials(node) for node in NODES}
    listed = {int(serial, 16) for serials in told.values() for serial in serials}
    unlisted = [ip for ip, serial in shown().items() if int(serial, 16) not in listed]
    demand(not unlisted, f"{unlisted} show certificates that `certs` does not list: {told}")
    return f"a peer on the link was shown new serials of all within {seconds:.1f} s: {_undisturbed(traffics)}"
