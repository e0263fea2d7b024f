# SPDX-License-Identifier: Apache-2.0
"""What must change so that the kernel has what is wanted: a pure function of (wanted, found), steps in a safe order.

The order is the safety. Maps are filled before a filter that reads them is attached, and emptied after it is gone:
    additions, filters of the crossing, settings, filters of pods, detachments, removals, settings
The settings say which device is na0: behind one that has no at_proxy yet, the proxy's stack would refuse connections.
to_pod comes before from_pod, so that no connection of a pod is answered by a pod that nothing guards. What is found and
right makes no step, so a second reconcile has nothing to do.

from_pod remembers in a flow that a packet's source was its device's, as long as the settings' `sources` stay the same.
So they are 0 (remember nothing) before a row of that table goes, and another number afterwards; an agent that ends
between the two leaves the 0 to its successor.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from nodeagent.kernel.attach import Attachment, Hook, Kind, Program
from nodeagent.kernel.codings import (
    NO_NUMBER,
    NUMBERS,
    PodCount,
    PodRow,
    Settings,
    Source,
    SourceRow,
)
from nodeagent.kernel.netlink import PodDevice
from nodeagent.kernel.proxy_namespace import Crossing
from nodeagent.model.address import Ip
from nodeagent.model.exclusion import Exclusion

TableName = Literal["settings", "sources", "pods", "pod_counts", "known", "known_blocks", "node_addresses", "excluded"]
Owner = tuple[str, str, str]
"""A pod: its namespace, name and network namespace."""
PRESENT = 1
"""The value of a row whose key says it all."""


@dataclass(frozen=True)
class CapturedPod:
    """A wanted pod whose device was found."""

    namespace: str
    name: str
    netns: str
    addresses: tuple[Ip, ...]
    device: PodDevice
    number: int = NO_NUMBER
    """Its bit in the table of verdicts."""
    registry_only: bool = False
    """Its connections to addresses that the mesh does not know are dropped."""

    @property
    def hooks(self) -> tuple[Hook, Hook]:
        return _hooks(self.device.index)

    @property
    def owner(self) -> "Owner":
        """Whose number it is, for this agent's life."""
        return self.namespace, self.name, self.netns


@dataclass(frozen=True)
class Target:
    """What the kernel shall have."""

    crossing: Crossing
    programs: Mapping[str, Program]
    kind: Kind
    """How programs are attached."""
    pods: tuple[CapturedPod, ...]
    known: frozenset[Ip]
    node_addresses: frozenset[Ip]
    excluded: frozenset[Exclusion] = frozenset()
    known_blocks: frozenset[Exclusion] = frozenset()
    """Of every port."""
    slots: int = 0
    registry_only: bool = False
    """For every pod."""
    is_settling: bool = False
    """Flows of a former layout are not all here yet."""
    secret: int = 0
    """For settings that have none yet."""
    source_number: int = 0
    """For settings when a row of `sources` has gone, or when they have none."""
    adopt_until: int = 0
    """End of the adoption window of what is captured now: nanoseconds of CLOCK_MONOTONIC."""


_NO_SETTINGS = Settings()


@dataclass(frozen=True)
class Found:
    """What the kernel has."""

    settings: Settings = _NO_SETTINGS
    sources: Mapping[Source, SourceRow] = field(default_factory=dict)
    pods: Mapping[Ip, PodRow] = field(default_factory=dict)
    counted: frozenset[int] = frozenset()
    known: frozenset[Ip] = frozenset()
    node_addresses: frozenset[Ip] = frozenset()
    excluded: frozenset[Exclusion] = frozenset()
    known_blocks: frozenset[Exclusion] = frozenset()
    filters: Mapping[Hook, frozenset[Attachment]] = field(default_factory=dict)
    """What of ours is attached, whatever generation and kind, wherever it is."""


@dataclass(frozen=True, slots=True)
class Put:
    table: TableName
    key: object
    value: object


