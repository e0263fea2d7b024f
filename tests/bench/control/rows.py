# SPDX-License-Identifier: Apache-2.0
"""From figures to rows with goals. Pure."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from tests.bench.control.measure import Figures
from tests.bench.report import Goal, Row, at_most

LARGE = 10_000
"""The goals are for this size."""
_MIB = 1 << 20
_ENFORCED_P50, _ENFORCED_P99 = at_most(50), at_most(250)
_DECODED = at_most(1.5)
_WORKLOAD = at_most(1.5)
_PROPORTIONAL = at_most(1.5)
"""What a change costs in a mesh of ten times the size. Were all of the mesh gone through, it would be about ten."""


def rows(found: Mapping[int, Figures], decoded: Mapping[int, float]) -> list[Row]:
    made = [row for size, figures in found.items() for row in _of_size(size, figures, decoded[size])]
    sizes = sorted(found)
    if len(sizes) > 1:
        made += _between(sizes[0], sizes[-1], found[sizes[0]], found[sizes[-1]])
    return made


def _of_size(size: int, figures: Figures, decoded: float) -> Iterator[Row]:
    def named(what: str, value: float, unit: str, goal: Goal | None = None) -> Row:
        return Row(f"mesh of {size}: {what}", value, unit, goal=goal if size == LARGE else None)

    yield named("control plane, start", figures.start, "s")
    yield named("control plane, CPU of its start", figures.start_cpu, "s")
    yield named("control plane, memory", figures.memory / _MIB, "MiB")
    yield named("control plane, memory with 200 agents", figures.crowd_memory / _MIB, "MiB")
    yield named("199 agents at once, until the last has everything", figures.crowd, "s")
    yield named("agent, start", figures.agent_start, "s")
    yield named("agent, memory", figures.agent_memory / _MIB, "MiB")
    yield named("worker, memory", figures.worker_memory / _MIB, "MiB")
    yield named("agent, full snapshot decoded, CPU", decoded, "s", _DECODED)
    yield named("policy's file to enforced on a node, p50", _milliseconds(figures.enforced, 0.5), "ms", _ENFORCED_P50)
    yield named("policy's file to enforced on a node, p99", _milliseconds(figures.enforced, 0.99), "ms", _ENFORCED_P99)
    yield named("policy's file to the last of 199 agents, p50", _milliseconds(figures.told, 0.5), "ms")
    yield named("policy's file to the last of 199 agents, p99", _milliseconds(figures.told, 0.99), "ms")
    yield named("pod's file to the last of 199 agents, p50", _milliseconds(figures.pod_told, 0.5), "ms")
    yield named("one pod's change, bytes to an agent", figures.pod_bytes, "B")


def _between(small: int, large: int, less: Figures, more: Figures) -> Iterator[Row]:
    for who, former, latter in (
        ("control plane", less.pod_cpu, more.pod_cpu),
        ("agent and worker", less.pod_agent_cpu, more.pod_agent_cpu),
    ):
        name = f"one pod's change, CPU of the {who}, mesh of {large} to {small}"
        ratio = latter / former if former else None
        yield Row(name, latter * 1000, "ms", former * 1000, ratio, _PROPORTIONAL)
    for who, former_bytes, latter_bytes in (
        ("agent", less.agent_memory, more.agent_memory),
        ("worker", less.worker_memory, more.worker_memory),
    ):
        each = (latter_bytes - former_bytes) / (large - small) / 1024
        yield Row(f"{who}, memory of a workload", each, "KiB", goal=_WORKLOAD if who == "agent" else None)


def _milliseconds(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    if share == 0.5:
        return statistics.median(ordered) * 1000
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000
