# SPDX-License-Identifier: Apache-2.0
"""Who wastes a worker's time waits; who wastes little, and everybody else, does not."""

import pytest

from nodeagent.model.address import Ip
from nodeagent.proxy.sources import ATTEMPT_SECONDS, CREDIT_SECONDS, HANDSHAKE_SECONDS, PRICE, Sources

WASTEFUL, OTHER = Ip("10.0.0.1"), Ip("10.0.0.2")


@pytest.fixture
def sources() -> Sources:
    return Sources()


def waste(sources: Sources, tunnels: int, now: float) -> float:
    """So many one after the other, each as soon as it may. When the last was over."""
    for _ in range(tunnels):
        while seconds := sources.wait(WASTEFUL, now):
            now += seconds
        sources.begin(WASTEFUL, now)
        sources.charge(WASTEFUL, HANDSHAKE_SECONDS, now)
        sources.shaken(WASTEFUL)
    return now


def test_a_hundred_wasted_at_once_are_put_up_with(sources: Sources) -> None:
    assert waste(sources, 100, now=1000) == 1000
    assert sources.wait(OTHER, 1000) == 0


def test_beyond_that_they_have_a_fiftieth_of_a_worker(sources: Sources) -> None:
    began = waste(sources, 100, now=1000)
    ended = waste(sources, 1000, now=began)
    assert (ended - began) / 50 == pytest.approx(1000 * HANDSHAKE_SECONDS, rel=0.02)
    assert sources.wait(OTHER, ended) == 0


def test_who_wastes_less_than_a_fiftieth_never_waits(sources: Sources) -> None:
    now = 1000.0
    for _ in range(5000):
        now += HANDSHAKE_SECONDS / 0.018
        assert waste(sources, 1, now) == now


def test_a_hundred_shake_hands_at_once(sources: Sources) -> None:
    """Whoever makes thousands and holds them is charged before the next hundred begin."""
    begun = 0
    while not sources.wait(WASTEFUL, 1000):
        sources.begin(WASTEFUL, 1000)
        begun += 1
    assert begun == pytest.approx(100, abs=1)
    sources.shaken(WASTEFUL)
    sources.charge(WASTEFUL, HANDSHAKE_SECONDS, 1000)
    assert sources.wait(WASTEFUL, 1000)


def test_tunnels_that_have_a_request_are_paid_back_and_make_nobody_wait(sources: Sources) -> None:
    """A gateway that was just started."""
    for _ in range(1000):
        assert not sources.wait(WASTEFUL, 1000)
        sources.begin(WASTEFUL, 1000)
        sources.shaken(WASTEFUL)
        debt = sources.charge(WASTEFUL, HANDSHAKE_SECONDS, 1000)
        sources.pay_back(WASTEFUL, debt, 1000, 1000)


def test_no_more_is_paid_back_than_is_left(sources: Sources) -> None:
    sources.charge(WASTEFUL, 60, 1000)
    capped = sources.charge(WASTEFUL, HANDSHAKE_SECONDS, 1000)
    sources.pay_back(WASTEFUL, capped, 1000, 1000)
    assert sources.rest(WASTEFUL, 1004.9) == pytest.approx(0.1)
    old = sources.charge(WASTEFUL, HANDSHAKE_SECONDS, 1004.9)
    sources.pay_back(WASTEFUL, old, 1004.9, 1005)
    assert sources.rest(WASTEFUL, 1005) == pytest.approx(HANDSHAKE_SECONDS * PRICE)


def test_one_fault_of_a_tunnel_with_all_the_streams_it_may_have_makes_nobody_wait(sources: Sources) -> None:
    sources.charge(WASTEFUL, 200 * 0.15e-3, 1000)
    assert not sources.wait(WASTEFUL, 1000)


def test_what_is_wasted_is_forgotten(sources: Sources) -> None:
    sources.charge(WASTEFUL, 60, now=1000)
    assert sources.wait(WASTEFUL, 1000) == sources.rest(WASTEFUL, 1000) == 0.25
    assert sources.refuses(WASTEFUL, 0, 1000)
    assert not sources.refuses(WASTEFUL, 0, 1001.1)
    assert sources.wait(WASTEFUL, 1004.9) == pytest.approx(0.1)
    assert sources.wait(WASTEFUL, 1005) == sources.rest(WASTEFUL, 1005) == 0
    assert waste(sources, 100, now=1010.1) == 1010.1


def test_of_a_source_in_debt_few_wait(sources: Sources) -> None:
    sources.charge(WASTEFUL, (CREDIT_SECONDS + 2) / PRICE, now=1000)
    assert not sources.refuses(WASTEFUL, 63, 1000)
    assert sources.refuses(WASTEFUL, 64, 1000)
    assert not sources.refuses(OTHER, 64, 1000)
    assert not sources.refuses(WASTEFUL, 64, 1003), "it owes nothing more"
    assert sources.refuses(OTHER, 4096, 1000), "they would fill the worker"
    assert [sources.records(WASTEFUL, now) for now in (1000, 1000.5, 1001, 1001.9)] == [True, False, True, False]


def test_connections_that_come_and_go_are_refused_in_the_end(sources: Sources) -> None:
    now, attempts = 1000.0, 0
    while not sources.refuses(WASTEFUL, 0, now):
        now += 0.001
        attempts += 1
        sources.charge(WASTEFUL, ATTEMPT_SECONDS, now)
    assert 300 < attempts < 600


def test_the_operator_is_told_once_a_minute(sources: Sources) -> None:
    told = []
    for n in range(130):
        sources.charge(WASTEFUL, 0.2, 1000 + n)
        if sources.is_news(WASTEFUL, 1000 + n):
            told.append(n)
    assert told == [0, 60, 120]


def test_ever_more_sources_are_bounded_and_debtors_are_known_longest(sources: Sources) -> None:
    sources.charge(WASTEFUL, 0.2, now=1000)
    for n in range(10_000):
        sources.charge(Ip(f"10.1.{n >> 8}.{n & 255}"), 0.001, now=990 + n / 1000)
    assert len(sources._known) <= 4096
    assert sources.wait(WASTEFUL, 1000)