@dataclass(frozen=True, slots=True)
class PutKnown:
    """Rows of `known`, one step for all of them: at the start they are twice the pods of the mesh."""

    addresses: tuple[Ip, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    table: TableName
    key: object


@dataclass(frozen=True)
class Attach:
    hook: Hook
    program: Program


@dataclass(frozen=True)
class Detach:
    hook: Hook


@dataclass(frozen=True)
class Forget:
    """Direct connections from and to addresses that pass from one pod to another, or to nobody."""

    addresses: frozenset[Ip]


Step = Put | PutKnown | Remove | Attach | Detach | Forget


def plan(target: Target, found: Found) -> list[Step]:
    return [
        *_forget(_passed_on(target, found)),
        *_additions(target, found),
        *_attachments(_crossing_filters(target), target, found),
        *_settings(target, found),
        *_attachments(_pod_filters(target), target, found),
        *_detachments(target, found),
        *_forget(_given_up(target, found)),
        *_removals(target, found),
        *_source_number(target, found),
    ]


def number_pods(
    pods: Iterable[CapturedPod], found: Found, judged: Container[int], known: Mapping[int, Owner]
) -> tuple[CapturedPod, ...]:
    """The pods with their numbers: the one that a pod has already, else one that no verdict of this moment is about.

    A number is what verdicts know of a pod, so it must never pass to another one while they do: not when an address
    or the index of a device is used again, and not because an agent began anew. A device is known by our filter on it.

    Args:
        pods: captured now.
        found: what the kernel has.
        judged: the numbers that the table in force speaks of, as a source or a destination.
        known: whose number it is, as far as this agent remembers: namespace, name and network namespace.
    """
    numbered: dict[int, CapturedPod] = {}
    waiting: list[CapturedPod] = []
    for pod in pods:
        own = {row.number for source, row in found.sources.items() if source.device == pod.device.index}
        is_same = any(hook in found.filters for hook in pod.hooks)
        number = own.pop() if len(own) == 1 and is_same else NO_NUMBER
        if number < NUMBERS and number not in numbered and known.get(number, pod.owner) == pod.owner:
            numbered[number] = replace(pod, number=number)
        else:
            waiting.append(pod)
    taken = {row.number for row in found.sources.values()} | {row.number for row in found.pods.values()}
    free = (number for number in range(NUMBERS) if number not in taken | numbered.keys() and number not in judged)
    unnumbered = [replace(pod, number=next(free, NO_NUMBER)) for pod in waiting]
    return (*numbered.values(), *unnumbered)


def wanted_filters(target: Target) -> dict[Hook, Program]:
    """In the order in which they are attached."""
    return _crossing_filters(target) | _pod_filters(target)


def _crossing_filters(target: Target) -> dict[Hook, Program]:
    return {
        Hook(is_in_proxy=True, device=target.crossing.proxy_device): target.programs["at_proxy"],
        Hook(is_in_proxy=False, device=target.crossing.node_device): target.programs["from_proxy"],
    }


def _pod_filters(target: Target) -> dict[Hook, Program]:
    filters = {}
    for pod in target.pods:
        outgoing, incoming = pod.hooks
        filters[incoming] = target.programs["to_pod"]
        filters[outgoing] = target.programs["from_pod"]
    return filters


def _hooks(device: int) -> tuple[Hook, Hook]:
    """What the pod sends comes in by its device on the node; what it receives goes out there."""
    return Hook(is_in_proxy=False, device=device), Hook(is_in_proxy=False, device=device, is_egress=True)


def _settings(target: Target, found: Found) -> Iterator[Step]:
    settings = _wanted_settings(target, found)
    if settings != found.settings:
        yield Put("settings", 0, settings)


def _source_number(target: Target, found: Found) -> Iterator[Step]:
    settings = _wanted_settings(target, found)
    if settings.sources == 0:
        yield Put("settings", 0, settings._replace(sources=target.source_number))


def _wanted_settings(target: Target, found: Found) -> Settings:
    """Until the removals have been done."""
    loses_sources = bool(found.sources.keys() - _sources(target).keys())
    return Settings(
        proxy_device=target.crossing.node_device,
        proxy_namespace=target.crossing.namespace,
        generation=found.settings.generation or 1,
        slots=target.slots,
        registry_only=int(target.registry_only),
        is_settling=int(target.is_settling),
        secret=found.settings.secret or target.secret,
        sources=0 if loses_sources else found.settings.sources,
        is_changing=found.settings.is_changing,
    )


def _forget(addresses: frozenset[Ip]) -> Iterator[Step]:
    """Before the rows change that tell of it: should a step fail, the next reconcile finds it again."""
    if addresses:
        yield Forget(addresses)


def _passed_on(target: Target, found: Found) -> frozenset[Ip]:
    """Addresses that another pod has from here on; what the former one had open is not for it."""
    rows, sources = _rows(target), _sources(target)
    return frozenset(
        ip
        for ip, row in found.pods.items()
        if ip in rows and (row.device, row.number) != (rows[ip].device, rows[ip].number)
    ) | frozenset(
        source.ip for source, row in found.sources.items() if source in sources and sources[source] != row.number
    )


def _given_up(target: Target, found: Found) -> frozenset[Ip]:
    gone = found.sources.keys() - _sources(target).keys()
    return frozenset(found.pods.keys() - _rows(target).keys()) | frozenset(source.ip for source in gone)


def _additions(target: Target, found: Found) -> Iterator[Step]:
    for ip in sorted(target.node_addresses - found.node_addresses):
        yield Put("node_addresses", ip, PRESENT)
    for exclusion in target.excluded - found.excluded:
        yield Put("excluded", exclusion, PRESENT)
    if not target.known <= found.known:
        yield PutKnown(tuple(sorted(target.known - found.known)))
    for block in target.known_blocks - found.known_blocks:
        yield Put("known_blocks", block, PRESENT)
    for device in sorted({pod.device.index for pod in target.pods} - found.counted):
        yield Put("pod_counts", device, PodCount())
    yield from _source_additions(target, found)
    for ip, row in _rows(target).items():
        if found.pods.get(ip) != row:
            yield Put("pods", ip, row)


def _source_additions(target: Target, found: Found) -> Iterator[Step]:
    restricted = {pod.device.index for pod in target.pods if pod.registry_only}
    for source, number in sorted(_sources(target).items()):
        former = found.sources.get(source, SourceRow(target.adopt_until, NO_NUMBER))
        adopt_until = former.adopt_until
        if former.number != number:  # the window may be that of the former pod of this device and address
            adopt_until = min(former.adopt_until, target.adopt_until)
        wanted = SourceRow(adopt_until, number, int(source.device in restricted))
        if found.sources.get(source) != wanted:
            yield Put("sources", source, wanted)


def _attachments(filters: Mapping[Hook, Program], target: Target, found: Found) -> Iterator[Step]:
    for hook, program in filters.items():
        if found.filters.get(hook) != frozenset({Attachment(target.kind, program.id)}):
            yield Attach(hook, program)


def _detachments(target: Target, found: Found) -> Iterator[Step]:
    for hook in sorted(found.filters.keys() - wanted_filters(target).keys()):
        yield Detach(hook)


def _removals(target: Target, found: Found) -> Iterator[Step]:
    for ip in sorted(found.pods.keys() - _rows(target).keys()):
        yield Remove("pods", ip)
    for source in sorted(found.sources.keys() - _sources(target).keys()):
        yield Remove("sources", source)
    for device in sorted(found.counted - {pod.device.index for pod in target.pods}):
        yield Remove("pod_counts", device)
    for ip in sorted(found.known - target.known):
        yield Remove("known", ip)
    for block in found.known_blocks - target.known_blocks:
        yield Remove("known_blocks", block)
    for exclusion in found.excluded - target.excluded:
        yield Remove("excluded", exclusion)
    for ip in sorted(found.node_addresses - target.node_addresses):
        yield Remove("node_addresses", ip)


def _sources(target: Target) -> dict[Source, int]:
    """Each with the number of its pod."""
    return {Source(pod.device.index, ip): pod.number for pod in target.pods for ip in pod.addresses}


def _rows(target: Target) -> dict[Ip, PodRow]:
    """While a pod is being replaced two may have one address: the newer device gets its packets."""
    return {
        ip: PodRow(pod.device.index, pod.device.gateway_mac, pod.device.pod_mac, pod.number)
        for pod in sorted(target.pods, key=lambda pod: pod.device.index)
        for ip in pod.addresses
    }
