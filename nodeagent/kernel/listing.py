# SPDX-License-Identifier: Apache-2.0
"""What is attached to a device, ours and others', in the order in which it runs: TCX first, then clsact's filters."""

import errno
from dataclasses import dataclass

from pyroute2 import IPRoute

from nodeagent.kernel import syscall, tcx
from nodeagent.kernel.attach import HANDLE, PRIORITY, Direction, Kind, program_id
from nodeagent.kernel.netlink import explained
from nodeagent.kernel.sources import PROGRAMS


@dataclass(frozen=True)
class Attached:
    kind: Kind
    name: str
    """The program's own, or what it was attached by."""
    id: int
    """0: a filter of somebody else, which may be no program at all."""
    is_ours: bool
    priority: int = 0
    """Of a clsact filter: the lower one runs first."""

    @property
    def words(self) -> str:
        return f"nodeagent/{self.name}:{self.id}" if self.is_ours else self.name


def list_programs(link: IPRoute, device: int, *, is_egress: bool) -> list[Attached]:
    """`link`'s namespace must be that of the calling thread. Empty when the device has gone."""
    return [*_of_tcx(device, is_egress=is_egress), *_of_clsact(link, device, is_egress=is_egress)]


def _of_tcx(device: int, *, is_egress: bool) -> list[Attached]:
    if not tcx.is_supported():
        return []
    found = []
    try:
        for program, linked in tcx.entries(device, is_egress=is_egress):
            name = syscall.program_name(program)
            # We always attach by a link; names are the functions' of our own C.
            found.append(Attached(Kind.TCX, name, program, is_ours=bool(linked) and name in PROGRAMS))
    except OSError as error:
        if error.errno not in {errno.ENODEV, errno.ENOENT}:
            raise
    return found


def _of_clsact(link: IPRoute, device: int, *, is_egress: bool) -> list[Attached]:
    direction = Direction.EGRESS if is_egress else Direction.INGRESS
    found = []
    with explained(f"listing the filters of device {device}"):
        for message in link.get_filters(index=device, parent=direction.value):
            if not message["handle"]:  # the head of a list of filters
                continue
            options, kind = message.get_attr("TCA_OPTIONS"), message.get_attr("TCA_KIND")
            attribute = options.get_attr if kind == "bpf" else lambda _name: None
            priority = message["info"] >> 16
            name, program = str(attribute("TCA_BPF_NAME") or kind), 0
            is_ours = message["handle"] == HANDLE and priority == PRIORITY
            if is_ours:
                name, program = name.removeprefix("nodeagent/").rpartition(":")[0], program_id(name)
            found.append(Attached(Kind.CLSACT, name, program, is_ours, priority))
    return sorted(found, key=lambda one: one.priority)
