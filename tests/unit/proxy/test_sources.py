# SPDX-License-Identifier: Apache-2.0
"""Who wastes a worker's time waits; who wastes little, and everybody else, does not."""

import pytest

from nodeagent.model.address import Ip
from nodeagent.proxy.sources import HANDSHAKE_SECONDS, Sources

WASTEFUL, OTHER = Ip("10.0.0.1"), Ip("10.0.0.2")


@pytest.fixture
def sources() -> Sources:
    return Sources()


def waste(sources: Sources, tunnels: int, now: float) -> float:
    """So many one after the other, each as soon as it may. When the last was over."""
    for _ in range(tunnels):
        while seconds := sources.wait(WASTEFUL, now):
            now += seconds
        is_paid = sources.begin(WASTEFUL, now)
        sources.wasted(WASTEFUL, 0 if is_paid else HANDSHAKE_SECONDS, now)
    return now


def test_a_hundred_wasted_at_once_are_put_up_with(sources: Sources) -> None:
    assert waste(sources, 100, now=1000) == 1000
    assert sources.wait(WASTEFUL, 1000) == 0
    assert sources.wait(OTHER, 1000) == 0


def test_beyond_that_they_have_a_twentieth_of_a_worker(sources: Sources) -> None:
    began = waste(sources, 100, now=1000)
    ended = waste(sources, 1000, now=began)
    assert (ended - began) * 0.05 == pytest.approx(1000 * HANDSHAKE_SECONDS, rel=0.02)
    assert sources.wait(OTHER, ended) == 0


def test_who_wastes_less_than_a_twentieth_never_waits(sources: Sources) -> None:
    now = 1000.0
    for _ in range(5000):
        now += HANDSHAKE_SECONDS / 0.04
        assert waste(sources, 1, now) == now


def test_tunnels_that_wait_begin_one_by_one(sources: Sources) -> None:
    now = waste(sources, 101, now=1000) + 0.5
    while not sources.wait(WASTEFUL, now):
        assert sources.begin(WASTEFUL, now)
        now += 1e-6
    assert sources.wait(WASTEFUL, now + 0.03) == 0


def test_a_tunnel_that_has_a_stream_is_paid_back(sources: Sources) -> None:
    waste(sources, 101, now=1000)
    for _ in range(1000):
        assert sources.begin(WASTEFUL, 1001)
        sources.pay_back(WASTEFUL)
        assert sources.wait(WASTEFUL, 1001) == 0


def test_what_is_wasted_is_forgotten(sources: Sources) -> None:
    sources.wasted(WASTEFUL, 60, now=1000)
    assert sources.wait(WASTEFUL, 1000) == 0.25
    assert sources.refuses(WASTEFUL, 1000)
    assert not sources.refuses(WASTEFUL, 1001.1)
    assert sources.wait(WASTEFUL, 1004.9) == pytest.approx(0.1)
    assert sources.wait(WASTEFUL, 1005) == 0
    assert sources.begin(WASTEFUL, 1007.1) is False  # its credit is back
    assert waste(sources, 100, now=1007.1) == 1007.1


def test_few_wait_and_the_rest_is_refused_with_a_record_a_second(sources: Sources) -> None:
    sources.wasted(WASTEFUL, 0.2, now=1000)
    for _ in range(64):
        assert not sources.refuses(WASTEFUL, 1000)
        sources.queue(WASTEFUL)
    assert sources.refuses(WASTEFUL, 1000)
    assert not sources.refuses(OTHER, 1000)
    assert [sources.records(WASTEFUL, now) for now in (1000, 1000.5, 1001, 1001.9)] == [True, False, True, False]
    sources.leave(WASTEFUL)
    assert not sources.refuses(WASTEFUL, 1000)


def test_the_operator_is_told_once_a_minute(sources: Sources) -> None:
    told = [sources.wasted(WASTEFUL, 0.2, 1000 + n) for n in range(130)]
    assert [n for n, is_told in enumerate(told) if is_told] == [0, 60, 120]


def test_ever_more_sources_are_bounded(sources: Sources) -> None:
    for n in range(10_000):
        sources.wasted(Ip(f"10.1.{n >> 8}.{n & 255}"), 1, now=1000)
    assert len(sources._known) == 4096
