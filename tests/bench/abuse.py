# SPDX-License-Identifier: Apache-2.0
"""64 connections that ask and answer, alone and beside a peer that abuses the worker of their server, over and over.

Each abuse has an `alone` of its own in each round, so that both halves of a ratio are a second apart.

Both bare workers share two cores with the load; the hostile peer runs on that of the near end, so a part of what it
costs the others is the core's: the row of a process that only computes says how large. With `--light-peer` it gives
way there, and so says less: what is left is the worker's, if not all that a peer with a core of its own would make of
it. A worker cannot end what is no tunnel yet by any rule but time, so a peer that does nothing but shake hands is
among the abuses.
"""

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from nodeagent.errors import NotPossible
from nodeagent.lab.ready import readable
from tests.bench import load, worker_pair
from tests.bench.ground import Ground
from tests.bench.hostile import ABUSES, COMPUTES
from tests.bench.report import Comparison, Round, Row, at_most, summarize
from tests.bench.rounds import Harness, Settings, Subject
from tests.bench.worker_pair import WorkerPair
from tests.e2e.proxy.authority import memfd
from tests.e2e.proxy.mesh import CLIENT
from tests.e2e.proxy.wires import HBONE

TITLE = f"abuse, Python {'.'.join(platform.python_version_tuple()[:2])}:"
ALONE, LIGHT = "alone", "(light peer)"
GOAL = at_most(2)
WORK = load.exchange(64)
_START_SECONDS = 20.0
_LEAST = 19


def run(ground: Ground, harness: Harness, settings: Settings) -> list[Row]:
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        pair = stack.enter_context(worker_pair.running(ground.stage.lab.control.cgroup, (cores[0], cores[-1])))
        ground.generator.serve(pair.server, pair.port)
        made = []
        for name in (one for one in ABUSES if settings.takes(one)):
            print(f" {name}", flush=True)
            subjects = [_subject(pair, ALONE), _subject(pair, name, cores[0], is_light=settings.has_light_peers)]
            rounds = harness.run(subjects, [WORK], settings.tunnel_rounds)
            made += rows(name, rounds, is_light=settings.has_light_peers)
        return made


def rows(abuse: str, rounds: Sequence[Round], *, is_light: bool = False) -> list[Row]:
    """Pure."""
    return summarize(rounds, _comparisons(abuse, f"{LIGHT} " if is_light else ""))


def _comparisons(abuse: str, how: str) -> Iterator[Comparison]:
    for measure in WORK.measures:
        goal = None if abuse == COMPUTES else GOAL
        yield Comparison(f"{TITLE} {measure}, beside {how}{abuse} to {ALONE}", measure, "us", abuse, ALONE, goal)


def _subject(pair: WorkerPair, name: str, core: int | None = None, *, is_light: bool = False) -> Subject:
    """`core`: of the hostile peer; without one there is none."""
    peer = contextlib.ExitStack()

    def begin() -> None:
        if core is not None:
            peer.enter_context(_hostile(pair, name, core, is_light=is_light))

    return Subject(name, pair.client, pair.ip, pair.port, begin, peer.close, lambda: pair.pids)


@contextlib.contextmanager
def _hostile(pair: WorkerPair, abuse: str, core: int, *, is_light: bool) -> Iterator[None]:
    """Until the block ends. Raises NotPossible."""
    certificate = memfd(pair.authority.issue(str(CLIENT)))
    words = [abuse, pair.ip, str(HBONE), str(certificate)]
    command = ["taskset", "-c", str(core), sys.executable, "-m", "tests.bench.hostile", *words]
    try:
        process = pair.outsider.spawn(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=(certificate,)
        )
    finally:
        os.close(certificate)
    with process:
        try:
            if is_light:
                _lighten(process.pid)
            assert process.stdout is not None
            if not readable([process.stdout], _START_SECONDS) or not process.stdout.readline():
                raise NotPossible(f"a peer that does {abuse!r} did not begin")
            yield
        finally:
            process.kill()


def _lighten(pid: int) -> None:
    """Little weight beside other processes, and the session that it leads beside other sessions (sched(7))."""
    os.setpriority(os.PRIO_PROCESS, pid, _LEAST)
    with contextlib.suppress(FileNotFoundError):  # a kernel that does not share by sessions
        Path(f"/proc/{pid}/autogroup").write_text(str(_LEAST), encoding="ascii")
