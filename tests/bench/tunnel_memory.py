# SPDX-License-Identifier: Apache-2.0
"""Resident memory of the proxies: just started, with 1,000 and with 10,000 idle connections, and with tunnels.

It is measured before anything else: a process that has worked has memory to use again, and would seem to need less.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from tests.bench import proxies
from tests.bench.load import Generator
from tests.bench.report import Goal, Row, at_most
from tests.bench.rounds import Harness, Subject

FEW, MANY = 1_000, 10_000
"""Connections."""
FEW_TUNNELS, MANY_TUNNELS = 100, 600
"""With a connection each. A handshake costs a millisecond, so there are not as many."""
_GOALS: Mapping[str, Goal] = {"at start": at_most(35), "connection": at_most(4), "tunnel": at_most(32)}
_OURS = ("steered", "bare")


def measure(
    title: str, generator: Generator, harness: Harness, subjects: Mapping[str, Subject], unpooled: Mapping[str, Subject]
) -> list[Row]:
    """Tunnels first: what they leave to be used again is little beside what so many connections take."""
    made = []
    with_proxies = [subject for subject in subjects.values() if subject.proxies()]
    for subject in with_proxies:
        resident = [proxies.resident_bytes(pid) for pid in subject.proxies()]
        subject.prepare()  # which may make a first tunnel: 2.6 MB, most of them pages of OpenSSL's code
        made.append(_row(f"{title} {subject.name}, memory at start", resident, 1e6, "MB", _goal(subject, "at start")))
    for subject in unpooled.values():
        few, many = _held(generator, harness, subject, FEW_TUNNELS, MANY_TUNNELS)
        name = f"{title} {subject.name}, memory of an idle tunnel and its connection"
        made.append(_each(name, few, many, MANY_TUNNELS - FEW_TUNNELS, _goal(subject, "tunnel")))
    for subject in with_proxies:
        few, many = _held(generator, harness, subject, FEW, MANY)
        what = f"{title} {subject.name}, memory"
        made.append(_row(f"{what} with {FEW} idle connections", few, 1e6, "MB"))
        made.append(_row(f"{what} with {MANY} idle connections", many, 1e6, "MB"))
        made.append(_each(f"{what} of an idle connection", few, many, MANY - FEW, _goal(subject, "connection")))
    return made


def _goal(subject: Subject, of: str) -> Goal | None:
    return _GOALS[of] if subject.name in _OURS else None


def _held(generator: Generator, harness: Harness, subject: Subject, few: int, many: int) -> tuple[list[int], list[int]]:
    """Bytes of each proxy with few and with many idle connections."""
    with _idle(generator, harness, subject, few):
        first = [proxies.resident_bytes(pid) for pid in subject.proxies()]
        with _idle(generator, harness, subject, many - few):
            second = [proxies.resident_bytes(pid) for pid in subject.proxies()]
    harness.rest()
    return first, second


@contextlib.contextmanager
def _idle(generator: Generator, harness: Harness, subject: Subject, count: int) -> Iterator[None]:
    with generator.held(subject.client, count, subject.ip, subject.port):
        harness.rest()
        yield


def _each(name: str, few: Sequence[int], many: Sequence[int], count: int, goal: Goal | None) -> Row:
    """Pure."""
    return _row(name, [(more - less) / count for less, more in zip(few, many, strict=True)], 1024, "KiB", goal)


def _row(name: str, values: Sequence[float], size: float, unit: str, goal: Goal | None = None) -> Row:
    """Pure. The proxy that needs more counts; the spread is between the two."""
    found = [value / size for value in values]
    return Row(name, max(found), unit, goal=goal, lowest=min(found), highest=max(found))
