# SPDX-License-Identifier: Apache-2.0
"""The cases of tests/unit/kubernetes/test_follow.py: a copy that stays true whatever a real API server does."""

import pytest

from nodeagent.kubernetes import follow, reflector
from nodeagent.kubernetes.reflector import Replaced
from tests.apiserver.server import RealKube
from tests.kube_api import pod
from tests.kube_copy import Copy, eventually, followed, in_a_loop

pytestmark = pytest.mark.apiserver


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(follow, "LONGEST_DELAY_SECONDS", 0.05)


def is_true(copy: Copy, kube: RealKube) -> bool:
    there = {name: one["resourceVersion"] for name, one in kube.pods().items()}
    return copy.pods == there


@in_a_loop
async def test_events_are_followed_without_listing_again(kube: RealKube) -> None:
    kube.put(pod("first"))
    copy = Copy(kube.api)
    async with followed(copy):
        await eventually(lambda: is_true(copy, kube) and bool(copy.follower.since))
        kube.put(pod("second"))
        kube.put(pod("first", labels={"a": "b"}))
        kube.delete("first")
        await eventually(lambda: is_true(copy, kube))
    assert set(copy.pods) == {"second"}
    assert copy.changes.count("Replaced") == 1


@in_a_loop
async def test_a_watch_that_times_out_is_resumed_from_its_bookmark(
    kube: RealKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens on other nodes moves the version, and no event of this one would ever say so."""
    monkeypatch.setattr(reflector, "WATCH_SECONDS", 3)
    kube.put(pod("first"))
    copy = Copy(kube.api)
    async with followed(copy):
        await eventually(lambda: bool(copy.follower.since))
        kube.put(pod("elsewhere", node="node-b"))
        reached = int(kube.pods()["elsewhere"]["resourceVersion"])
        await eventually(lambda: copy.watched() >= reached)
        kube.put(pod("second"))
        await eventually(lambda: set(copy.pods) == {"first", "second"})
    assert copy.changes.count("Replaced") == 1


@in_a_loop
async def test_a_history_that_is_forgotten_is_listed_again(kube: RealKube, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that vanished meanwhile is gone, though no event ever said so; and the list comes in pages."""
    monkeypatch.setattr(reflector, "LIST_LIMIT", 2)
    kube.put(pod("first"))
    copy = Copy(kube.api)
    async with followed(copy):
        await eventually(lambda: is_true(copy, kube) and bool(copy.follower.since))
    kube.restart()
    kube.delete("first")
    kube.put(*(pod(f"web-{number}") for number in range(5)))
    kube.restart()
    async with followed(copy):
        await eventually(lambda: is_true(copy, kube))
        assert "first" not in copy.pods
        kube.put(pod("last"))
        await eventually(lambda: is_true(copy, kube))
    assert copy.changes.count("Replaced") == 2


@in_a_loop
async def test_a_list_whose_pages_are_forgotten_begins_anew(kube: RealKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "LIST_LIMIT", 2)
    kube.put(*(pod(f"web-{number}") for number in range(5)))
    copy = Copy(kube.api)
    copy.reflector.restart()  # the newest state: any other is answered from memory, whole
    told = copy.reflector.listed
    pages: list[bytes] = []

    def listed(body: bytes) -> Replaced | None:
        if not pages:
            kube.put(pod("web-5"))
            kube.compact()
            kube.restart()
        pages.append(body)
        return told(body)

    monkeypatch.setattr(copy.reflector, "listed", listed)
    async with followed(copy):
        await eventually(lambda: is_true(copy, kube))
        assert copy.changes == ["Replaced"]
        kube.put(pod("last"))
        await eventually(lambda: is_true(copy, kube))
    assert copy.changes.count("Replaced") == 1
    assert len(pages) == 4, "one of the old state, three of the new"
