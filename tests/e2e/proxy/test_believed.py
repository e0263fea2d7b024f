# SPDX-License-Identifier: Apache-2.0
"""Whom workers believe, besides by their roots, in both roles: an alias of the trust domain, nobody who is revoked."""

import contextlib
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from nodeagent.model.policy import Action, Policy, PolicyScope, Rule
from nodeagent.model.reason import Reason
from nodeagent.model.security import DryRun, Revocations, TrustDomains
from nodeagent.model.workload import Workload
from tests.e2e.proxy.authority import Authority
from tests.e2e.proxy.mesh import Mesh
from tests.e2e.proxy.running import Running
from tests.e2e.proxy.wires import PORT

pytestmark = pytest.mark.e2e
ALIASES = TrustDomains(domains=frozenset({"cluster.local", "old"}))


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


# ---- revoked certificates ----------------------------------------------------------------------------------------


class Roles(NamedTuple):
    judge: Running
    """Who is told of the list."""
    other: Running
    owner: Workload
    """Whose certificate the other has."""


ROLES = pytest.mark.parametrize("is_server", [False, True], ids=["client", "server"])
"""Which of the two ends is the one that is revoked."""


def roles(mesh: Mesh, *, is_server: bool) -> Roles:
    return Roles(mesh.near, mesh.far, mesh.server) if is_server else Roles(mesh.far, mesh.near, mesh.client)


def certify(mesh: Mesh, other: Running, owner: Workload) -> bytes:
    """With another certificate, of which the name is returned."""
    other.certify(owner.identity, mesh.authority)
    other.apply()
    return mesh.authority.issued[-1]


def listed(*names: bytes) -> Revocations:
    return Revocations(source="test", certificates=frozenset(names))


def has_ended(sock: socket.socket) -> bool:
    sock.settimeout(10)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@ROLES
def test_a_revoked_peer_is_refused_until_it_has_another_certificate(
    mesh: Mesh, app: socket.socket, *, is_server: bool
) -> None:
    judge, other, owner = roles(mesh, is_server=is_server)
    judge.apply(extensions=(listed(certify(mesh, other, owner)),))
    assert mesh.wires.client.is_refused(mesh.wires.server.v4)
    wanted = Reason.CERTIFICATE_REVOKED.value
    judge.eventually(lambda: wanted in {record.reason for record in judge.closed})
    judge.eventually(lambda: judge.counters.get("tunnels_revoked", 0) > 0)
    assert mesh.far.opened == []
    certify(mesh, other, owner)
    with connection(mesh, app) as pair:
        assert works(*pair)


@ROLES
def test_what_is_open_ends_when_its_peer_is_revoked(mesh: Mesh, app: socket.socket, *, is_server: bool) -> None:
    judge, other, owner = roles(mesh, is_server=is_server)
    name = certify(mesh, other, owner)
    with connection(mesh, app) as (client, served):
        assert works(client, served)
        judge.apply(extensions=(listed(b"\0" * 32),))
        assert works(client, served), "somebody else is revoked"
        judge.apply(extensions=(listed(name),))
        assert has_ended(client)
        assert has_ended(served)
    assert [record.reason for record in judge.ended()] == [Reason.CERTIFICATE_REVOKED.value]
    judge.apply(removed_extensions=(listed().name,))
    with connection(mesh, app) as pair:
        assert works(*pair)


@ROLES
def test_who_has_a_certificate_of_a_revoked_authority_is_revoked(
    mesh: Mesh, app: socket.socket, *, is_server: bool
) -> None:
    judge, _, _ = roles(mesh, is_server=is_server)
    with connection(mesh, app) as (client, served):
        assert works(client, served)
        judge.apply(extensions=(listed(mesh.authority.own_name),))
        assert has_ended(client)
    assert [record.reason for record in judge.ended()] == [Reason.CERTIFICATE_REVOKED.value]


@ROLES
def test_a_tunnel_that_drains_ends_too(mesh: Mesh, app: socket.socket, *, is_server: bool) -> None:
    judge, other, owner = roles(mesh, is_server=is_server)
    own = mesh.client if is_server else mesh.server
    name = certify(mesh, other, owner)
    with connection(mesh, app) as (client, served):
        assert works(client, served)
        judge.certify(own.identity, mesh.authority, roots=Authority("another mesh").roots)
        judge.apply()
        assert works(client, served), "it takes nothing new, and goes on"
        judge.apply(extensions=(listed(name),))
        assert has_ended(client)
    assert [record.reason for record in judge.ended()] == [Reason.CERTIFICATE_REVOKED.value]


@ROLES
def test_the_successor_of_a_worker_knows_its_peers(mesh: Mesh, app: socket.socket, *, is_server: bool) -> None:
    judge, other, owner = roles(mesh, is_server=is_server)
    name = certify(mesh, other, owner)
    with connection(mesh, app) as (client, served):
        assert works(client, served)
        successor = mesh.replace(judge)
        judge.eventually(lambda: bool(judge.handed_over))
        assert works(client, served)
        successor.apply(extensions=(listed(name),))
        assert has_ended(client)
    assert [record.reason for record in successor.ended()] == [Reason.CERTIFICATE_REVOKED.value]
