# SPDX-License-Identifier: Apache-2.0
"""Whom workers believe beyond their roots: peers of an alias of the trust domain, in both roles."""

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from nodeagent.model.policy import Action, Policy, PolicyScope, Rule
from nodeagent.model.reason import Reason
from nodeagent.model.security import DryRun, TrustDomains
from tests.e2e.proxy.mesh import Mesh
from tests.e2e.proxy.peer import HbonePeer
from tests.e2e.proxy.wires import PORT

pytestmark = pytest.mark.e2e
ALIASES = TrustDomains(domains=frozenset({"cluster.local", "old"}))
Connect = Callable[..., HbonePeer]


@contextlib.contextmanager
def connection(mesh: Mesh, app: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client, app.accept()[0] as served:
        yield client, served


def works(client: socket.socket, served: socket.socket) -> bool:
    client.sendall(b"there")
    served.sendall(b"back")
    return (served.recv(100), client.recv(100)) == (b"there", b"back")


@pytest.mark.parametrize("is_server", [False, True], ids=["client", "server"])
def test_a_peer_of_an_alias_is_believed_for_as_long_as_it_is_one(
    mesh: Mesh, app: socket.socket, *, is_server: bool
) -> None:
    """What is open then goes on, and nothing new comes by its tunnel."""
    other, own = (mesh.far, mesh.server) if is_server else (mesh.near, mesh.client)
    judge = mesh.near if is_server else mesh.far
    alias = f"spiffe://old/ns/{own.namespace}/sa/{own.service_account}"
    other.certify(own.identity, mesh.authority, (alias,))
    other.apply()
    judge.apply(extensions=(ALIASES,))
    with connection(mesh, app) as pair:
        assert works(*pair)
        judge.apply(removed_extensions=(ALIASES.name,))
        assert works(*pair)
        assert mesh.wires.client.is_refused(mesh.wires.server.v4)
        assert works(*pair)
    wanted = Reason.TLS_WRONG_IDENTITY if is_server else Reason.TLS_WRONG_TRUST_DOMAIN
    judge.eventually(lambda: wanted.value in {record.reason for record in judge.closed})


def test_another_identity_of_an_alias_is_not_believed(mesh: Mesh) -> None:
    mesh.near.apply(extensions=(ALIASES,))
    mesh.far.certify(mesh.server.identity, mesh.authority, ("spiffe://old/ns/apps/sa/other",))
    mesh.far.apply()
    assert mesh.wires.client.is_refused(mesh.wires.server.v4)
    assert mesh.near.ended()[0].reason == Reason.TLS_WRONG_IDENTITY.value


def test_what_a_dry_run_would_refuse_is_served_and_told(mesh: Mesh, app: socket.socket) -> None:
    tried = Policy(
        name="try", namespace="apps", scope=PolicyScope.NAMESPACE, action=Action.DENY, rules=(Rule(),), is_dry_run=True
    )
    mesh.far.apply(extensions=(DryRun(policy=tried, namespace="apps"),))
    with connection(mesh, app) as pair:
        assert works(*pair)
    [record] = mesh.far.ended()
    assert (record.reason, record.dry_run, record.dry_run_policy) == ("closed", "denied", "apps/try")
    assert record.is_dry_run_other
