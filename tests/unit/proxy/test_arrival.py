# SPDX-License-Identifier: Apache-2.0
"""What a successor refuses, and what it looks at again."""

import socket
from collections.abc import Callable, Iterator

import msgspec
import pytest

from nodeagent.model.address import Ip
from nodeagent.model.record import Direction
from nodeagent.proxy.arrival import Arrival
from nodeagent.proxy.handover import (
    VERSION,
    Accept,
    EndState,
    FromSuccessor,
    GivePair,
    GiveTunnel,
    GuardState,
    NotTaken,
    Offer,
    PairState,
    Refuse,
    Taken,
)
from nodeagent.proxy.handover_socket import HandoverSocket
from nodeagent.proxy.messages import WorkerConfig
from tests.unit.proxy.workers import HERE, Chain, Issue, Talk, joined_by_tcp


class Former:
    """One that gives what the test says."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.answers: list[FromSuccessor] = []
        one, other = socket.socketpair()
        self.arrival: Arrival = chain.near.arrive(other)
        self.socket: HandoverSocket[FromSuccessor] = HandoverSocket(chain.far.loop, one, FromSuccessor, self)

    def told(self, message: FromSuccessor, descriptors: list[int]) -> None:
        assert descriptors == []
        self.answers.append(message)

    def lost(self, why: str) -> None:
        raise AssertionError(why)

    def answer(self) -> FromSuccessor:
        self.chain.until(lambda: bool(self.answers))
        return self.answers.pop(0)


@pytest.fixture
def former(config: WorkerConfig, authority: Callable[[], Issue]) -> Iterator[Former]:
    chain = Chain(config, authority())
    made = Former(chain)
    yield made
    made.socket.close()
    chain.until(lambda: made.arrival.is_over)
    chain.close()


def begun(former: Former, number: int, ip: Ip = HERE) -> GuardState:
    """A connection of a worker that is not here."""
    guard = former.chain.far.connections.begin(Direction.OUTBOUND, (ip, number), (HERE, 2))
    state = guard.leave()
    guard.discard()
    return msgspec.structs.replace(state, seconds=100.0)


def give_pair(former: Former, guard: GuardState) -> Talk:
    near, client = joined_by_tcp()
    far, server = joined_by_tcp()
    ends = EndState(b"from the server", is_shut=False, is_read_out=False), EndState(b"", False, False)  # noqa: FBT003
    with near, far:
        former.socket.send(GivePair(5, PairState(*ends, guard)), [near.fileno(), far.fileno()])
        talk = Talk(client, server, 0)
        talk.said[1] += b"from the server"
        former.chain.turn()
    return talk


def test_another_version_is_refused(former: Former) -> None:
    former.socket.send(Offer("0.0.0"))
    assert former.answer() == Refuse(f"version 0.0.0 is not {VERSION}")


def test_who_knows_no_pod_yet_refuses(former: Former) -> None:
    former.chain.near.state.is_complete = False
    former.socket.send(Offer(VERSION))
    assert isinstance(former.answer(), Refuse)


def test_a_pair_goes_on_with_its_backlog_and_its_age(former: Former) -> None:
    former.socket.send(Offer(VERSION))
    assert isinstance(former.answer(), Accept)
    talk = give_pair(former, begun(former, 1))
    assert former.answer() == Taken(5)
    talk.say(0, 100)
    former.chain.until(talk.is_whole)
    [guard] = former.chain.near.connections.all()
    assert 100 <= guard.age < 110
    assert guard.record.sent_bytes == 100
    for sock in talk.sockets:
        sock.close()


def test_an_id_that_is_here_is_not_taken(former: Former) -> None:
    state = begun(former, 1)
    talk = give_pair(former, state)
    assert former.answer() == Taken(5)
    other = give_pair(former, state)
    assert isinstance(former.answer(), NotTaken)
    with pytest.raises(ConnectionResetError):
        former.chain.until(other.is_whole)
    former.chain.until(talk.is_whole)
    for sock in (*talk.sockets, *other.sockets):
        sock.close()


def test_one_whose_pod_has_left_meanwhile_is_cut_with_its_record(former: Former) -> None:
    talk = give_pair(former, begun(former, 1, Ip("127.0.0.2")))
    assert former.answer() == Taken(5)
    assert [record.reason for record in former.chain.near.closed] == ["pod_removed"]
    for sock in talk.sockets:
        sock.close()


def test_a_tunnel_that_no_tunnel_can_be_is_not_taken_and_leaves_nothing(former: Former) -> None:
    chain = former.chain
    chain.talk()
    [pooled], worker = chain.near.pool.all(), chain.near
    assert pooled.tunnel is not None
    [guard] = pooled.tunnel.guards
    state, sockets = pooled.surrender()
    guard.discard()
    descriptors = [sock.fileno() for sock in sockets]
    broken = msgspec.structs.replace(state, connection=msgspec.structs.replace(state.connection, receive_left=-1))
    former.socket.send(GiveTunnel(1, broken), descriptors)
    assert isinstance(former.answer(), NotTaken)
    former.socket.send(GiveTunnel(2, state), descriptors[:1])
    assert isinstance(former.answer(), NotTaken)
    assert worker.pool.all() == []
    assert len(worker.connections) == 0
    former.socket.send(GiveTunnel(3, state), descriptors)
    assert former.answer() == Taken(3)
    assert [one.record.id for one in worker.connections.all()] == [guard.record.id]
    for sock in sockets:
        sock.close()
