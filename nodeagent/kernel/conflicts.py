# SPDX-License-Identifier: Apache-2.0
"""What on this node gets in our way, or we in somebody's: looked at, never changed. For `nodeagent check`.

Each finding is a probe that is not needed: an agent runs beside it, and something is not as it should be.
"""

import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from pyroute2 import IPRoute

from nodeagent.errors import KernelError
from nodeagent.kernel import tcx
from nodeagent.kernel.attach import PRIORITY, Kind
from nodeagent.kernel.codings import PodCount
from nodeagent.kernel.listing import Attached, list_programs
from nodeagent.kernel.maps import Maps
from nodeagent.kernel.netlink import NO_NAMESPACE, Device, explained, read_devices
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.probe import Probe
from nodeagent.kernel.proxy_namespace import NODE_DEVICE
from nodeagent.model.check import Check
from nodeagent.model.mark import ON_SOME_NODES, Marks, overlaps

IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
"""Of the reader's network namespace."""


def probe_conflicts(bpffs: str, marks: Marks) -> list[Probe]:
    """Of the calling thread's network namespace. Raises KernelError when that cannot be read."""
    return [*probe_strangers(marks), *probe_traces(bpffs, marks)]


def probe_strangers(marks: Marks) -> list[Probe]:
    """What others have set up here. Raises KernelError."""
    with IPRoute() as link:
        devices = read_devices(link)
        return [
            programs_before_ours(link, devices.values()),
            netkit(devices.values()),
            mark_bits(link, marks),
            forwarding(_pods_devices(link, devices.values())),
        ]


def probe_traces(bpffs: str, marks: Marks) -> list[Probe]:
    """What an agent has set up, or left behind. Raises KernelError."""
    pins = Pins(Path(bpffs), marks)
    with IPRoute() as link:
        devices = read_devices(link)
    names = {index: device.name for index, device in devices.items()}
    return [pinned(pins), crossing(pins, devices.values()), guards(pins, names)]


def before_ours(programs: Sequence[Attached], kind: Kind) -> list[Attached]:
    """Which run before ours, or would if ours was attached. Pure."""
    ours = [place for place, program in enumerate(programs) if program.is_ours]
    if ours:
        return list(programs[: ours[0]])
    if kind is Kind.TCX:  # we go to the head
        return []
    return [program for program in programs if program.kind is Kind.TCX or program.priority < PRIORITY]


def programs_before_ours(link: IPRoute, devices: Iterable[Device]) -> Probe:
    kind = Kind.TCX if tcx.is_supported() else Kind.CLSACT
    pods = [device for device in devices if device.kind == "veth" and device.peer_namespace != NO_NAMESPACE]
    found = [
        f"{device.name} {'egress' if is_egress else 'ingress'}: {program.name or _NAMELESS} ({program.kind})"
        for device in pods
        for is_egress in (False, True)
        for program in before_ours(list_programs(link, device.index, is_egress=is_egress), kind)
    ]
    return _finding(
        Check.PROGRAMS,
        found,
        f"none is before ours on {len(pods)} devices",
        "What it accepts or redirects we do not see. Attach it behind ours, or leave its pods out of the mesh.",
    )


def netkit(devices: Iterable[Device]) -> Probe:
    found = [device.name for device in devices if device.kind == "netkit"]
    return _finding(Check.NETKIT, found, "no such device", "Pods behind netkit are not captured; use veth in the CNI.")


def mark_bits(link: IPRoute, marks: Marks) -> Probe:
    """Known components, and the routing rules that look at our bits."""
    with explained("listing the routing rules"):
        rules = {
            (f"ip rule {rule.get_attr('FRA_PRIORITY') or 0}", int(rule.get_attr("FRA_FWMASK") or 0xFFFFFFFF))
            for family in (socket.AF_INET, socket.AF_INET6)
            for rule in link.get_rules(family=family)
            if rule.get_attr("FRA_FWMARK")
        }
    return _finding(
        Check.MARKS,
        [*overlaps(marks, ON_SOME_NODES), *overlaps(marks, sorted(rules))],
        f"{marks.base:#x}/{marks.mask:#x} meets nobody known, and no routing rule",
        "Choose other bits: --mark and --mark-mask of the agent.",
    )


