# SPDX-License-Identifier: Apache-2.0
"""Workers that are replaced while Envoy speaks with them: it sees one connection, from the beginning to the end."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.interop.conftest import Peers
from tests.interop.envoy import wait_until
from tests.interop.traffic import Echo, converse

REPLACEMENTS = 20
TALKS = 6
SIZE = 300_000

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("envoy_is", ["client", "server"])
def test_twenty_replacements_and_envoy_notices_none(own_peers: Peers, envoy_is: str) -> None:
    mesh = own_peers.mesh
    passage = own_peers.through_way("wide") if envoy_is == "client" else own_peers.through_gate("wide")
    rounds, is_enough = [0] * TALKS, threading.Event()

    def talk(number: int) -> None:
        with passage.connect() as sock:
            while not is_enough.is_set():
                converse(sock, size=SIZE)
                rounds[number] += 1

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(passage.listen())
        stack.enter_context(Echo(listener))
        talks = [stack.enter_context(ThreadPoolExecutor(1)).submit(talk, number) for number in range(TALKS)]
        stack.callback(is_enough.set)
        wait_until(lambda: all(rounds))
        for _ in range(REPLACEMENTS):
            former = mesh.far if envoy_is == "client" else mesh.near
            own_peers.replace(former)
            former.hear_out()
            assert former.process.wait(60) == 0
            assert former.closed == []
            assert len(former.handed_over) == TALKS
            before = list(rounds)
            wait_until(lambda before=before: all(now > then for now, then in zip(rounds, before, strict=True)))  # type: ignore[misc]
            assert not any(one.done() for one in talks)
        is_enough.set()
        for one in talks:
            one.result(60)
    assert passage.tunnels() == 1
