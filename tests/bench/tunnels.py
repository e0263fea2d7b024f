# SPDX-License-Identifier: Apache-2.0
"""Two pods on two nodes through a tunnel, beside the peers that make the same tunnels, in one run.

no mesh   two pods that nobody captures
steered   the product: a pod dials the other pod, kernel programs, agents and a worker on each node
bare      two workers whose listener is dialled, see worker_pair.py: what steering adds is the difference
Envoy     two Envoys on the two nodes, see envoy_pair.py
ztunnel   two ztunnels, see ztunnel_pair.py; only if ZTUNNEL names a binary

Each proxy has a core, the near one the first and the far one the last, where the load generator's ends are too. CPU
seconds are those of both proxies; agents are not in them. Without pooling there is a tunnel for each connection.
"""

import contextlib
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nodeagent.errors import NotPossible
from nodeagent.lab.demo.stage import NODES
from nodeagent.lab.namespaces import Host
from nodeagent.model.address import Ip
from tests.bench import envoy_pair, fairness, load, plot, proxies, tunnel_memory, two_workers, worker_pair, ztunnel_pair
from tests.bench.ground import Condition, Ground
from tests.bench.load import Work
from tests.bench.overview import OURS, overview
from tests.bench.report import Comparison, Goal, Row, at_least, at_most, summarize
from tests.bench.rounds import Harness, Settings, Subject

TITLE = f"tunnels, Python {'.'.join(platform.python_version_tuple()[:2])}:"
"""Of every row, so that the figures of several interpreters stand beside each other."""
NO_MESH, STEERED, BARE, ENVOY, ZTUNNEL = "no mesh", "steered", "bare", "Envoy", "ztunnel"
WORKS = (
    *(load.bulk(kind, connections) for kind in ("upload", "download") for connections in (1, 8, 64)),
    *(load.exchange(connections, with_rate=True) for connections in (1, 64, 1000)),
    load.churn(64, with_p99=True),
)
UNPOOLED = (load.churn(64, with_p99=True, how=" without pooling"),)
GOALS: Mapping[str, Goal] = {
    "bulk up, 1 connection": at_least(1.55),
    "bulk down, 1 connection": at_least(1.4),
    "bulk up, 8 connections": at_least(1.8),
    "bulk down, 8 connections": at_least(1.8),
    "1 KiB request/response, p50": at_most(0.88),
    "1 KiB request/response, 64 connections, rate": at_least(1.15),
    "1 KiB request/response, 1000 connections, rate": at_least(1.4),
    "1 KiB request/response, 1000 connections, p99": at_most(0.7),
    "new connections, 64 at a time": at_least(1.5),
    "new connections, 64 at a time, p99": at_most(0.75),
    **{
        f"bulk {way}, {count}, CPU": at_most(0.55)
        for way in ("up", "down")
        for count in ("1 connection", "8 connections")
    },
}
"""Ratios to Envoy, which is dialled as `bare` is."""
_STEERED_GOALS: Mapping[str, Goal] = {**GOALS, "1 KiB request/response, p50": at_most(1.0)}
_REASON = "STEERED"
_ENVOY_PORT = 7012
"""Not where the same-node part's Envoys are dialled, which are still there."""


def run(ground: Ground, harness: Harness, settings: Settings) -> list[Row]:
    cores = sorted(os.sched_getaffinity(0))
    ends = cores[0], cores[-1]
    made = []
    if settings.takes("memory"):
        with _subjects(ground, ends) as (pooled, unpooled):
            made += tunnel_memory.measure(TITLE, ground.generator, harness, pooled, unpooled)
    with _subjects(ground, ends) as (pooled, unpooled):
        for works, subjects in ((WORKS, pooled), (UNPOOLED, unpooled)):
            chosen = [work for work in works if settings.takes(work.cost.name)]
            if chosen:
                rounds = harness.run(list(subjects.values()), chosen, settings.tunnel_rounds)
                print("\n".join(overview(rounds, chosen, list(subjects))), flush=True)
                made += summarize(rounds, comparisons(chosen, list(subjects)))
    if settings.takes(fairness.BESIDE):
        made += fairness.run(TITLE, ground, harness, ends, settings.tunnel_rounds)
    if settings.takes(two_workers.TWO):
        made += two_workers.run(TITLE, ground, harness, ends, settings.tunnel_rounds)
    return made


