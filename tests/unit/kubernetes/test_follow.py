# SPDX-License-Identifier: Apache-2.0
"""A copy that stays true whatever the API server does: bookmarks, 410, 429, cuts, timeouts, outages."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from nodeagent.kubernetes import follow as module
from nodeagent.kubernetes.reflector import Replaced
from tests.kube_api import FakeKube, pod, serving
from tests.kube_copy import Copy, eventually, followed


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(module, "LONGEST_DELAY_SECONDS", 0.05)


def is_true(copy: Copy, kube: FakeKube) -> bool:
    with kube.condition:
        there = {name: one["metadata"]["resourceVersion"] for (_, name), one in kube.objects["pods"].items()}
    return copy.pods == there


def run(directory: Path, scenario: Callable[[FakeKube, Copy], "asyncio.Future[None]"] | object) -> None:
    async def whole() -> None:
        with serving(directory / "api") as (kube, api):
            kube.put(pod("first"))
            copy = Copy(api)
            async with followed(copy):
                await eventually(lambda: kube.watches == 1 and is_true(copy, kube))
                await scenario(kube, copy)  # type: ignore[operator]

    asyncio.run(whole())


def test_events_are_followed_without_listing_again(tmp_path: Path) -> None:
    async def scenario(kube: FakeKube, copy: Copy) -> None:
        kube.put(pod("second"))
        kube.put(pod("first", labels={"a": "b"}))
        kube.delete("first")
        await eventually(lambda: is_true(copy, kube))
        assert copy.changes == ["Replaced", "Changed", "Changed", "Removed"]
        assert [verb for verb, _ in kube.asked] == ["list", "watch"]

    run(tmp_path, scenario)


def test_a_watch_that_ends_is_resumed_from_its_last_bookmark(tmp_path: Path) -> None:
    async def scenario(kube: FakeKube, copy: Copy) -> None:
        for _ in range(5):
            kube.bookmark()
        await eventually(lambda: copy.follower._reflector.ask(0.0).target.count(f"={kube.version}&") == 1)
        kube.drop()
        await eventually(lambda: len(kube.asked) == 3 and kube.watches == 1)
        assert f"resourceVersion={kube.version}&" in kube.targets[-1]
        assert copy.changes.count("Replaced") == 1

    run(tmp_path, scenario)


def test_an_event_that_is_cut_in_the_middle_comes_again(tmp_path: Path) -> None:
    async def scenario(kube: FakeKube, copy: Copy) -> None:
        kube.cut()
        kube.put(pod("second"))
        await eventually(lambda: is_true(copy, kube))
        assert copy.changes == ["Replaced", "Changed"]
        assert [verb for verb, _ in kube.asked] == ["list", "watch", "watch"]

    run(tmp_path, scenario)


def test_a_history_that_is_forgotten_is_listed_again(tmp_path: Path) -> None:
    """A pod that vanished meanwhile is gone, though no event ever said so."""

    async def scenario(kube: FakeKube, copy: Copy) -> None:
        with kube.condition:
            kube.delete("first")
            kube.put(pod("second"))
            kube.forget()
        await eventually(lambda: copy.changes.count("Replaced") == 2 and is_true(copy, kube))
        assert "first" not in copy.pods

    run(tmp_path, scenario)


def test_a_list_whose_pages_are_forgotten_begins_anew(tmp_path: Path) -> None:
    async def whole() -> None:
        with serving(tmp_path / "api") as (kube, api):
            kube.put(*(pod(f"web-{number}") for number in range(5)))
            kube.page = 2
            kube.refusals += [(429, {"Retry-After": "0"})]
            copy = Copy(api)
            once = [True]
            told = copy.follower._reflector.listed

            def listed(body: bytes) -> Replaced | None:
                if once and once.pop():
                    kube.forget()
                return told(body)

            copy.follower._reflector.listed = listed  # type: ignore[method-assign]
            async with followed(copy):
                await eventually(lambda: is_true(copy, kube))
            assert copy.changes == ["Replaced"]

    asyncio.run(whole())


def test_refusals_are_told_and_got_over(tmp_path: Path) -> None:
    async def scenario(kube: FakeKube, copy: Copy) -> None:
        with kube.condition:
            kube.refusals += [(429, {"Retry-After": "0"}), (503, {}), (403, {})] * 3
        kube.drop()
        await eventually(lambda: bool(copy.follower.error))
        kube.put(pod("second"))
        await eventually(lambda: is_true(copy, kube) and not copy.follower.error)

    run(tmp_path, scenario)


def test_how_long_a_server_that_has_too_much_to_do_is_left_alone(tmp_path: Path) -> None:
    """It says for how long; and a pause of our own is kept where it says nothing."""

    async def whole() -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                raise asyncio.CancelledError
            await real(0)

        real = asyncio.sleep
        with serving(tmp_path / "api") as (kube, api), pytest.MonkeyPatch.context() as patch:
            kube.refusals += [(429, {"Retry-After": "7"}), (429, {}), (500, {})]
            patch.setattr(asyncio, "sleep", sleep)
            with contextlib.suppress(asyncio.CancelledError):
                await Copy(api).follower.run()
        assert slept[0] == 7.0
        assert all(0 < seconds <= 0.06 for seconds in slept[1:])

    asyncio.run(whole())


def test_a_server_that_is_away_leaves_what_was_known(tmp_path: Path) -> None:
    async def whole() -> None:
        with serving(tmp_path / "api") as (kube, api):
            kube.put(pod("first"))
            copy = Copy(api)
            there = copy.follower._api
            async with followed(copy):
                await eventually(lambda: kube.watches == 1)
                copy.follower._api = dataclasses.replace(there, token_file=str(tmp_path / "nowhere"))
                kube.drop()
                await eventually(lambda: "nowhere" in copy.follower.error)
                assert set(copy.pods) == {"first"}
                kube.put(pod("second"))
                copy.follower._api = there
                await eventually(lambda: is_true(copy, kube) and not copy.follower.error)
                assert copy.changes.count("Replaced") == 1, "it was resumed"

    asyncio.run(whole())


def test_a_server_that_ends_every_watch_at_once_is_not_asked_in_a_circle(tmp_path: Path) -> None:
    async def whole() -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 5:
                raise asyncio.CancelledError
            await real(0)

        real = asyncio.sleep
        with serving(tmp_path / "api") as (kube, api), pytest.MonkeyPatch.context() as patch:
            kube.end()
            patch.setattr(asyncio, "sleep", sleep)
            with contextlib.suppress(asyncio.CancelledError):
                await Copy(api).follower.run()
        assert slept[0] == 0.0, "the list"
        assert all(seconds > 0 for seconds in slept[1:])

    asyncio.run(whole())
