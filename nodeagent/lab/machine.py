# SPDX-License-Identifier: Apache-2.0
"""What a lab or an agent could leave behind, as comparable facts: of the whole machine, or of one network namespace.

    before = machine_state()
    ...
    assert difference(before, machine_state()) == []

Facts are read from the kernel, not from anybody's books. Counters, lifetimes and caches are left out, since they change
by themselves. Kernel modules that were loaded on demand stay loaded and are not a fact here.
"""

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple  # Any: pyroute2 has no types

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

from nodeagent.lab import cgroups, journal
from nodeagent.lab.inside import in_thread

NETNS = Path("/run/netns")
SYSCTLS = Path("/proc/sys/net")
OWN_DIRECTORIES = (NETNS, journal.DIRECTORY, Path("/run/nodeagent"))
_VOLATILE_SYSCTLS = frozenset({"net.netfilter.nf_conntrack_count"})
_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # TC_H_CLSACT with TC_H_MIN_INGRESS or TC_H_MIN_EGRESS
_ENVELOPE = frozenset({"attrs", "header", "event", "value", "res_id"})  # res_id: counts all changes of nftables
_CLONED = 0x200  # RTM_F_CLONED: a cached route, not a configured one
_MULTICAST = " type 5 scope 0 proto 2 "  # RTN_MULTICAST by RTPROT_KERNEL
_OF_THE_LINK = (".mtu", ".addr_gen_mode")  # attributes of a device that are shown as sysctls, too
_OF_OTHERS = "of another lab"
"""Section of a fact that is no fact of ours: its text is a path, of which `difference` says nothing."""
_FROM_ADVERTISEMENT = 9  # RTPROT_RA: comes and goes with routers


class Fact(NamedTuple):
    section: str
    device: str
    """The device that it is about, or empty."""
    text: str

    def __str__(self) -> str:
        return f"{self.section}: {self.text}"


State = frozenset[Fact]


def difference(before: State, after: State, *, except_device: str = "") -> list[str]:
    """Sorted, readable; empty when nothing changed. `except_device` leaves out what any new device brings along.

    What belonged to somebody else's lab at one of the two moments is left out at both.
    """
    others = {fact.text for fact in before | after if fact.section == _OF_OTHERS}
    lines = [
        (fact, how)
        for facts, how in ((before - after, "vanished"), (after - before, "appeared"))
        for fact in facts
        if fact.section != _OF_OTHERS and not any(_belongs(fact.text, path) for path in others)
    ]
    defaults = {fact.text for fact in after if fact.section == "sysctl"} if except_device else set()
    return [
        f"{how}: {fact}"
        for fact, how in sorted(lines)
        if fact.device != except_device or not except_device or not _comes_along(fact, defaults)
    ]


def _comes_along(fact: Fact, defaults: set[str]) -> bool:
    """Whether the kernel gives this to any device that is up: sysctls by default, and IPv6's route for multicast."""
    if fact.section == "route":
        return _MULTICAST in fact.text
    name = fact.text.partition(" = ")[0]
    is_default = fact.text.replace(f".{fact.device}.", ".default.") in defaults
    return fact.section == "sysctl" and (is_default or ".neigh." in name or name.endswith(_OF_THE_LINK))


def machine_state() -> State:
    """Of the calling thread's namespaces, with what of it belongs to labs of other living processes."""
    others = _of_other_runs()  # asked before and after, so that a run that begins or ends meanwhile is known
    facts = {*network_state(), *in_thread(_links), *_names(), *_mounts(), *_cgroups()}
    others |= _of_other_runs()
    return frozenset(facts | {Fact(_OF_OTHERS, "", path) for path in others})


def network_state() -> State:
    """What must be as before in a node's namespace while an agent runs: firewall, rules, routes, addresses, sysctls."""
    return frozenset({*in_thread(_addressing), *in_thread(_firewall), *_sysctls()})


# -- of a network namespace ------------------------------------------------------------------------------------------


def _addressing() -> list[Fact]:
    with IPRoute() as ip:
        names = {link["index"]: str(link.get("ifname")) for link in ip.get_links()}
        facts = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for rule in ip.get_rules(family=family):
                text = _attributes(
                    rule, ("FRA_PRIORITY", "FRA_IIFNAME", "FRA_FWMARK", "FRA_SRC", "FRA_DST", "FRA_TABLE")
                )
                facts.append(Fact("ip rule", "", f"{family.name} {text} action {rule['action']}"))
            for route in ip.get_routes(family=family):
                if not route["flags"] & _CLONED and route["proto"] != _FROM_ADVERTISEMENT:
                    device = names.get(route.get("oif") or 0, "")
                    facts.append(Fact("route", device, f"{family.name} {_route(route)} device {device or 'none'}"))
        for address in ip.get_addr():
            name = names.get(address["index"], "")
            facts.append(Fact("address", name, f"{name} {address.get('address')}/{address['prefixlen']}"))
    return facts


def _route(route: Any) -> str:
    attributes = _attributes(route, ("RTA_DST", "RTA_GATEWAY", "RTA_PREFSRC", "RTA_TABLE", "RTA_PRIORITY"))
    return f"{attributes} /{route['dst_len']} type {route['type']} scope {route['scope']} proto {route['proto']}"