def comparisons(works: Iterable[Work], subjects: Sequence[str]) -> Iterator[Comparison]:
    """Pure. Ours to each peer, with the goals, and to no mesh, as Envoy."""
    for work in works:
        units = {name: measure.unit for name, measure in work.measures.items()}
        for measure, unit in {**units, work.cost.name: work.cost.unit}.items():
            peers = [*(peer for peer in (ENVOY, ZTUNNEL) if peer in subjects)]
            pairs = [(ours, peer) for ours in (STEERED, BARE) if ours in subjects for peer in peers]
            if NO_MESH in subjects and measure in units:
                pairs += [(STEERED, NO_MESH), (ENVOY, NO_MESH)]
            for subject, peer in pairs:
                goals = _STEERED_GOALS if subject == STEERED else GOALS
                goal = goals.get(measure) if peer == ENVOY else None
                yield Comparison(f"{TITLE} {subject} to {peer}, {measure}", measure, unit, subject, peer, goal)


def picture(rows: Sequence[Row], machine: str) -> str | None:
    """Pure. What has a goal, as a multiple of Envoy's; a time and a cost upside down. None if not all was measured."""
    by_name = {row.name: row for row in rows}
    groups = []
    for measure in GOALS:
        found = [by_name.get(f"{TITLE} {ours} to {ENVOY}, {measure}") for ours in OURS]
        bars = [_multiple(row.ratio, row.goal) for row in found if row and row.ratio and row.goal]
        if len(bars) < len(OURS):
            return None
        groups.append(plot.Group(measure, [bar for bar, _ in bars], [goal for _, goal in bars]))
    return plot.draw(f"{TITLE} times as good as {ENVOY} ({machine})", OURS, ENVOY, groups)


def _multiple(ratio: float, goal: Goal) -> tuple[float, float]:
    return (ratio, goal.bound) if goal.is_least else (1 / ratio, 1 / goal.bound)


@contextlib.contextmanager
def _subjects(ground: Ground, ends: tuple[int, int]) -> Iterator[tuple[dict[str, Subject], dict[str, Subject]]]:
    """By name; then those without pooling. Workers and peers have just been started, and end with the block."""
    program = ztunnel_pair.binary()
    client, server = ground.pod("legacy2"), ground.pod("legacy")
    near, far = (ground.stage.lab.nodes[node] for node in NODES)
    cgroup = ground.stage.lab.control.cgroup
    for node in NODES:
        ground.become(node, Condition.BARE)
    for node in NODES:
        ground.become(node, Condition.KERNEL)
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(worker_pair.running(cgroup, ends))
        single = stack.enter_context(worker_pair.running(cgroup, ends, pool_streams=1, pool_idle_seconds=0))
        envoy = stack.enter_context(envoy_pair.running(near, far, server, _ENVOY_PORT, ends))
        every = [
            Subject(NO_MESH, client, server.ipv4, load.PORT, lambda: None),
            _steered(ground, ends),
            _proxied(BARE, bare.client, bare.ip, bare.port, bare.pids),
            _proxied(ENVOY, client, envoy.ip, envoy.port, envoy.pids),
        ]
        without = [
            _proxied(BARE, single.client, single.ip, single.port, single.pids),
            _proxied(ENVOY, client, envoy.ip, envoy.unpooled_port, envoy.pids),
        ]
        servers = [(server, load.PORT), (bare.server, bare.port), (single.server, single.port)]
        if program is not None:
            ztunnel = stack.enter_context(ztunnel_pair.running(program, ground, ends))
            every.append(_proxied(ZTUNNEL, ztunnel.client, ztunnel.server.ipv4, load.PORT, ztunnel.pids))
            servers.append((ztunnel.server, load.PORT))
        for place, port in servers:
            ground.generator.serve(place, port)
        places = (near, far, ground.pod("db"), *(place for place, _ in servers))
        for other in (*places, *(subject.client for subject in (*every, *without))):
            _forget_ended(other)
        yield {subject.name: subject for subject in every}, {subject.name: subject for subject in without}


def _forget_ended(place: Host) -> None:
    """No TIME_WAIT, as in the proxy namespace: else more and more of the time a port is looked for that is free."""
    place.call(lambda: Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("0", encoding="ascii"))


def _proxied(name: str, client: Host, ip: Ip, port: int, pids: tuple[int, int]) -> Subject:
    return Subject(name, client, ip, port, lambda: None, proxies=lambda: pids)


def _steered(ground: Ground, ends: tuple[int, int]) -> Subject:
    client, server = ground.pod("web"), ground.pod("db")
    ground.generator.serve(server)
    seen = 0

    def workers() -> list[int]:
        return [ground.stage.worker_pids(node)[0] for node in NODES]

    def prepare() -> None:
        for pid, core in zip(workers(), ends, strict=True):
            proxies.pin(pid, core)
        ground.await_reason(NODES[0], _REASON, client, server.ipv4, load.PORT)
        nonlocal seen
        seen = ground.packets(NODES[0])[_REASON]

    def check() -> None:
        if ground.packets(NODES[0])[_REASON] == seen:
            raise NotPossible("no connection was steered: another way was measured than the rows would say")

    return Subject(STEERED, client, server.ipv4, load.PORT, prepare, check, workers)
