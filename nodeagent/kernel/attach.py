# SPDX-License-Identifier: Apache-2.0
"""Our programs on devices: TCX links where the kernel has them, filters of clsact elsewhere. Only here it is known how.

Both are replaced in place, from one packet to the next. "Pass" is TC_ACT_UNSPEC, which is TCX_NEXT too, so whatever the
CNI attached behind us still runs. We stand at the head of TCX, which runs before clsact, and there at one fixed
priority: what a pod sends must be judged before somebody else accepts or redirects it. Others are never moved.

A change of kind (an upgrade, a rollback, a setting) leaves no packet unjudged:
  1  the program is replaced in place where we are, so that both kinds will run one program with one set of maps
  2  it is attached in the other way too: for a moment a packet that passes the first is judged by the second as well
  3  the former attachment is removed
Step 2 is safe because judging twice is judging once: redirect and drop end the run, flows are found as they were just
written, LOCAL is set again, and from_pod leaves PROXY on the packet for its second self. Only counters count twice.
Removing first would leave a gap in which a pod is not guarded.
"""

import contextlib
import enum
import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nodeagent.errors import KernelError
from nodeagent.kernel import syscall, tcx
from nodeagent.kernel.netlink import explained
from nodeagent.kernel.netns import enter_netns

PRIORITY = 15
"""Before the CNIs that we know of, except for Cilium (1), beside which this agent does not run."""
HANDLE = 0x6E61
"""`na`."""
_PREFIX = "nodeagent/"


class Kind(enum.StrEnum):
    TCX = "tcx"
    CLSACT = "clsact"


class Direction(enum.Enum):
    """`value` is the parent of clsact's filters: TC_H_CLSACT with TC_H_MIN_INGRESS or _EGRESS."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


@dataclass(frozen=True, order=True)
class Hook:
    """A place for a program."""

    is_in_proxy: bool
    """In the proxy namespace; else in the node's."""
    device: int
    is_egress: bool = False

    @property
    def direction(self) -> Direction:
        return Direction.EGRESS if self.is_egress else Direction.INGRESS

    @property
    def pin_name(self) -> str:
        return f"{'proxy' if self.is_in_proxy else 'node'}-{self.device}-{self.direction.name.lower()}"


@dataclass(frozen=True)
class Program:
    """A pinned program. Its id is in the filter's name, so that a filter tells which generation it runs."""

    name: str
    id: int
    path: str

    @property
    def filter_name(self) -> str:
        return f"{_PREFIX}{self.name}:{self.id}"


@dataclass(frozen=True)
class Attachment:
    """Ours, on some hook."""

    kind: Kind
    program: int
    """Its id."""


def choose_kind(setting: str) -> Kind:
    """Of `auto`, `tcx` or `clsact`. Raises KernelError when this kernel lacks what is asked for."""
    if setting == "auto":
        return Kind.TCX if tcx.is_supported() else Kind.CLSACT
    if setting == "tcx" and not tcx.is_supported():
        raise KernelError("this kernel has no TCX", check="--attach auto takes clsact there; TCX needs Linux 6.6.")
    return Kind(setting)


def hook_of(pin_name: str) -> Hook | None:
    """The inverse of `Hook.pin_name`; None for what is not ours."""
    found = re.fullmatch(r"(node|proxy)-([0-9]+)-(ingress|egress)", pin_name)
    if found is None:
        return None
    return Hook(is_in_proxy=found[1] == "proxy", device=int(found[2]), is_egress=found[3] == "egress")


