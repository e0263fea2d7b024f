# SPDX-License-Identifier: Apache-2.0
"""What must change so that the kernel has what is wanted: a pure function of (wanted, found), steps in a safe order.

The order is the safety. Maps are filled before a filter that reads them is attached, and emptied after it is gone:
    settings, additions, filters of the crossing, filters of pods, detachments, removals
to_pod comes before from_pod, so that no connection of a pod is answered by a pod that nothing guards. What is found and
right makes no step, so a second reconcile has nothing to do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from nodeagent.kernel.attach import Hook, Program
from nodeagent.kernel.codings import Exclusion, PodCount, PodRow, Settings, Source
from nodeagent.kernel.netlink import PodDevice
from nodeagent.kernel.proxy_namespace import Crossing
from nodeagent.model.address import Ip

TableName = Literal["settings", "sources", "pods", "pod_counts", "known", "node_addresses", "excluded"]
PRESENT = 1
"""The value of a row whose key says it all."""


@dataclass(frozen=True)
class CapturedPod:
    """A wanted pod whose device was found."""

    namespace: str
    name: str
    addresses: tuple[Ip, ...]
    device: PodDevice

    @property
    def hooks(self) -> tuple[Hook, Hook]:
        return _hooks(self.device.index)


@dataclass(frozen=True)
class Target:
    """What the kernel shall have."""

    crossing: Crossing
    programs: Mapping[str, Program]
    pods: tuple[CapturedPod, ...]
    known: frozenset[Ip]
    node_addresses: frozenset[Ip]
    excluded: frozenset[Exclusion] = frozenset()
    slots: int = 0
    registry_only: bool = False
    adopt_until: int = 0
    """End of the adoption window of what is captured now: nanoseconds of CLOCK_MONOTONIC."""


_NO_SETTINGS = Settings()


@dataclass(frozen=True)
class Found:
    """What the kernel has."""

    settings: Settings = _NO_SETTINGS
    sources: frozenset[Source] = frozenset()
    pods: Mapping[Ip, PodRow] = field(default_factory=dict)
    counted: frozenset[int] = frozenset()
    known: frozenset[Ip] = frozenset()
    node_addresses: frozenset[Ip] = frozenset()
    excluded: frozenset[Exclusion] = frozenset()
    filters: Mapping[Hook, str] = field(default_factory=dict)
    """Names of our filters, whatever generation, wherever they are."""


@dataclass(frozen=True)
class Put:
    table: TableName
    key: object
    value: object


@dataclass(frozen=True)
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


Step = Put | Remove | Attach | Detach


def plan(target: Target, found: Found) -> list[Step]:
    return [
        *_settings(target, found),
        *_additions(target, found),
        *_attachments(target, found),
        *_detachments(target, found),
        *_removals(target, found),
    ]


def wanted_filters(target: Target) -> dict[Hook, Program]:
    """In the order in which they are attached."""
    filters = {
        Hook(is_in_proxy=True, device=target.crossing.proxy_device): target.programs["at_proxy"],
        Hook(is_in_proxy=False, device=target.crossing.node_device): target.programs["from_proxy"],
    }
    for pod in target.pods:
        outgoing, incoming = pod.hooks
        filters[incoming] = target.programs["to_pod"]
        filters[outgoing] = target.programs["from_pod"]
    return filters


def _hooks(device: int) -> tuple[Hook, Hook]:
    """What the pod sends comes in by its device on the node; what it receives goes out there."""
    return Hook(is_in_proxy=False, device=device), Hook(is_in_proxy=False, device=device, is_egress=True)


def _settings(target: Target, found: Found) -> Iterator[Step]:
    settings = Settings(
        proxy_device=target.crossing.node_device,
        proxy_namespace=target.crossing.namespace,
        generation=found.settings.generation or 1,
        slots=target.slots,
        registry_only=int(target.registry_only),
    )
    if settings != found.settings:
        yield Put("settings", 0, settings)


def _additions(target: Target, found: Found) -> Iterator[Step]:
    for ip in sorted(target.node_addresses - found.node_addresses):
        yield Put("node_addresses", ip, PRESENT)
    for exclusion in target.excluded - found.excluded:
        yield Put("excluded", exclusion, PRESENT)
    for ip in sorted(target.known - found.known):
        yield Put("known", ip, PRESENT)
    for device in sorted({pod.device.index for pod in target.pods} - found.counted):
        yield Put("pod_counts", device, PodCount())
    for source in sorted(_sources(target) - found.sources):
        yield Put("sources", source, target.adopt_until)
    for ip, row in _rows(target).items():
        if found.pods.get(ip) != row:
            yield Put("pods", ip, row)


def _attachments(target: Target, found: Found) -> Iterator[Step]:
    for hook, program in wanted_filters(target).items():
        if found.filters.get(hook) != program.filter_name:
            yield Attach(hook, program)


def _detachments(target: Target, found: Found) -> Iterator[Step]:
    for hook in sorted(found.filters.keys() - wanted_filters(target).keys()):
        yield Detach(hook)


def _removals(target: Target, found: Found) -> Iterator[Step]:
    for ip in sorted(found.pods.keys() - _rows(target).keys()):
        yield Remove("pods", ip)
    for source in sorted(found.sources - _sources(target)):
        yield Remove("sources", source)
    for device in sorted(found.counted - {pod.device.index for pod in target.pods}):
        yield Remove("pod_counts", device)
    for ip in sorted(found.known - target.known):
        yield Remove("known", ip)
    for exclusion in found.excluded - target.excluded:
        yield Remove("excluded", exclusion)
    for ip in sorted(found.node_addresses - target.node_addresses):
        yield Remove("node_addresses", ip)


def _sources(target: Target) -> frozenset[Source]:
    return frozenset(Source(pod.device.index, ip) for pod in target.pods for ip in pod.addresses)


def _rows(target: Target) -> dict[Ip, PodRow]:
    """While a pod is being replaced two may have one address: the newer device gets its packets."""
    return {
        ip: PodRow(pod.device.index, pod.device.gateway_mac, pod.device.pod_mac)
        for pod in sorted(target.pods, key=lambda pod: pod.device.index)
        for ip in pod.addresses
    }