def _pods_devices(link: IPRoute, devices: Iterable[Device]) -> list[Device]:
    """Of a pod or container here, as far as devices tell; by which this namespace itself reaches the world, is none."""
    with explained("listing the default routes"):
        uplinks = {route.get_attr("RTA_OIF") for route in link.get_default_routes(family=socket.AF_INET)}
    return [
        device
        for device in devices
        if device.kind == "veth"
        and device.peer_namespace != NO_NAMESPACE
        and device.name != NODE_DEVICE
        and device.index not in uplinks
    ]


def forwarding(pods: Sequence[Device], setting: Path = IP_FORWARD) -> Probe:
    """What a pod, or the proxy in its name, sends to another node is forwarded by this one's stack."""
    advice = "sysctl net.ipv4.ip_forward=1; the CNI or the kubelet sets it."
    try:
        is_on = setting.read_text(encoding="ascii").strip() != "0"
    except OSError as error:
        return _finding(Check.FORWARDING, [f"{setting}: {error.strerror}"], "", advice)
    off = [] if is_on or not pods else [f"net.ipv4.ip_forward is 0, beside {len(pods)} devices of pods"]
    well = "net.ipv4.ip_forward is 1" if is_on else "net.ipv4.ip_forward is 0, and no device of a pod is here"
    return _finding(Check.FORWARDING, off, well, advice)


def pinned(pins: Pins) -> Probe:
    ours = {pins.directory.name, pins.links.name}
    try:
        found = sorted(path.name for path in pins.root.iterdir() if path.name not in ours) if pins.root.is_dir() else []
    except OSError as error:
        found = [f"{pins.root}: {error.strerror}"]
    words = [f"another version's layout {name}" for name in found]
    return _finding(
        Check.PINS, words, "of this version only", "An agent removes them after its switch; or nodeagent cleanup."
    )


def crossing(pins: Pins, devices: Iterable[Device]) -> Probe:
    """Where an agent has been, the way into the proxy namespace must be."""
    if not pins.maps.is_dir():
        return Probe(Check.CROSSING, ok=True, evidence="no agent has run here", is_needed=False)
    way = [device for device in devices if device.name == NODE_DEVICE]
    missing = [] if way and way[0].kind == "veth" and way[0].is_up else [f"{NODE_DEVICE} is missing or down"]
    return _finding(
        Check.CROSSING, missing, f"{NODE_DEVICE} is up", "Steered connections are dropped; an agent makes it again."
    )


def guards(pins: Pins, names: dict[int, str]) -> Probe:
    """Of all time, while `pods` tells of the last moments: nodeagent/kernel/guard.py."""
    if not pins.maps.is_dir():
        return Probe(Check.GUARDS, ok=True, evidence="no agent has run here", is_needed=False)
    try:
        maps = Maps(pins.maps)
    except (OSError, KernelError) as error:
        return Probe(Check.GUARDS, ok=False, evidence=str(error), advice="Is bpffs writable?", is_needed=False)
    try:
        devices = maps.pod_counts.keys()
        counts = {device: maps.pod_counts.find(device) or PodCount() for device in devices}
    finally:
        maps.close()
    found = [
        f"{names.get(device, device)}: {count.unasked} answers to connections that came past it"
        for device, count in sorted(counts.items())
        if count.unasked > count.admitted
    ]
    return _finding(
        Check.GUARDS,
        found,
        f"no connection came past any of {len(counts)}",
        "EGRESS_SKIPPED: turn off eBPF host routing in the CNI; nodeagent pods tells whether it goes on.",
    )


def _finding(name: Check, found: Sequence[str], well: str, advice: str) -> Probe:
    return Probe(name, not found, _few(found) if found else well, advice, is_needed=False)


def _few(found: Sequence[str]) -> str:
    more = f", and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return "; ".join(found[:_MOST_NAMED]) + more


_NAMELESS = "a program without a name"
_MOST_NAMED = 5
"""On a node with 250 pods one cause has 500 findings."""
