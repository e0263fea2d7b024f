# SPDX-License-Identifier: Apache-2.0
"""The last connections, read in pages, followed by a cursor that outlives the agent."""

import asyncio
from collections.abc import Callable

import pytest

from nodeagent.errors import ConfigError
from nodeagent.model.record import ConnectionRecord, FlowPage
from nodeagent.telemetry import flow_history
from nodeagent.telemetry.flow_history import FlowHistory

RecordOf = Callable[..., ConnectionRecord]


def _numbers(page: FlowPage) -> list[int]:
    return [record.id for record in page.records]


@pytest.fixture
def filled(record_of: RecordOf) -> Callable[[int], FlowHistory]:
    """Of four that are kept, with records 1 to `count`."""

    def fill(count: int) -> FlowHistory:
        history = FlowHistory(4)
        for number in range(1, count + 1):
            history.ended(record_of(id=number, reason="closed"))
        return history

    return fill


@pytest.mark.parametrize(
    ("ended", "count", "expected"),
    [(0, None, []), (3, None, [1, 2, 3]), (6, None, [3, 4, 5, 6]), (6, 2, [5, 6]), (6, 9, [3, 4, 5, 6]), (6, 0, [])],
)
def test_the_newest(filled: Callable[[int], FlowHistory], ended: int, count: int | None, expected: list[int]) -> None:
    page = filled(ended).newest(count)
    assert (_numbers(page), page.has_more, page.lost) == (expected, False, 0)


def test_the_newest_first(filled: Callable[[int], FlowHistory]) -> None:
    assert [record.id for record in filled(6).newest_first()] == [6, 5, 4, 3]


def test_what_comes_after(filled: Callable[[int], FlowHistory], record_of: RecordOf) -> None:
    history = filled(3)
    cursor = history.newest(0).cursor
    assert history.after(cursor) == FlowPage((), cursor, has_more=False, lost=0)
    for number in (4, 5):
        history.ended(record_of(id=number, reason="closed"))
    page = history.after(cursor)
    assert (_numbers(page), page.lost) == ([4, 5], 0)
    assert _numbers(history.after(page.cursor)) == []


def test_what_was_pushed_out_before_it_was_read_is_counted(
    filled: Callable[[int], FlowHistory], record_of: RecordOf
) -> None:
    history = filled(3)
    cursor = history.newest().cursor
    for number in range(4, 11):
        history.ended(record_of(id=number, reason="closed"))
    page = history.after(cursor)
    assert (_numbers(page), page.lost) == ([7, 8, 9, 10], 3)


def test_pages(filled: Callable[[int], FlowHistory], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_history, "PAGE", 3)
    history = filled(4)
    first = history.newest()
    assert (_numbers(first), first.has_more) == ([1, 2, 3], True)
    second = history.after(first.cursor)
    assert (_numbers(second), second.has_more) == ([4], False)


def test_a_new_agent_tells_a_follower_all_that_it_has(filled: Callable[[int], FlowHistory]) -> None:
    page = filled(2).after(filled(4).newest().cursor)
    assert (_numbers(page), page.lost) == ([1, 2], 0)


@pytest.mark.parametrize("cursor", ["", "x", "-", "a-", "a-x", "a-1-2", "a-²"])
def test_what_is_no_cursor(filled: Callable[[int], FlowHistory], cursor: str) -> None:
    with pytest.raises(ConfigError, match="not a cursor"):
        filled(1).after(cursor)


def test_a_follower_is_woken(filled: Callable[[int], FlowHistory], record_of: RecordOf) -> None:
    async def scenario() -> list[FlowPage]:
        history = filled(2)
        cursor = history.newest(0).cursor
        followers = [asyncio.create_task(history.follow(cursor, 60.0)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(follower.done() for follower in followers)
        history.ended(record_of(id=9, reason="closed"))
        history.ended(record_of(id=10, reason="closed"))
        return await asyncio.gather(*followers)

    for page in asyncio.run(scenario()):
        assert _numbers(page) == [9, 10]


def test_a_follower_does_not_wait_for_what_is_there_nor_for_ever(filled: Callable[[int], FlowHistory]) -> None:
    async def scenario() -> None:
        history = filled(2)
        assert _numbers(await history.follow("other-0", 60.0)) == [1, 2]
        cursor = history.newest().cursor
        assert _numbers(await history.follow(cursor, 0.0)) == []
        assert _numbers(await history.follow(cursor, 0.01)) == []

    asyncio.run(scenario())


def test_hits_of_policies_outlive_the_rows(record_of: RecordOf) -> None:
    history = FlowHistory(1)
    for number, policy in enumerate(("shop/a", "shop/b", "", "shop/a")):
        history.ended(record_of(started=100.0, seconds=float(number), reason="closed", policy=policy))
    assert history.policy_hits == {"shop/b": (1, 101.0), "shop/a": (2, 103.0)}


def test_hits_of_policies_have_a_bound(record_of: RecordOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_history, "POLICIES", 2)
    history = FlowHistory()
    for policy in ("a", "b", "a", "c"):
        history.ended(record_of(policy=policy))
    assert sorted(history.policy_hits) == ["a", "c"]
