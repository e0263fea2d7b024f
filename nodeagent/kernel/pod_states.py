# SPDX-License-Identifier: Apache-2.0
"""The wanted pods as the kernel has them: on which device, or why they are not captured, and what was counted."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from pyroute2 import IPRoute

from nodeagent.kernel.codings import NO_NUMBER, PodCount
from nodeagent.kernel.discovery import find_pod_device
from nodeagent.kernel.guard import SKIPPED, Guard, look
from nodeagent.kernel.maps import Maps
from nodeagent.kernel.netlink import Device, NotCapturable
from nodeagent.kernel.reconcile import CapturedPod
from nodeagent.kernel.wanted import WantedPod
from nodeagent.model.pod import CaptureReason

_NO_COUNT = PodCount()


@dataclass(frozen=True)
class PodState:
    """A wanted pod as the kernel has it."""

    namespace: str
    name: str
    device: str = ""
    ifindex: int = 0
    reason: str = ""
    """Why it is not captured: NO_NETNS, NO_DEVICE, UNSUPPORTED_DEVICE, ATTACH_FAILED, MAP_FULL, EGRESS_SKIPPED; empty
    when it is."""
    words: str = ""
    """The same for people."""
    counts: PodCount = _NO_COUNT
    number: int = NO_NUMBER
    """Its bit in the table of verdicts."""

    @property
    def is_captured(self) -> bool:
        return not self.reason

    @property
    def hits(self) -> int:
        """Connections of this pod that were steered, both directions."""
        return self.counts.outbound + self.counts.inbound


FoundPod = tuple[WantedPod, CapturedPod | NotCapturable]


class PodStates:
    """Those of the last reconcile."""

    def __init__(self) -> None:
        self.all: tuple[PodState, ...] = ()
        """Without counts, see `counted`."""
        self._guards: dict[int, Guard] = {}
        """By device, of captured pods."""

    def put(
        self,
        found: Iterable[FoundPod],
        refused: Mapping[int, NotCapturable],
        numbers: Mapping[int, int],
        counted: Collection[int],
    ) -> None:
        """`refused` and `numbers` are by device; `counted` are devices that had counts before."""
        self._guards = {index: guard for index, guard in self._guards.items() if index in counted}
        self.all = tuple(_state(pod, what, refused, numbers) for pod, what in found)

    def counted(self, state: PodState, maps: Maps | None, now: float) -> PodState:
        """`now`: monotonic seconds. Raises KernelError."""
        counts = (maps.pod_counts.find(state.ifindex) if maps else None) or _NO_COUNT
        if not state.is_captured:
            return replace(state, counts=counts)
        guard = self._guards[state.ifindex] = look(self._guards.get(state.ifindex), counts, now)
        if guard.is_skipped:
            return replace(state, counts=counts, reason=CaptureReason.EGRESS_SKIPPED, words=SKIPPED)
        return replace(state, counts=counts)


def find_pods(
    node: IPRoute, devices: Mapping[int, Device], wanted: Iterable[WantedPod]
) -> tuple[list[CapturedPod], list[FoundPod]]:
    """Those that can be captured, and all."""
    captured, states = [], []
    for pod in wanted:
        device = find_pod_device(node, devices, pod.netns, pod.addresses)
        found: CapturedPod | NotCapturable
        if isinstance(device, NotCapturable):
            found = device
        else:
            found = CapturedPod(
                pod.namespace, pod.name, pod.netns, pod.addresses, device, registry_only=pod.registry_only
            )
            captured.append(found)
        states.append((pod, found))
    return captured, states


def _state(
    pod: WantedPod,
    found: CapturedPod | NotCapturable,
    refused: Mapping[int, NotCapturable],
    numbers: Mapping[int, int],
) -> PodState:
    if isinstance(found, NotCapturable):
        return PodState(pod.namespace, pod.name, reason=found.reason, words=found.words)
    why = refused.get(found.device.index, NotCapturable("", ""))
    return PodState(
        pod.namespace,
        pod.name,
        found.device.name,
        found.device.index,
        reason=why.reason,
        words=why.words,
        number=numbers[found.device.index],
    )
