# SPDX-License-Identifier: Apache-2.0
"""Becoming a process of a node or pod of a lab that another process runs: what `nodeagent lab exec` does.

A place is found by the journal of its run alone. The process is in the place's cgroup, too, where the node's programs
see its connections, and ends with the lab at the latest.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nodeagent.errors import ConfigError, NotPossible
from nodeagent.kernel.netns import CLONE_FS, CLONE_NEWNET, CLONE_NEWNS, setns, unshare
from nodeagent.lab.journal import Kind, Run

_PREFIX = "na-"


@dataclass(frozen=True)
class Place:
    netns: Path
    mounts: Path | None
    """Of a node, which has its own."""
    cgroup: Path | None


def choose_run(runs: Sequence[Run], number: int | None) -> Run:
    """That with this number, or the only one. Pure. Raises ConfigError."""
    found = [run for run in runs if number in {None, run.number}]
    if len(found) == 1:
        return found[0]
    if not found:
        words = "no lab is running" if number is None else f"no lab with the number {number} is running"
        raise ConfigError(words, check="`nodeagent demo` starts one; `nodeagent lab list` lists those that run.")
    listed = ", ".join(str(run.number) for run in found)
    raise ConfigError(
        f"{len(found)} labs are running: {listed}",
        check="Which one? NODEAGENT_LAB_RUN=NUMBER, or --run NUMBER of `nodeagent lab exec`.",
    )


def find_node(runs: Sequence[Run], name: str, number: int | None) -> Place | None:
    """The node of this name, of any lab or that with this number; None: there is none.

    Raises ConfigError when several labs have one.
    """
    having = [run for run in runs if number in {None, run.number} and _has_node(run, name)]
    return find_place(choose_run(having, None), name) if having else None


def _has_node(run: Run, name: str) -> bool:
    """Pods have no mounts of their own."""
    return any(entry.kind is Kind.LINK and Path(entry.path).name == name for entry in run.entries)


def find_place(run: Run, name: str) -> Place:
    """By the name of a node or pod. Raises ConfigError, which says what there is."""
    paths = {kind: [Path(entry.path) for entry in run.entries if entry.kind is kind] for kind in Kind}
    suffix = f".{run.number}"
    pins = {path.name.removeprefix(_PREFIX).removesuffix(suffix): path for path in paths[Kind.PINNED]}
    if name not in pins:
        raise ConfigError(f"run {run.number} has no node or pod {name!r}", check=f"It has {', '.join(pins)}.")
    mounts = next((path for path in paths[Kind.LINK] if path.name == name), None)
    cgroups = [found for top in paths[Kind.CGROUP] for found in (top / name, *top.glob(f"*/pods/{name}"))]
    return Place(pins[name], mounts, next((path for path in cgroups if path.is_dir()), None))


def become(place: Place, words: Sequence[str]) -> None:
    """Does not return. `nodeagent` is this very program, whatever is in PATH. Raises NotPossible, ConfigError."""
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    program = shutil.which(words[0], path=environment["PATH"])
    if program is None:
        raise ConfigError(f"no program {words[0]!r}", check="Is it installed? The lab's nodes have this machine's.")
    directory = Path.cwd()
    try:
        if place.cgroup is not None:
            (place.cgroup / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        # All are opened first: behind the second setns the paths mean something else.
        pins = [(place.netns, CLONE_NEWNET), *([(place.mounts, CLONE_NEWNS)] if place.mounts is not None else [])]
        descriptors = [(os.open(pin, os.O_RDONLY | os.O_CLOEXEC), kind) for pin, kind in pins]
        unshare(CLONE_FS)
        for descriptor, kind in descriptors:
            setns(descriptor, kind)
        os.chdir(directory if directory.is_dir() else "/")
        os.execve(program, list(words), environment)  # noqa: S606 - what the operator typed
    except OSError as error:
        raise NotPossible(f"{place.netns}: {error.strerror or error}", check="Is the lab just ending?") from error
