# SPDX-License-Identifier: Apache-2.0
"""Whether the folder with the pods' network namespaces is seen here, and stays so when pods come.

A container runtime bind-mounts a file there for each pod. Where only the folder of the node is seen, without
propagation, such a file is there, too, but it is empty: no namespace.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from nodeagent.kernel.pod_namespaces import namespace_at
from nodeagent.kernel.probe import Probe
from nodeagent.model.check import Check

MOUNTS = Path("/proc/thread-self/mountinfo")
_DESCRIPTORS = Path("/proc/thread-self/fdinfo")
ELSEWHERE = ("/run/netns", "/run/docker/netns")
"""Of containerd, CRI-O and iproute2; of dockerd."""
_NAMED = "Where does the container runtime mount them? Name it with --netns-dir."
_PROPAGATED = "Mount the node's folder with mountPropagation: HostToContainer, as daemonset/base does."


def netns_folder(directory: str, mounts: Path = MOUNTS) -> Probe:
    """`directory`: empty when nobody looks there, as without --kubernetes."""
    if not directory:
        return Probe(Check.NETNS_FOLDER, ok=True, evidence="only looked into with --kubernetes on")
    try:
        entries, mount = list(Path(directory).iterdir()), mount_id(directory)
    except FileNotFoundError:  # a runtime may make it with its first pod
        evidence = f"{directory} is not there yet"
        return Probe(Check.NETNS_FOLDER, ok=False, evidence=evidence, advice=_NAMED, is_needed=False)
    except OSError as error:
        return Probe(Check.NETNS_FOLDER, ok=False, evidence=f"{directory}: {error.strerror}", advice=_NAMED)
    if is_cut_off(os.path.realpath(directory), mount, mounts.read_text(encoding="utf-8", errors="surrogateescape")):
        evidence = f"{directory} is mounted without propagation: pods that start from now on are not seen"
        return Probe(Check.NETNS_FOLDER, ok=False, evidence=evidence, advice=_PROPAGATED)
    found = _count(entries)
    if found:
        evidence = f"{found} network namespaces in {directory}"
        return Probe(Check.NETNS_FOLDER, ok=True, evidence=evidence)
    if entries:
        evidence = f"none of the {len(entries)} files in {directory} is a network namespace"
        return Probe(Check.NETNS_FOLDER, ok=False, evidence=evidence, advice=_PROPAGATED, is_needed=False)
    others = [other for other in ELSEWHERE if os.path.realpath(other) != os.path.realpath(directory) and _has(other)]
    if others:
        evidence = f"{directory} is empty, {', '.join(others)} is not"
        return Probe(Check.NETNS_FOLDER, ok=False, evidence=evidence, advice=_NAMED, is_needed=False)
    return Probe(Check.NETNS_FOLDER, ok=True, evidence=f"{directory} is empty: no pod yet")


def mount_id(directory: str) -> str:
    """Of the mount that is seen there; others may be at the same place below it. Raises OSError."""
    descriptor = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = (_DESCRIPTORS / str(descriptor)).read_text(encoding="ascii").splitlines()
    finally:
        os.close(descriptor)
    return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")


def is_cut_off(directory: str, mount: str, mounts: str) -> bool:
    """Whether something is mounted just there that gets no mounts from anybody (proc(5), mountinfo).

    A folder of a larger mount says nothing: who mounts there may see the same mount.
    """
    rows = [line.split(" ") for line in mounts.splitlines()]
    return any(
        "-" in row
        and row[0] == mount
        and _unescaped(row[4]) == directory
        and not any(option.startswith(("shared:", "master:")) for option in row[6 : row.index("-")])
        for row in rows
    )


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _has(directory: str) -> bool:
    try:
        return _count(Path(directory).iterdir()) > 0
    except OSError:  # not on this node
        return False


def _count(entries: Iterable[Path]) -> int:
    return sum(namespace_at(str(entry)) is not None for entry in entries)
