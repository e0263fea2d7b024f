# SPDX-License-Identifier: Apache-2.0
"""Programs on the cgroup that holds this node's pods: found, attached, replaced in place, detached.

Each is held by a link that is pinned (Linux 5.7), so it outlives the agent; a link stands beside the programs of
others and takes nothing away from them. The cgroup's id is in the link: one whose cgroup was made anew is replaced.
"""

import errno
import logging
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodeagent.errors import KernelError
from nodeagent.kernel import syscall
from nodeagent.kernel.attach import Program
from nodeagent.kernel.sources import SERVICES
from nodeagent.kernel.syscall import CgroupLinkInfo

log = logging.getLogger(__name__)

ATTACH_TYPES = {"sockops": 3, "connect4": 10, "connect6": 11, "getpeername4": 29, "getpeername6": 30}
"""enum bpf_attach_type by the name of the program: which of our programs are attached to a cgroup, and as what."""
KUBELETS = ("kubepods.slice", "kubepods", "kubelet.slice/kubelet-kubepods.slice", "kubelet/kubepods")
"""Where a kubelet puts pods: with systemd, with cgroupfs, and both again as kind starts it."""

_PIN = "cgroup-"


@dataclass(frozen=True)
class PodsCgroup:
    path: Path | None
    reason: str = ""
    """Why there is none; empty when there is one."""


def find_pods_cgroup(setting: str, mounts: Path = Path("/proc/self/mounts")) -> PodsCgroup:
    """The cgroup of `--cgroup`, a path below the mount of cgroup v2; without one, a kubelet's."""
    roots = _roots(mounts)
    if not roots:
        return PodsCgroup(None, "cgroup v2 is not mounted")
    wanted = (setting.strip("/"),) if setting else KUBELETS
    for root in roots:
        for name in wanted:
            if (root / name).is_dir():
                return PodsCgroup(root / name)
    if setting:
        return PodsCgroup(None, f"there is no cgroup {setting} below {roots[0]}")
    return PodsCgroup(None, f"no kubelet has made its cgroup below {roots[0]}; --cgroup names another")


def attach(links: Path, cgroup: Path, program: Program) -> str:
    """Has `program`, and no former one of its name, run there; what had to be done, in words. Raises KernelError.

    What was attached before stays until its successor is in its place.
    """
    try:
        with syscall.opened(program.path) as descriptor:
            return _attach(links / f"{_PIN}{program.name}", cgroup, program, descriptor)
    except OSError as error:
        raise KernelError(
            f"{program.name} cannot be attached to the cgroup {cgroup}: {error.strerror}",
            check=_advice(error.errno or 0),
        ) from error


def attached(links: Path) -> dict[str, CgroupLinkInfo]:
    """What our links hold, by the name of the program. Raises OSError."""
    found = {}
    for pin in sorted(links.glob(f"{_PIN}*")):
        with syscall.opened(str(pin)) as link:
            found[pin.name.removeprefix(_PIN)] = syscall.cgroup_link_info(link)
    return found


def detach_others(links: Path, kept: Container[str] = ()) -> list[str]:
    """Detaches, at once, all that are not `kept`; their names. Raises KernelError."""
    done = []
    for pin in sorted(links.glob(f"{_PIN}*")):
        name = pin.name.removeprefix(_PIN)
        if name not in kept:
            try:
                _detach(pin)
            except OSError as error:
                raise KernelError(f"{name} cannot be detached from its cgroup: {error.strerror}") from error
            done.append(name)
    return done


@dataclass(frozen=True)
class OnCgroup:
    seen: PodsCgroup
    """Where sockops sees connections, or why nowhere."""
    fault: str
    """Why connect(2) is not looked at, although it should be."""
    done: tuple[str, ...]


def reconcile(links: Path, setting: str, programs: Mapping[str, Program], *, draws_services: bool) -> OnCgroup:
    """Brings the programs on the pods' cgroup to what is wanted, and tells what cannot be had; never an error.

    Those for Services come all together, and only where sockops sees what the record has to name.
    """
    done: list[str] = []
    seen = _attach_all(links, find_pods_cgroup(setting), programs, ("sockops",), done)
    connects = _attach_all(links, seen, programs, SERVICES, done) if draws_services else PodsCgroup(None)
    kept = [*(("sockops",) if seen.path else ()), *(SERVICES if connects.path else ())]
    try:
        done += [f"detached {name}" for name in detach_others(links, kept)]
    except KernelError as error:
        log.warning("%s", error)
    return OnCgroup(seen, connects.reason, tuple(done))


def _attach_all(
    links: Path, found: PodsCgroup, programs: Mapping[str, Program], names: Sequence[str], done: list[str]
) -> PodsCgroup:
    """Where they are now, or why not; some of them may be there then."""
    if found.path is None:
        return found
    try:
        for name in names:
            words = attach(links, found.path, programs[name])
            done += [words] if words else []
    except KernelError as error:
        return PodsCgroup(None, str(error))
    return found


def _attach(pin: Path, cgroup: Path, program: Program, descriptor: int) -> str:
    if pin.exists():
        with syscall.opened(str(pin)) as link:
            found = syscall.cgroup_link_info(link)
            if found.cgroup == cgroup.stat().st_ino:
                if found.program == program.id:
                    return ""
                syscall.link_update(link, descriptor)
                return f"replaced {program.name} at {cgroup}"
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        link = syscall.link_create(descriptor, directory, ATTACH_TYPES[program.name], 0)
    finally:
        os.close(directory)
    try:
        pin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if pin.exists():
            _detach(pin)  # from another cgroup, or from one that is gone
        syscall.pin(link, str(pin))
    finally:
        os.close(link)
    return f"attached {program.name} to {cgroup}"


def _detach(pin: Path) -> None:
    """First, since what is merely unpinned runs on until the kernel's worker comes to it."""
    with syscall.opened(str(pin)) as link:
        syscall.link_detach(link)
    pin.unlink()


def mounts() -> list[Path]:
    """Where cgroup v2 can be seen, the last mount first."""
    return _roots(Path("/proc/self/mounts"))


def _roots(mounts: Path) -> list[Path]:
    """Where cgroup v2 can be seen, the last mount first: a later one may hide an earlier one."""
    lines = [line.split(" ") for line in mounts.read_text(encoding="utf-8").splitlines()]
    found = [Path(line[1]) for line in reversed(lines) if line[2] == "cgroup2"]
    return [path for path in dict.fromkeys(found) if path.is_dir()]


def _advice(number: int) -> str:
    if number in {errno.EPERM, errno.EACCES}:
        return "CAP_NET_ADMIN and CAP_BPF are needed; another program there may also refuse company (bpftool cgroup)."
    if number == errno.ENOENT:
        return "Is the cgroup still there? --cgroup names it."
    return "The kernel needs CONFIG_CGROUP_BPF; `bpftool cgroup show` lists what is attached."
