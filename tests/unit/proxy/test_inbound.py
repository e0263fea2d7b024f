# SPDX-License-Identifier: Apache-2.0
"""Connections to port 15008: which of them are a waste of their source's, and what becomes of those that wait."""

from collections.abc import Callable, Iterator

import pytest

from nodeagent.model.reason import Reason
from nodeagent.proxy.messages import WorkerConfig
from nodeagent.proxy.sources import ATTEMPT_SECONDS, CREDIT_SECONDS, HANDSHAKE_SECONDS, PRICE
from tests.unit.proxy.workers import HERE, Chain, Issue, Worker, joined_by_tcp


@pytest.fixture
def chain(config: WorkerConfig, authority: Callable[[], Issue]) -> Iterator[Chain]:
    made = Chain(config, authority())
    yield made
    made.close()


def debt(worker: Worker) -> float:
    """Seconds of CPU that are charged to HERE."""
    source = worker.inbound.admission._sources._known.get(HERE)
    assert source is None or source.shaking == 0
    until = source.until if source is not None else 0
    return max(until - (worker.loop.now - CREDIT_SECONDS), 0) / PRICE


def owe(chain: Chain, seconds: float) -> None:
    """Of waiting, which is what HERE has beyond its credit."""
    chain.far.inbound.admission.charge(HERE, (CREDIT_SECONDS + seconds) / PRICE)


def test_a_tunnel_with_a_request_is_no_waste(chain: Chain) -> None:
    chain.talk()
    assert debt(chain.far) == pytest.approx(0, abs=1e-4)


def test_one_that_gave_up_after_a_second_may_have_waited_for_us(chain: Chain) -> None:
    ours, theirs = joined_by_tcp()
    chain.far.inbound.accepted(ours, (HERE, 1))
    [accepted] = chain.far.inbound.tunnels
    accepted._begun -= 1.1
    theirs.close()
    chain.until(lambda: not chain.far.inbound.tunnels)
    assert debt(chain.far) == 0


def test_a_tunnel_without_a_request_is_one(chain: Chain) -> None:
    client, theirs = chain.ask()
    client.tunnel_ready = lambda tunnel: None  # type: ignore[method-assign]  # noqa: ARG005
    accepted = chain.far.inbound.tunnels

    def is_established() -> bool:
        chain.accept_tunnel()
        return any(one.tunnel is not None and one.tunnel.peer is not None for one in accepted)

    chain.until(is_established)
    [dialled] = chain.near.pool.all()
    dialled.fail(Reason.DRAINED, "")
    client._guard.close(Reason.CLOSED)
    client._socket.close()
    theirs.close()
    chain.until(lambda: not accepted)
    assert debt(chain.far) == pytest.approx(HANDSHAKE_SECONDS, rel=0.1)


@pytest.mark.parametrize(
    ("said", "reason", "charged"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", Reason.TLS_NOT_TLS, ATTEMPT_SECONDS, id="no TLS"),
        pytest.param(b"", Reason.TLS_FAILED, ATTEMPT_SECONDS, id="nothing"),
    ],
)
def test_what_never_becomes_a_tunnel_is_half_of_one(chain: Chain, said: bytes, reason: Reason, charged: float) -> None:
    ours, theirs = joined_by_tcp()
    chain.far.inbound.accepted(ours, (HERE, 1))
    theirs.sendall(said)
    theirs.close()
    chain.until(lambda: not chain.far.inbound.tunnels)
    assert [record.reason for record in chain.far.closed] == [reason.value]
    assert debt(chain.far) == pytest.approx(charged, rel=0.1)


def test_whoever_leaves_while_it_waits_is_gone_and_charged(chain: Chain) -> None:
    owe(chain, 1)
    ours, theirs = joined_by_tcp()
    chain.far.inbound.accepted(ours, (HERE, 1))
    before = debt(chain.far)
    theirs.close()
    chain.until(lambda: not chain.far.inbound.tunnels)
    assert [record.reason for record in chain.far.closed] == [Reason.TLS_FAILED.value]
    assert chain.far.inbound.admission._queues == {}
    assert debt(chain.far) > before


def test_a_tunnel_that_says_more_for_nothing_rests_and_is_counted(chain: Chain) -> None:
    ours, theirs = joined_by_tcp()
    chain.far.inbound.accepted(ours, (HERE, 1))
    [accepted] = chain.far.inbound.tunnels
    assert accepted.charge(1e-6) == 0
    assert "tunnels_rested" not in chain.far.shared.counters
    owe(chain, 1)
    assert accepted.charge(1e-6) > 0
    assert chain.far.shared.counters["tunnels_rested"] == 1
    theirs.close()


def test_whoever_waits_is_served_as_others_are(chain: Chain) -> None:
    owe(chain, 0.04)
    chain.talk()
    assert chain.far.shared.counters["tunnels_delayed"] == 1


def test_a_worker_that_stops_sends_those_that_wait_away(chain: Chain) -> None:
    owe(chain, 1)
    ours, theirs = joined_by_tcp()
    chain.far.inbound.accepted(ours, (HERE, 1))
    chain.far.inbound.drain()
    assert [record.reason for record in chain.far.closed] == [Reason.DRAINED.value]
    assert chain.far.inbound.admission._queues == {}
    theirs.close()


def test_one_too_many_to_wait_is_refused_with_a_record_a_second(chain: Chain) -> None:
    owe(chain, 5)
    for _ in range(3):
        ours, theirs = joined_by_tcp()
        chain.far.inbound.accepted(ours, (HERE, 1))
        assert ours.fileno() == -1
        theirs.close()
    assert [record.reason for record in chain.far.closed] == [Reason.SOURCE_WASTEFUL.value]
    assert chain.far.shared.counters["tunnels_refused"] == 3
    assert chain.far.inbound.tunnels == set()
