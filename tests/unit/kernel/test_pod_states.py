# SPDX-License-Identifier: Apache-2.0
"""What is said of each wanted pod: whether it is captured, why not, and what was counted."""

from types import SimpleNamespace
from typing import Any

import pytest

from nodeagent.kernel import pod_states as module
from nodeagent.kernel.codings import NO_NUMBER, PodCount
from nodeagent.kernel.guard import INTERVAL_SECONDS
from nodeagent.kernel.netlink import NotCapturable, PodDevice
from nodeagent.kernel.pod_states import PodState, PodStates, find_pods
from nodeagent.kernel.reconcile import CapturedPod
from nodeagent.kernel.wanted import WantedPod
from nodeagent.model.address import Ip
from nodeagent.model.pod import CaptureReason

A, X = (
    WantedPod("shop", name, f"/netns/{name}", (Ip(address),)) for name, address in (("a", "10.0.0.1"), ("x", "::1"))
)
DEVICE = PodDevice(7, "veth7", 1500, b"\x02" * 6, b"\x04" * 6)
NO_DEVICE = NotCapturable(CaptureReason.NO_DEVICE, "no device has its address")
FULL = NotCapturable(CaptureReason.MAP_FULL, "the map sources is full")
NODE: Any = None
COUNTS = PodCount(outbound=2, inbound=3, admitted=3)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> PodDevice:
    monkeypatch.setattr(
        module, "find_pod_device", lambda _node, _devices, netns, _addresses: DEVICE if netns == A.netns else NO_DEVICE
    )
    return DEVICE


def maps_with(counts: PodCount | None) -> Any:
    return SimpleNamespace(pod_counts=SimpleNamespace(find=lambda index: counts if index == DEVICE.index else None))


def states_of(device: PodDevice, refused: dict[int, NotCapturable] | None = None) -> PodStates:
    assert device is DEVICE
    _, found = find_pods(NODE, {}, [A, X])
    states = PodStates()
    states.put(found, refused or {}, {DEVICE.index: 5}, [])
    return states


def test_those_that_can_be_captured_are_found_with_their_device(device: PodDevice) -> None:
    captured, found = find_pods(NODE, {}, [A, X])
    assert captured == [CapturedPod("shop", "a", A.netns, A.addresses, device)]
    assert found == [(A, captured[0]), (X, NO_DEVICE)]


def test_a_state_says_on_which_device_or_why_not(device: PodDevice) -> None:
    assert states_of(device).all == (
        PodState("shop", "a", DEVICE.name, DEVICE.index, number=5),
        PodState("shop", "x", reason=NO_DEVICE.reason, words=NO_DEVICE.words, number=NO_NUMBER),
    )
    assert [state.is_captured for state in states_of(device).all] == [True, False]


def test_what_the_kernel_refused_is_not_captured(device: PodDevice) -> None:
    state = states_of(device, {DEVICE.index: FULL}).all[0]
    assert (state.reason, state.words, state.ifindex) == (FULL.reason, FULL.words, DEVICE.index)
    assert not state.is_captured


def test_counts_are_those_of_the_moment(device: PodDevice) -> None:
    states = states_of(device)
    assert states.counted(states.all[0], maps_with(COUNTS), 1.0).hits == 5
    assert states.counted(states.all[0], maps_with(None), 1.0).counts == PodCount()
    assert states.counted(states.all[0], None, 1.0).counts == PodCount()
    assert states.counted(states.all[1], maps_with(COUNTS), 1.0) == states.all[1]


def test_a_pod_whose_guard_is_skipped_is_not_captured_until_its_counts_are_new(device: PodDevice) -> None:
    states, later = states_of(device), 1.0 + INTERVAL_SECONDS
    states.counted(states.all[0], maps_with(COUNTS), 1.0)
    skipped = states.counted(states.all[0], maps_with(COUNTS._replace(unasked=1)), later)
    assert (skipped.reason, skipped.is_captured) == (CaptureReason.EGRESS_SKIPPED, False)
    _, found = find_pods(NODE, {}, [A])
    for counted, is_captured in (([DEVICE.index], False), ([], True)):
        states.put(found, {}, {DEVICE.index: 5}, counted)
        assert states.counted(states.all[0], maps_with(COUNTS._replace(unasked=1)), later).is_captured is is_captured
