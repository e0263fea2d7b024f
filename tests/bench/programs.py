# SPDX-License-Identifier: Apache-2.0
"""What the kernel says that our programs cost: its own run statistics (BPF_ENABLE_STATS, Linux 5.8).

They are switched on for these turns only, since they cost something themselves: two readings of the clock in each run,
one of which is in the figure.
"""

import contextlib
import os
import statistics
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from nodeagent.kernel import syscall
from nodeagent.kernel.pins import Pins
from nodeagent.lab.namespaces import Node
from tests.bench.load import Generator, Work
from tests.bench.report import Goal, Row, at_most
from tests.bench.rounds import Subject

ENABLE_STATS = 32
_RUN_TIME = 192
"""Offset of run_time_ns and run_cnt in struct bpf_prog_info."""
GOALS: Mapping[str, Goal] = {"from_pod": at_most(300), "to_pod": at_most(400)}
PROGRAMS = ("from_pod", "to_pod", "from_proxy", "at_proxy")


class Runs(NamedTuple):
    nanoseconds: int
    packets: int

    def since(self, before: "Runs") -> "Runs":
        return Runs(self.nanoseconds - before.nanoseconds, self.packets - before.packets)


Reading: TypeAlias = dict[str, Runs]


@contextlib.contextmanager
def run_statistics() -> Iterator[None]:
    """For all programs of the machine, until the block ends."""
    descriptor, _ = syscall.bpf(ENABLE_STATS, struct.pack("=I", 0))  # BPF_STATS_RUN_TIME
    try:
        yield
    finally:
        os.close(descriptor)


def read(node: Node) -> Reading:
    return node.call(_read)


def _read() -> Reading:
    found = {}
    for name in PROGRAMS:
        with syscall.opened(str(Pins(Path("/sys/fs/bpf")).programs / name)) as descriptor:
            found[name] = Runs(*struct.unpack_from("=QQ", syscall._object_info(descriptor), _RUN_TIME))
    return found


def together(readings: Iterable[Reading]) -> Reading:
    """Pure. Of several nodes."""
    total = dict.fromkeys(PROGRAMS, Runs(0, 0))
    for reading in readings:
        for name, runs in reading.items():
            total[name] = Runs(total[name].nanoseconds + runs.nanoseconds, total[name].packets + runs.packets)
    return total


class Turn(NamedTuple):
    spent: Reading
    seconds: float
    """For which the client worked, without its start."""


def measure(
    generator: Generator, nodes: Sequence[Node], subject: Subject, work: Work, rounds: int, seconds: float
) -> list[Turn]:
    subject.prepare()
    turns = []
    with run_statistics():
        for _ in range(rounds):
            before = together(map(read, nodes))
            generator.run(subject.client, work, subject.ip, subject.port, seconds)
            after = together(map(read, nodes))
            turns.append(Turn({name: after[name].since(before[name]) for name in PROGRAMS}, seconds))
    subject.check()
    return turns


def rows(turns: Sequence[Turn], way: str, work: str, *, is_one_at_a_time: bool) -> list[Row]:
    """Pure. A row for each program that ran, and, where one packet is under way at a time, their share of the time."""
    made = []
    for name in PROGRAMS:
        each = [
            turn.spent[name].nanoseconds / turn.spent[name].packets for turn in turns if turn.spent[name].packets > 50
        ]
        if each:
            made.append(
                Row(
                    f"{name} a packet, {way}, {work}",
                    statistics.median(each),
                    "ns",
                    goal=GOALS.get(name),
                    lowest=min(each),
                    highest=max(each),
                )
            )
    if is_one_at_a_time:
        shares = [sum(runs.nanoseconds for runs in turn.spent.values()) / turn.seconds / 1e7 for turn in turns]
        made.append(
            Row(
                f"share of the programs, {way}, {work}",
                statistics.median(shares),
                "%",
                lowest=min(shares),
                highest=max(shares),
            )
        )
    return made
