# SPDX-License-Identifier: Apache-2.0
"""Two pods of one node: policy by both identities, no tunnel, and the application sees the client's own port."""

import msgspec
import pytest

from nodeagent.model.identity import Identity
from nodeagent.model.policy import Action, Clause, Match, MatchKind, Policy, PolicyScope, Rule, StringMatch
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction, Transport
from nodeagent.model.workload import TunnelProtocol, Workload
from nodeagent.proxy.messages import LocalPods
from tests.e2e.proxy.mesh import Mesh, workload
from tests.e2e.proxy.wires import PORT

pytestmark = pytest.mark.e2e

NEIGHBOUR = Identity("cluster.local", "apps", "neighbour")


@pytest.fixture
def neighbour(mesh: Mesh) -> Workload:
    """The outsider, enrolled on the client's node."""
    made = workload("neighbour", mesh.wires.outsider, NEIGHBOUR)
    mesh.near.apply(workloads=(made,))
    mesh.near.send(LocalPods(frozenset((*mesh.wires.client.addresses, *made.addresses))))
    mesh.near.apply()
    return made


def denial(principal: str) -> Policy:
    match = Match(principals=(StringMatch(MatchKind.EXACT, principal),))
    return Policy(
        name="no-client",
        namespace="apps",
        scope=PolicyScope.NAMESPACE,
        action=Action.DENY,
        rules=(Rule((Clause((match,)),)),),
    )


@pytest.mark.vm
@pytest.mark.usefixtures("neighbour")
def test_neighbours_are_joined_with_both_identities(mesh: Mesh) -> None:
    outsider = mesh.wires.outsider
    with outsider.listen() as app, mesh.wires.client.connect(outsider.v4, PORT, source_port=40020) as client:
        served, seen = app.accept()
        with served:
            assert seen[:2] == (f"::ffff:{mesh.wires.client.v4}", 40020)
            client.sendall(b"to the next door")
            assert served.recv(100) == b"to the next door"
            [record] = mesh.near.connections()
    assert (record.direction, record.transport) == (Direction.OUTBOUND, Transport.TCP)
    assert (record.source_identity, record.destination_identity) == (mesh.client.identity, NEIGHBOUR)


@pytest.mark.usefixtures("neighbour")
def test_policy_holds_between_neighbours_too(mesh: Mesh) -> None:
    mesh.near.apply(policies=(denial(mesh.client.identity.principal),))
    with mesh.wires.outsider.listen() as app:
        assert mesh.wires.client.is_refused(mesh.wires.outsider.v4)
        app.settimeout(0)
        with pytest.raises(BlockingIOError):
            app.accept()
    [record] = mesh.near.ended()
    assert (record.reason, record.policy) == (Reason.POLICY_DENIED.value, "apps/no-client")


@pytest.mark.usefixtures("neighbour")
def test_a_policy_change_cuts_neighbours_too(mesh: Mesh) -> None:
    with (
        mesh.wires.outsider.listen() as app,
        mesh.wires.client.connect(mesh.wires.outsider.v4, PORT) as client,
        app.accept()[0] as served,
    ):
        mesh.near.eventually(lambda: len(mesh.near.opened) == 1)
        mesh.near.apply(policies=(denial(mesh.client.identity.principal),))
        for end in (client, served):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    assert mesh.near.ended()[0].reason == Reason.POLICY_CHANGED.value


def test_a_neighbour_that_is_leaving_the_mesh_is_guarded_until_it_has_left(mesh: Mesh, neighbour: Workload) -> None:
    """It speaks no HBONE any more, and the kernel still delivers to it what the proxy sends, past its own guard."""
    left = msgspec.structs.replace(neighbour, protocol=TunnelProtocol.TCP)
    mesh.near.apply(workloads=(left,), policies=(denial(mesh.client.identity.principal),))
    with mesh.wires.outsider.listen() as app:
        assert mesh.wires.client.is_refused(mesh.wires.outsider.v4)
        app.settimeout(0)
        with pytest.raises(BlockingIOError):
            app.accept()
    assert mesh.near.ended()[0].reason == Reason.POLICY_DENIED.value


def test_a_neighbour_that_leaves_takes_its_connections_along(mesh: Mesh, neighbour: Workload) -> None:
    assert neighbour.addresses
    with (
        mesh.wires.outsider.listen() as app,
        mesh.wires.client.connect(mesh.wires.outsider.v4, PORT) as client,
        app.accept()[0] as served,
    ):
        mesh.near.eventually(lambda: len(mesh.near.opened) == 1)
        mesh.near.send(LocalPods(frozenset(mesh.wires.client.addresses)))
        for end in (client, served):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    assert mesh.near.ended()[0].reason == Reason.POD_REMOVED.value
