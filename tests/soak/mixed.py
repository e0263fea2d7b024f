# SPDX-License-Identifier: Apache-2.0
"""Everything at once for as long as is wanted: streams, bulk and new connections, while the mesh is changed and hurt.

By tunnel and past the workers, each in both families. What may be lost is what a killed worker held. In the first half
the workers of one node are replaced and killed, in the second those of the other, so that each node has a worker that
lives long enough to show a leak.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from nodeagent.config import Config
from nodeagent.errors import NodeagentError
from nodeagent.lab.demo.claims import ClaimFalse, eventually
from nodeagent.lab.demo.stage import NODES, Stage, running
from nodeagent.model.address import Ip
from tests.bench import load
from tests.soak import reasons
from tests.soak.changes import Changes
from tests.soak.losses import Loss, is_excused
from tests.soak.outcome import Options, Outcome, Tell
from tests.soak.traffic import Client, Failure, Report, Work
from tests.soak.watch import Growth, Watch, descriptors, growth

STREAMS, PAUSE_SECONDS = 40, 0.1
POOL_IDLE_SECONDS = 2
"""So that the tunnels' descriptors are gone soon after the last connection."""
DRAIN_SECONDS = 45
"""A handover takes as long as it takes on a machine that others use too, and nothing is to be cut because of them."""
BETWEEN_SECONDS = 4.0
"""From one change to the next, when there is time."""
MORE_SECONDS = 0.4
"""Of new connections that are served between two changes."""
TOLD_SECONDS = 10.0
GROWTH_SECONDS = 120.0
"""A line through less than this tells of allocators, not of leaks."""
GROWTH_BYTES = 1 << 20
"""Per minute. Python takes memory by the MiB: one more in the middle of four minutes is a slope of a third of this. Of
a connection that is forgotten at least 1 KiB stays, at 50 a second three times this."""
WITHIN_SECONDS = 60.0
_LOOKS, _BETWEEN_LOOKS_SECONDS = 20, 2.0
UNDONE = (ClaimFalse, OSError, NodeagentError)
"""What keeps a change from being made: a promise that does not hold, like what a connection suffers."""


def run(options: Options, tell: Tell) -> Outcome:
    with prepared() as stage:
        before, changes = _steady(stage), Changes(stage)
        db, api = stage.pod("db"), stage.pod("api")
        places = [(ip, load.PORT) for ip in (*db.ips, *api.ips)]
        work = Work(places=places, bulk_places=places, streams=STREAMS, rate=options.rate, pause=PAUSE_SECONDS)
        with Watch(stage) as watch, Client(stage.pod("web"), work) as client:
            broken = _hurt(options, tell, changes, client)
        after = _settled(stage, before)
        outside = unexcused(client.last, {*db.ips}, changes.lost)
        broken += [*in_words(outside), *changes.cut]
        broken += [
            f"the {who} had {before[who]} descriptors, and {after.get(who, 0)} after"
            for who in before
            if is_more(before, after, who)
        ]
        closed = reasons.closed(stage)
        broken += [
            f"{count} connections ended as {why}" for why, count in closed.items() if why not in reasons.EXPECTED
        ]
        for name in ("nodeagent_bugs_total", "nodeagent_reports_lost_total"):
            broken += [f"{name} is {count}" for count in [reasons.total(stage, name)] if count]
        broken += [f"{node}: {fault}" for node in NODES if (fault := stage.attachment_fault(node))]
    grown = growth(watch.samples)
    broken += [f"memory of the {who}: {slope(one)}" for who, one in grown.items() if is_leak(one)]
    summary = f"{_summary(client.last, outside, changes, closed)}; {_costs(before, after, grown)}"
    return Outcome(summary, tuple(broken))


@contextlib.contextmanager
def prepared(pool_streams: int = Config.pool_streams, pool_idle_seconds: float = POOL_IDLE_SECONDS) -> Iterator[Stage]:
    """The demo's mesh with its agents, and the load generator's server in the pods that are asked.

    `pool_streams`: how many streams a tunnel takes.
    """
    settings = {
        "access_log": "",
        "drain_seconds": str(DRAIN_SECONDS),
        "pool_idle_seconds": str(pool_idle_seconds),
        "pool_streams": str(pool_streams),
    }
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node, takeover=False, **settings)
        generator = load.Generator(stage.directory)
        for name in ("db", "api"):
            generator.serve(stage.pod(name))
        yield stage


