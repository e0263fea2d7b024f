# SPDX-License-Identifier: Apache-2.0
"""Connections pass between workers in the middle of everything, and their ends do not notice."""

import random
import socket
from collections.abc import Callable, Iterator

import pytest

from nodeagent.model.reason import Reason
from nodeagent.proxy.departure import Departure
from nodeagent.proxy.handover import (
    VERSION,
    Accept,
    FromFormer,
    FromSuccessor,
    GivePair,
    GiveTunnel,
    NotTaken,
    Offer,
    Refuse,
)
from nodeagent.proxy.handover_socket import HandoverSocket
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import WorkerConfig
from nodeagent.proxy.tunnel import Tunnel
from tests.unit.proxy.workers import Chain, Issue, Worker


@pytest.fixture
def chain(config: WorkerConfig, authority: Callable[[], Issue]) -> Iterator[Chain]:
    made = Chain(config, authority())
    yield made
    made.close()


def is_done(former: Worker, departure: Departure) -> bool:
    return not (departure.has_sent or former.connections.guards or former.inbound.tunnels or former.pool.all())


def replace(chain: Chain, side: str) -> Worker:
    """And waits until all is handed over; returns the former worker."""
    former, departure = chain.replace(side)
    chain.until(lambda: is_done(former, departure))
    return former


KINDS = ("say", "listen", "turn", "turn", "turn", "near", "far", "finish")
WEIGHTS = (40, 12, 10, 10, 10, 8, 8, 2)


@pytest.mark.parametrize("seed", range(12))
def test_whenever_a_worker_is_replaced_no_byte_is_lost_or_changed(chain: Chain, seed: int) -> None:
    """Sockets block, readers stop for long, and everything is cut anywhere."""
    draw = random.Random(seed)
    talks = [chain.talk(number) for number in range(3)] + [chain.pair(3)[0]]
    chain.narrow()
    for kind in draw.choices(KINDS, WEIGHTS, k=120):
        talk, side, size = draw.choice(talks), draw.randrange(2), draw.randrange(1, 300_000)
        match kind:
            case "say":
                talk.say(side, size)
            case "listen":
                talk.listen(side, size)
            case "finish":
                talk.finish(side)
            case "turn":
                chain.turn()
            case place:
                replace(chain, place)
    for talk in talks:
        for side in (0, 1):
            talk.finish(side)
    chain.until(lambda: all(talk.is_whole() for talk in talks))
    chain.until(lambda: len(chain.ended) == 7)
    assert {record.reason for record in chain.ended} == {"closed"}
    told = {(record.sent_bytes, record.received_bytes) for record in chain.ended}
    assert told == {(len(talk.said[0]), len(talk.said[1])) for talk in talks}


def test_the_records_go_on_at_the_successor(chain: Chain) -> None:
    talk = chain.talk()
    talk.say(0, 1000)
    chain.until(talk.is_whole)
    [guard] = chain.near.connections.all()
    begun = guard.record
    former = replace(chain, "near")
    [guard] = chain.near.connections.all()
    assert (guard.record.id, guard.record.started, guard.record.sent_bytes) == (begun.id, begun.started, 1000)
    assert guard.is_established
    assert former.handed_over[0].ids == (begun.id,)
    assert former.closed == []
    assert former.loop.watched == 1  # the socket between the two


def test_streams_that_are_being_opened_are_waited_for(chain: Chain) -> None:
    talk = chain.talk()
    client, _ = chain.ask()
    former, departure = chain.replace("near")
    for _ in range(20):
        chain.near.loop.turn(0)
        former.loop.turn(0)
    assert (client.is_joined, former.handed_over) == (False, [])
    chain.until(lambda: is_done(former, departure))
    assert (client.is_joined, former.handed_over != []) == (True, True)
    assert sum(len(one.ids) for one in former.handed_over) == 2
    talk.say(1, 5)
    chain.until(talk.is_whole)


def test_a_peer_that_opens_streams_all_the_time_is_not_read_for_a_moment(chain: Chain) -> None:
    talk = chain.talk()
    former, departure = chain.replace("far")
    [accepted] = former.inbound.tunnels
    assert accepted.tunnel is not None
    held: list[bool] = []
    hold = accepted.tunnel.hold

    def note(*, is_held: bool) -> None:
        held.append(is_held)
        hold(is_held=is_held)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tunnel, "can_move", False)  # as if one were always being dialled
        patch.setattr(accepted.tunnel, "hold", note)
        chain.until(lambda: len(held) == 140)
    assert held == [8 <= look % 64 < 12 for look in range(1, 141)]
    chain.until(lambda: is_done(former, departure))
    talk.say(0, 100)
    chain.until(talk.is_whole)


def test_who_gives_up_reads_on(chain: Chain) -> None:
    talk = chain.talk()
    former, departure = chain.replace("far")
    [accepted] = former.inbound.tunnels
    assert accepted.tunnel is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tunnel, "can_move", False)
        chain.until(lambda: accepted.tunnel is not None and accepted.tunnel._interest == 0)
    departure.stop()
    talk.say(0, 100)
    chain.until(talk.is_whole)


