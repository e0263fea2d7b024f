# SPDX-License-Identifier: Apache-2.0
"""A worker that stops while Envoy uses it: what is open goes on to its end, what is new goes to the successor."""

import pytest

from nodeagent.proxy.messages import Drain
from tests.e2e.proxy.mesh import SERVER
from tests.interop.conftest import Peers
from tests.interop.envoy import wait_until
from tests.interop.traffic import Echo, converse, exchange

pytestmark = pytest.mark.interop

LONG = Drain(60)


def test_envoy_as_client_leaves_a_draining_worker_and_loses_nothing(own_peers: Peers) -> None:
    passage, mesh, envoy = own_peers.through_way("wide"), own_peers.mesh, own_peers.envoy
    with passage.listen() as listener, Echo(listener), passage.connect() as open_before:
        converse(open_before)
        mesh.far.send(LONG)
        successor = mesh.start(mesh.wires.far, mesh.wires.server, SERVER)
        wait_until(lambda: envoy.stats()["cluster.way.wide.upstream_cx_close_notify"] == 1)  # it has read GOAWAY
        with passage.connect() as opened_after:
            converse(opened_after)
            assert len(successor.connections()) == 1
        converse(open_before)
        assert mesh.far.process.poll() is None
    assert mesh.far.process.wait(60) == 0


def test_a_draining_worker_ends_its_tunnel_to_envoy_as_server_with_its_last_stream(own_peers: Peers) -> None:
    passage, envoy = own_peers.through_gate("wide"), own_peers.envoy
    with passage.listen() as listener, passage.join(listener) as (client, application):
        passage.worker.send(LONG)
        exchange(client, application, 1 << 20)
    assert passage.worker.process.wait(60) == 0
    wait_until(lambda: envoy.stats()["http.wide.downstream_cx_active"] == 0)
    assert envoy.stats()["http.wide.downstream_cx_total"] == 1