def _firewall() -> list[Fact]:
    """All families of nftables (iptables-nft included) but for sets' elements; legacy iptables: its tables' names."""
    facts = []
    try:
        with NFTables(nfgen_family=socket.AF_UNSPEC) as nft:
            for kind, messages in (
                ("table", nft.get_tables()),
                ("chain", nft.get_chains()),
                ("rule", nft.get_rules()),
                ("set", nft.get_sets()),
            ):
                facts += [Fact("nftables", "", f"{kind} {_plain(message)}") for message in messages]
    except (NetlinkError, OSError) as error:
        facts.append(Fact("nftables", "", f"cannot be read: {error}"))
    for family in ("ip_tables_names", "ip6_tables_names", "arp_tables_names"):
        with contextlib.suppress(FileNotFoundError):  # the module is not loaded, so there is no table
            names = Path("/proc/thread-self/net", family).read_text().split()
            facts += [Fact("iptables", "", f"{family} {name}") for name in names]
    return facts


def _sysctls() -> Iterator[Fact]:
    for directory, _, files in os.walk(SYSCTLS):
        parts = Path(directory).relative_to("/proc/sys").parts
        device = parts[3] if len(parts) > 3 and parts[2] in {"conf", "neigh"} else ""
        for file in files:
            name = ".".join((*parts, file))
            if name not in _VOLATILE_SYSCTLS:
                with contextlib.suppress(OSError):  # write-only, or without a value yet (stable_secret)
                    yield Fact("sysctl", device, f"{name} = {Path(directory, file).read_text().strip()}")


def _links() -> list[Fact]:
    """Devices with their qdiscs and filters."""
    facts = []
    with IPRoute() as ip:
        links = {link["index"]: link for link in ip.get_links()}
        names = {index: str(link.get("ifname")) for index, link in links.items()}
        for index, link in links.items():
            text = f"{names[index]} index {index} {link.get('state')} {_attributes(link, ('IFLA_MTU', 'IFLA_MASTER'))}"
            facts.append(Fact("link", names[index], text))
        for qdisc in ip.get_qdiscs():
            name, kind = names.get(qdisc["index"], ""), str(qdisc.get("kind"))
            facts.append(Fact("qdisc", name, f"{name} {kind} {qdisc['handle']:x} parent {qdisc['parent']:x}"))
            for parent in (_INGRESS, _EGRESS) if kind in {"clsact", "ingress"} else ():
                for found in ip.get_filters(index=qdisc["index"], parent=parent):
                    text = f"{name} {parent:x} {found.get('kind')} info {found['info']:x} handle {found['handle']:x}"
                    facts.append(Fact("filter", name, text))
    return facts


def _attributes(message: Any, names: Iterable[str]) -> str:
    pairs = ((name, message.get_attr(name)) for name in names)
    return " ".join(f"{name.partition('_')[2].lower()} {value}" for name, value in pairs if value is not None)


def _plain(message: Any) -> str:
    """A netlink message as text, without its envelope and its counters."""
    if isinstance(message, dict):
        fields = [
            f"{key} {value}" for key, value in message.items() if key not in {"attrs", "header", "event", "value"}
        ]
        attributes = ((slot[0], slot[1]) for slot in message.get("attrs", ()))
        fields += [f"{name} {_plain(value)}" for name, value in attributes if "COUNTER" not in name]
        return "{" + ", ".join(fields) + "}"
    if isinstance(message, list | tuple):
        return "[" + ", ".join(_plain(part) for part in message) + "]"
    if isinstance(message, frozenset | set):
        return str(sorted(message))
    return str(message)


# -- of the machine --------------------------------------------------------------------------------------------------


def _names() -> Iterator[Fact]:
    for directory in OWN_DIRECTORIES:
        if directory.exists():
            yield Fact("directory", "", os.fspath(directory))
    with contextlib.suppress(FileNotFoundError):
        for path in NETNS.iterdir():
            yield Fact("network namespace", "", os.fspath(path))


def _mounts() -> Iterator[Fact]:
    for line in Path("/proc/thread-self/mounts").read_text().splitlines():
        source, target, kind, *_ = line.split(" ")
        yield Fact("mount", "", f"{target} {kind} {source}")
        if kind == "bpf":
            for directory, directories, files in os.walk(target):
                for name in (*directories, *files):
                    yield Fact("bpffs", "", f"{directory}/{name}")


def _cgroups() -> Iterator[Fact]:
    """Those of labs stand at the top; one that stands deeper is a container's, whose lab is not ours to judge."""
    for top in cgroups.unified_hierarchy().glob("na-*"):
        for directory, _, _ in os.walk(top):
            yield Fact("cgroup", "", directory)


def _of_other_runs() -> set[str]:
    """Paths of the objects of labs that other processes run, and the directories that these keep in existence."""
    runs = [run for run in journal.living_runs() if run.pid != os.getpid()]
    paths = {entry.path for run in runs for entry in run.entries}
    return paths | {os.fspath(directory) for directory in (NETNS, journal.DIRECTORY)} if runs else set()


def _belongs(text: str, path: str) -> bool:
    """Whether a fact names this object or, for all but the shared directories, something below it."""
    first = text.partition(" ")[0]
    shared = path in {os.fspath(NETNS), os.fspath(journal.DIRECTORY)}
    return first == path or (not shared and first.startswith(path + "/"))