def _hurt(options: Options, tell: Tell, changes: Changes, client: Client) -> list[str]:
    """One change after the other, each kind at least once. Returns what did not come about; that ends it."""
    seconds, more = options.seconds, max(1, int(options.rate * MORE_SECONDS))
    began = told = time.monotonic()
    try:
        client.wait_for_more(more)
        while (now := time.monotonic()) - began < seconds or changes.made.total() < len(Changes.CYCLE):
            kind = changes.make(NODES[now - began > seconds / 2])
            report = client.wait_for_more(more)
            if time.monotonic() - told > TOLD_SECONDS:
                told = time.monotonic()
                tell(_progress(told - began, kind, report, changes))
            time.sleep(max(0.0, min(now + BETWEEN_SECONDS, began + seconds) - time.monotonic()))
    except UNDONE as failure:
        return [f"{type(failure).__name__}: {failure}"]
    return []


def _progress(seconds: float, kind: str, report: Report, changes: Changes) -> str:
    return (
        f"{seconds:6.0f} s  {changes.made.total()} changes, the last: {kind}; {report.served} of {report.opened} "
        f"served, {report.bytes >> 20} MiB back, {len(report.failures) + len(report.broken)} connections failed"
    )


def _steady(stage: Stage) -> dict[str, int]:
    """An agent opens its tables of the kernel's connections a moment after it is ready."""
    former: dict[str, int] = {}
    for _ in range(_LOOKS):
        now = descriptors(stage)
        if now == former:
            break
        former = now
        time.sleep(_BETWEEN_LOOKS_SECONDS)
    return former


def _settled(stage: Stage, before: Mapping[str, int]) -> dict[str, int]:
    """When nothing is open any more, or after a minute."""
    with contextlib.suppress(ClaimFalse):  # it is told by what it has too much
        eventually(
            lambda: not any(is_more(before, descriptors(stage), who) for who in before),
            WITHIN_SECONDS,
            "as few descriptors as before",
        )
    return descriptors(stage)


# ---- what it means ---------------------------------------------------------------------------------------------------


def is_more(before: Mapping[str, int], after: Mapping[str, int], who: str) -> bool:
    return after.get(who, 0) > before[who]


def unexcused(report: Report, tunnelled: AbstractSet[Ip], losses: Sequence[Loss]) -> list[Failure]:
    """What no kill excuses."""
    failed = (*report.failures, *report.broken)
    return [failure for failure in failed if not is_excused(failure, tunnelled, losses)]


def in_words(failures: Sequence[Failure]) -> list[str]:
    """A line for each way to fail, with the first of it."""
    by_way: dict[str, list[Failure]] = {}
    for failure in failures:
        by_way.setdefault(failure.what, []).append(failure)
    return [f"{len(many)} connections: {what}; the first: {many[0]}" for what, many in by_way.items()]


def is_leak(one: Growth) -> bool:
    return one.seconds >= GROWTH_SECONDS and one.bytes_per_minute > GROWTH_BYTES


def slope(one: Growth) -> str:
    return (
        f"{one.bytes_per_minute / 1024:+.0f} KiB a minute over {one.seconds:.0f} s, {one.bytes / 1e6:.1f} MB at the end"
    )


def _summary(report: Report, outside: Sequence[Failure], changes: Changes, closed: Counter[str]) -> str:
    made = ", ".join(f"{count} x {kind}" for kind, count in sorted(changes.made.items()))
    whys = ", ".join(f"{count} {why}" for why, count in closed.most_common())
    return (
        f"{report.seconds:.0f} s, {made}: {report.opened} new connections, slowest {report.slowest:.1f} s, "
        f"{report.bytes >> 20} MiB forth and back; {sum(failure.missing for failure in outside)} bytes lost; "
        f"{len(outside)} connections refused or cut outside the faults, "
        f"{len(report.failures) + len(report.broken) - len(outside)} by them; {changes.handed_over} handed over; "
        f"ended: {whys}"
    )


def _costs(before: Mapping[str, int], after: Mapping[str, int], grown: Mapping[str, Growth]) -> str:
    return "; ".join(
        f"{who}: {slope(grown[who]) if who in grown else 'not seen'}, descriptors {before[who]} to {after.get(who, 0)}"
        for who in before
    )
