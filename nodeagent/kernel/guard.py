# SPDX-License-Identifier: Apache-2.0
"""Whether packets reach a pod past to_pod, its guard. Pure, from counts of SYNs and SYN-ACKs only.

A CNI that delivers by bpf_redirect_peer passes no egress, and a program before ours that accepts ends the run.
A connection that a pod accepts was let in by us: then its answer belongs to the proxy, to a direct flow, to the node,
or to an admitted SYN (whose worker may have died meanwhile). More answers that nobody asked for than were admitted say
that the guard is skipped. It stands again when connections come by it and no such answer does; silence says nothing.
A pod can forge the answers, and thereby report itself only.
"""

from dataclasses import dataclass

from nodeagent.kernel.codings import PodCount

INTERVAL_SECONDS = 5.0
"""Between two looks: a SYN and its answer should fall into one, and an answer is repeated after 1 and 3 seconds."""
SKIPPED = (
    "connections reach it past its device's egress, unguarded: eBPF host routing of the CNI, or a program before ours"
)


@dataclass(frozen=True)
class Guard:
    counts: PodCount
    at: float
    """Seconds, of the clock of `look`."""
    is_skipped: bool = False


def look(before: Guard | None, counts: PodCount, now: float) -> Guard:
    """What is known after another look. The first one only remembers: connections may be older than the capture."""
    if before is None or counts.unasked < before.counts.unasked:  # a row that was made again
        return Guard(counts, now)
    if now - before.at < INTERVAL_SECONDS:
        return before
    unasked = counts.unasked - before.counts.unasked
    if unasked > counts.admitted - before.counts.admitted:
        return Guard(counts, now, is_skipped=True)
    is_proved = counts.inbound > before.counts.inbound
    return Guard(counts, now, before.is_skipped and not (is_proved and not unasked))
