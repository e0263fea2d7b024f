# SPDX-License-Identifier: Apache-2.0
"""Which tunnel the next stream takes."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.set_up import split_totals
from nodeagent.proxy.messages import WorkerConfig
from nodeagent.proxy.pool import Seen, choose
from tests.unit.proxy.workers import Chain, Issue


def dialling(streams: int) -> Seen:
    return Seen(is_dialling=True, can_open=False, streams=streams)


def ready(streams: int, peer_limit: int = 100) -> Seen:
    return Seen(is_dialling=False, can_open=True, streams=streams, peer_limit=peer_limit)


def draining(streams: int, peer_limit: int = 100) -> Seen:
    return Seen(is_dialling=False, can_open=False, streams=streams, peer_limit=peer_limit)


@pytest.mark.parametrize(
    ("tunnels", "chosen"),
    [
        pytest.param([], None, id="none: dial"),
        pytest.param([ready(0)], 0, id="idle"),
        pytest.param([ready(10)], None, id="full by our own limit"),
        pytest.param([draining(1)], None, id="draining, or full by the peer's limit"),
        pytest.param([dialling(9)], 0, id="single flight: wait for the dial"),
        pytest.param([dialling(10)], None, id="more wait than one tunnel carries"),
        pytest.param([ready(1), ready(5), ready(10)], 1, id="the fullest that has room"),
        pytest.param([dialling(5), ready(1)], 1, id="rather one that is ready"),
        pytest.param([draining(3), ready(9)], 1, id="not the draining one"),
        pytest.param([draining(5, peer_limit=5), dialling(4)], 1, id="the peer's limit leaves room to wait"),
        pytest.param([draining(5, peer_limit=5), dialling(5)], None, id="more wait than the peer takes in one tunnel"),
        pytest.param([draining(0, peer_limit=0), dialling(9)], 1, id="a peer that takes none says nothing of the next"),
    ],
)
def test_choose(tunnels: list[Seen], chosen: int | None) -> None:
    assert choose(tunnels, 10) == chosen


seen = st.builds(Seen, is_dialling=st.booleans(), can_open=st.booleans(), streams=st.integers(0, 20))


@given(st.lists(seen, max_size=8), st.integers(1, 15))
def test_a_chosen_tunnel_has_room_and_none_is_dialled_in_vain(tunnels: list[Seen], most: int) -> None:
    chosen = choose(tunnels, most)
    usable = [one for one in tunnels if (one.can_open or one.is_dialling) and one.streams < most]
    if chosen is None:
        assert usable == []
    else:
        assert tunnels[chosen] in usable


def test_full_tunnels_are_not_looked_at_until_a_stream_ends(
    config: WorkerConfig, authority: Callable[[], Issue]
) -> None:
    chain = Chain(msgspec.structs.replace(config, pool_streams=2), authority())
    pool = chain.near.pool
    talks = [chain.talk(number) for number in range(6)]
    assert [tunnel.streams for tunnel in pool.all()] == [2, 2, 2]
    assert pool._roomy == {}
    for side in (0, 1):
        talks[2].finish(side)
    chain.until(talks[2].is_whole)
    chain.until(lambda: len(chain.ended) == 2)
    assert list(pool._roomy[chain.key()]) == [pool.all()[1]]
    chain.talk(7)
    assert [tunnel.streams for tunnel in pool.all()] == [2, 2, 2]
    assert pool._roomy == {}
    chain.close()


def test_who_waits_no_more_leaves_room(config: WorkerConfig, authority: Callable[[], Issue]) -> None:
    chain = Chain(msgspec.structs.replace(config, pool_streams=1), authority())
    passenger, _ = chain.ask()
    assert chain.near.pool._roomy == {}
    chain.near.pool.withdraw(chain.key(), passenger)
    chain.talk(1)
    assert len(chain.near.pool.all()) == 1
    passenger._socket.close()
    chain.close()


def test_what_a_tunnel_took_is_counted_once_and_each_connection_by_both_sides(
    config: WorkerConfig, authority: Callable[[], Issue]
) -> None:
    chain = Chain(msgspec.structs.replace(config, pool_streams=10), authority())
    for number in range(3):
        chain.talk(number)
    counted = {
        (side, phase): found.counts[-1][1]
        for side, worker in (("near", chain.near), ("far", chain.far))
        for phase, found in split_totals(worker.connections.times.totals())[1].items()
        if found.counts[-1][1]
    }
    assert counted == {
        ("near", "tunnel_connect"): 1,
        ("near", "tunnel_handshake"): 1,
        ("near", "outbound"): 3,
        ("far", "tunnel_accept"): 1,
        ("far", "inbound"): 3,
    }
    chain.close()