def test_an_idle_tunnel_goes_along_and_is_used_again(chain: Chain) -> None:
    talk = chain.talk()
    for side in (0, 1):
        talk.finish(side)
    chain.until(lambda: talk.is_whole() and not chain.near.connections.guards and not chain.far.connections.guards)
    for place in ("near", "far"):
        replace(chain, place)
    assert [len(chain.near.pool.all()), len(chain.far.inbound.tunnels)] == [1, 1]
    again = chain.talk(1)
    again.say(0, 10)
    chain.until(again.is_whole)
    assert len(chain.near.pool.all()) == 1


def test_a_draining_tunnel_goes_along_and_takes_no_new_streams(chain: Chain) -> None:
    talk = chain.talk()
    chain.far.inbound.drain()
    chain.until(lambda: bool(chain.near.pool.retired))
    former, departure = chain.replace("near")
    chain.until(lambda: is_done(former, departure) and not former.pool.retired)
    assert len(chain.near.pool.retired) == 1
    assert chain.near.pool.all() == []
    for side in (0, 1):
        talk.finish(side)
    chain.until(lambda: not chain.near.pool.retired and not chain.far.inbound.tunnels)


class Successor:
    """One that answers as the test says."""

    def __init__(self, sock: socket.socket) -> None:
        self.loop = Loop()
        self.heard: list[FromFormer] = []
        self.why = ""
        self.socket: HandoverSocket[FromFormer] = HandoverSocket(self.loop, sock, FromFormer, self)

    def told(self, message: FromFormer, descriptors: list[int]) -> None:
        self.heard.append(message)
        for descriptor in descriptors:
            socket.socket(fileno=descriptor).close()

    def lost(self, why: str) -> None:
        self.why = why

    def answer(self, answer: FromSuccessor) -> None:
        self.socket.send(answer)


@pytest.fixture
def successor(chain: Chain) -> Iterator[tuple[Successor, Departure]]:
    one, other = socket.socketpair()
    made = Successor(other)
    departure = chain.near.depart(one)
    yield made, departure
    departure.close()
    made.socket.close()


def hear(chain: Chain, successor: Successor, kind: type[object]) -> object:
    def came() -> bool:
        successor.loop.turn(0)
        return bool(successor.heard) and isinstance(successor.heard[-1], kind)

    chain.until(came)
    return successor.heard[-1]


def test_nothing_is_given_before_the_successor_accepts(chain: Chain, successor: tuple[Successor, Departure]) -> None:
    chain.talk()
    heir, departure = successor
    assert hear(chain, heir, Offer) == Offer(VERSION)
    for _ in range(20):
        chain.turn()
    assert not departure.has_sent
    heir.answer(Refuse("version 0"))
    chain.until(lambda: departure.is_over)
    assert len(chain.near.connections) == 1
    assert len(chain.near.pool.all()) == 1


def test_what_is_not_taken_is_reset_with_a_record(chain: Chain, successor: tuple[Successor, Departure]) -> None:
    talk = chain.talk()
    heir, departure = successor
    hear(chain, heir, Offer)
    heir.answer(Accept(7))
    given = hear(chain, heir, GiveTunnel)
    assert isinstance(given, GiveTunnel)
    assert departure.has_sent
    heir.answer(NotTaken(given.number, "a wrong word"))
    chain.until(lambda: len(chain.near.closed) == 1)
    [record] = chain.near.closed
    assert (record.reason, record.error) == (Reason.HANDOVER_FAILED.value, "a wrong word")
    with pytest.raises(ConnectionResetError):
        chain.until(talk.is_whole)
    assert not departure.has_sent


def test_a_successor_that_dies_leaves_what_it_had_not_taken_reset_and_the_rest_here(
    chain: Chain, successor: tuple[Successor, Departure]
) -> None:
    talk, relay = chain.pair()
    heir, departure = successor
    hear(chain, heir, Offer)
    heir.answer(Accept(7))
    given = hear(chain, heir, GivePair)
    assert isinstance(given, GivePair)
    assert relay.guard.is_open
    kept, _ = chain.pair(1)
    heir.socket.close()
    chain.until(lambda: departure.is_over)
    assert [record.reason for record in chain.near.closed] == ["handover_failed"]
    with pytest.raises(ConnectionResetError):
        chain.until(talk.is_whole)
    kept.say(0, 5)
    chain.until(kept.is_whole)


def test_at_the_deadline_what_is_on_the_way_is_given_up(chain: Chain, successor: tuple[Successor, Departure]) -> None:
    chain.pair()
    heir, departure = successor
    hear(chain, heir, Offer)
    heir.answer(Accept(7))
    hear(chain, heir, GivePair)
    departure.close()
    assert not departure.has_sent
    assert [record.reason for record in chain.near.closed] == ["handover_failed"]


def test_only_some_are_on_the_way_at_once(chain: Chain, successor: tuple[Successor, Departure]) -> None:
    for number in range(30):
        chain.pair(number)
    heir, _ = successor
    hear(chain, heir, Offer)
    heir.answer(Accept(7))
    for _ in range(200):
        chain.turn()
        heir.loop.turn(0)
    assert len([one for one in heir.heard if isinstance(one, GivePair)]) == 8