class Attacher:
    """For one reconcile: a socket into each of the two namespaces, and the links that outlive it."""

    def __init__(self, kind: Kind, links: tcx.Links, node: IPRoute, proxy: IPRoute, proxy_netns: str) -> None:
        self.kind = kind
        self._links, self._node, self._proxy, self._proxy_netns = links, node, proxy, proxy_netns
        self._has_tcx = tcx.is_supported()

    def find(self, hook: Hook) -> frozenset[Attachment]:
        """What of ours is there. Empty without the device too: a link or filter never outlives its device."""
        name = _find_filter(self._socket(hook), hook)
        found = {Attachment(Kind.CLSACT, program_id(name))} if name is not None else set()
        if self._has_tcx:
            with self._inside(hook):
                program = self._links.find(hook.pin_name, hook.device, is_egress=hook.is_egress)
            if program is not None:
                found.add(Attachment(Kind.TCX, program))
        return frozenset(found)

    def attach(self, hook: Hook, program: Program) -> None:
        """Raises KernelError; what was attached there before stays then."""
        former = {attachment.kind for attachment in self.find(hook)} - {self.kind}
        try:
            with syscall.opened(program.path) as descriptor:
                for kind in (*former, self.kind):
                    self._put(kind, hook, program, descriptor)
        except OSError as error:
            raise KernelError(f"attaching {program.name} from {program.path}: {error.strerror}") from error
        for kind in former:
            self._remove(kind, hook)

    def detach(self, hook: Hook) -> None:
        """Removes what is ours and nothing else. Nothing there and no device are fine."""
        for attachment in self.find(hook):
            self._remove(attachment.kind, hook)

    def _put(self, kind: Kind, hook: Hook, program: Program, descriptor: int) -> None:
        if kind is Kind.TCX:
            with self._inside(hook):
                self._links.put(hook.pin_name, hook.device, descriptor, is_egress=hook.is_egress)
        else:
            _put_filter(self._socket(hook), hook, program, descriptor)

    def _remove(self, kind: Kind, hook: Hook) -> None:
        if kind is Kind.TCX:
            self._links.remove(hook.pin_name)
        else:
            _remove_filter(self._socket(hook), hook)

    def _socket(self, hook: Hook) -> IPRoute:
        return self._proxy if hook.is_in_proxy else self._node

    @contextlib.contextmanager
    def _inside(self, hook: Hook) -> Iterator[None]:
        """bpf(2) reads an index in the namespace of the calling thread."""
        with enter_netns(self._proxy_netns) if hook.is_in_proxy else contextlib.nullcontext():
            yield


def pinned_hooks(links: Path) -> set[Hook]:
    """Where links of ours are or were, whoever made them."""
    pins = links.iterdir() if links.is_dir() else ()
    return {hook for pin in pins if (hook := hook_of(pin.name)) is not None}


def hooks_of(devices: Iterable[int]) -> set[Hook]:
    """Both directions of devices of the node."""
    return {Hook(is_in_proxy=False, device=index, is_egress=egress) for index in devices for egress in (False, True)}


def detach_everywhere(node: IPRoute, devices: Iterable[int], links: Path) -> list[Hook]:
    """Removes all that is ours, whatever kind and generation, but for filters in the proxy namespace. Where it was."""
    done = []
    for hook in sorted(hooks_of(devices)):
        if _find_filter(node, hook) is not None:
            _remove_filter(node, hook)
            done.append(hook)
    for hook in sorted(pinned_hooks(links)):
        tcx.remove(links / hook.pin_name)
        done.append(hook)
    return done


def _find_filter(link: IPRoute, hook: Hook) -> str | None:
    """The name of our filter there; None without one, without a clsact or without the device."""
    with explained(f"listing the filters of device {hook.device}"):
        for message in link.get_filters(index=hook.device, parent=hook.direction.value):
            if message["handle"] == HANDLE and message["info"] >> 16 == PRIORITY:
                options = message.get_attr("TCA_OPTIONS")
                name = options.get_attr("TCA_BPF_NAME") if options is not None else None
                return name or ""
    return None


def program_id(filter_name: str) -> int:
    """The inverse of `Program.filter_name`; 0 for a name that is not ours."""
    number = filter_name.rpartition(":")[2]
    return int(number) if filter_name.startswith(_PREFIX) and number.isdecimal() else 0


def _put_filter(link: IPRoute, hook: Hook, program: Program, descriptor: int) -> None:
    _ensure_clsact(link, hook.device)
    with explained(f"attaching {program.name}"):
        link.tc(
            "replace-filter",
            "bpf",
            hook.device,
            handle=HANDLE,
            prio=PRIORITY,
            parent=hook.direction.value,
            fd=descriptor,
            name=program.filter_name,
            direct_action=True,
        )


def _remove_filter(link: IPRoute, hook: Hook) -> None:
    """The qdisc stays: deleting it would take other people's filters with it."""
    try:
        link.tc("del-filter", "bpf", hook.device, handle=HANDLE, prio=PRIORITY, parent=hook.direction.value)
    except NetlinkError as error:
        if error.code not in {errno.ENOENT, errno.EINVAL, errno.ENODEV}:
            raise KernelError(f"detaching from device {hook.device}: {error}") from error


def _ensure_clsact(link: IPRoute, device: int) -> None:
    try:
        link.tc("add", "clsact", device)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise KernelError(f"clsact on device {device}: {os.strerror(error.code)}") from error
        # The qdisc `ingress` has clsact's place and handle, and takes an egress filter for one of its own.
        with explained(f"listing the qdiscs of device {device}"):
            kinds = {message.get_attr("TCA_KIND") for message in link.get_qdiscs(index=device)}
        if "clsact" not in kinds:
            raise KernelError(
                f"device {device} has the qdisc `ingress`, which has no egress side",
                check="Something else uses it: `tc qdisc show`; clsact can do all that it does.",
            ) from None
