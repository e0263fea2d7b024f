# SPDX-License-Identifier: Apache-2.0
"""What a Sidecar does not show its pods, they do not reach by its name, whatever its address leads to."""

import socket

import pytest

from nodeagent.model.reason import Reason
from nodeagent.model.record import Transport
from nodeagent.model.traffic import ClientScope, ClientScopes, EgressHosts
from tests.e2e.proxy.mesh import Mesh
from tests.e2e.proxy.wires import PORT

pytestmark = pytest.mark.e2e


def shows(*hosts: str, is_registry_only: bool) -> ClientScopes:
    scope = ClientScope(name="apps/few", egress=(EgressHosts(hosts),), is_registry_only=is_registry_only)
    return ClientScopes(namespace="apps", scopes=(scope,))


def test_what_a_sidecar_does_not_show(mesh: Mesh, app: socket.socket) -> None:
    mesh.publish_service()
    mesh.near.apply(extensions=(shows("apps/web.apps.svc.cluster.local", is_registry_only=True),))
    with mesh.wires.client.connect(mesh.vip, PORT):
        app.accept()[0].close()
    [shown] = mesh.near.ended()
    mesh.near.apply(extensions=(shows("~/*", is_registry_only=True),))
    assert mesh.wires.client.is_refused(mesh.vip)
    [_, hidden] = mesh.near.ended(2)
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT):  # a pod's own address
        app.accept()[0].close()
    [_, _, own] = mesh.near.ended(3)
    assert (shown.service, shown.reason) == (mesh.web.key, Reason.CLOSED.value)
    assert (hidden.service, hidden.reason) == ("", Reason.UNKNOWN_DESTINATION.value)
    assert "Sidecar apps/few does not show apps/web.apps.svc.cluster.local" in hidden.error
    assert (own.service, own.transport) == ("", Transport.HBONE)


def test_and_where_anything_may_be_reached_its_address_is_anybodys(mesh: Mesh) -> None:
    mesh.publish_service()
    mesh.near.apply(extensions=(shows("~/*", is_registry_only=False),))
    assert mesh.wires.client.is_refused(mesh.vip)  # nobody here has the address
    [record] = mesh.near.ended()
    assert (record.service, record.destination_ip) == ("", mesh.vip)
    assert record.transport is not Transport.HBONE
