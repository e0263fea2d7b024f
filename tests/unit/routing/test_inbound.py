# SPDX-License-Identifier: Apache-2.0
"""What an inbound CONNECT may ask for: a port of the workload it reached, and nothing else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Ip, Port
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.reason import Reason
from nodeagent.model.workload import GatewayAddress, Service, ServicePort, Vip, Workload
from nodeagent.routing.inbound import resolve_inbound
from nodeagent.routing.route import PROXY_PORTS, Inbound, Refuse

HERE = Ip("10.0.0.1")
HTTP = (ServicePort(Port(80), 8080),)


def service(name: str = "s.example", namespace: str = "shop", **fields: Any) -> Service:
    return Service(name=name, namespace=namespace, hostname=name, **{"ports": HTTP} | fields)


def local(**fields: Any) -> Workload:
    return Workload(uid="db", name="db", namespace="shop", addresses=(HERE, Ip("fd00::1")), **fields)


def mesh_of(*values: Service | Workload) -> Mesh:
    mesh = Mesh()
    mesh.apply(
        Changes(
            services=tuple(value for value in values if isinstance(value, Service)),
            workloads=tuple(value for value in values if isinstance(value, Workload)),
        )
    )
    return mesh


@pytest.mark.parametrize(
    ("host", "connected"),
    [("10.0.0.1", "10.0.0.1"), ("fd00::1", "fd00::1"), ("fd00:0::1", "fd00::1"), ("::ffff:10.0.0.1", "10.0.0.1")],
)
def test_the_address_of_the_connection_may_be_asked_for_in_any_spelling(host: str, connected: str) -> None:
    assert resolve_inbound(host, 5432, Ip(connected), local(), mesh_of()) == Inbound(port=5432, service=None)


@pytest.mark.parametrize(
    ("host", "port", "reason", "words"),
    [
        pytest.param("10.0.0.2", 80, Reason.HBONE_BAD_REQUEST, "CONNECT to 10.0.0.2:80, dialled", id="another address"),
        pytest.param(
            "fd00::1", 80, Reason.HBONE_BAD_REQUEST, "CONNECT to [fd00::1]:80, dialled", id="its other address"
        ),
        pytest.param("127.0.0.1", 80, Reason.HBONE_BAD_REQUEST, "CONNECT to 127.0.0.1:80", id="loopback"),
        pytest.param("169.254.169.254", 80, Reason.HBONE_BAD_REQUEST, "169.254.169.254", id="the cloud's metadata"),
        pytest.param("10.0.0.1", 15001, Reason.SELF_CALL, "port 15001 is the proxy's own", id="the outbound listener"),
        pytest.param("10.0.0.1", 15006, Reason.SELF_CALL, "15006", id="the plaintext listener"),
        pytest.param("10.0.0.1", 15008, Reason.SELF_CALL, "15008", id="the HBONE listener"),
        pytest.param("nowhere.example", 80, Reason.UNKNOWN_DESTINATION, "'nowhere.example'", id="an unknown name"),
        pytest.param("", 80, Reason.UNKNOWN_DESTINATION, "''", id="no name"),
        pytest.param("fd00::1%eth0", 80, Reason.UNKNOWN_DESTINATION, "%eth0", id="a zone index is no address"),
        pytest.param("s.example", 81, Reason.NO_SERVICE_PORT, "shop/s.example has no port 81", id="an unknown port"),
        pytest.param("self.example", 80, Reason.SELF_CALL, "15006", id="a Service that leads to the proxy"),
        pytest.param("hidden.example", 80, Reason.UNKNOWN_DESTINATION, "hidden", id="another namespace's private one"),
    ],
)
def test_what_is_refused(host: str, port: int, reason: Reason, words: str) -> None:
    mesh = mesh_of(
        service(),
        service("self.example", ports=(ServicePort(Port(80), 15006),)),
        service("hidden.example", "ops", is_namespace_private=True),
    )
    found = resolve_inbound(host, port, HERE, local(), mesh)
    assert isinstance(found, Refuse)
    assert found.reason is reason
    assert words in found.detail


@pytest.mark.parametrize(
    ("shared", "own", "port"),
    [
        (HTTP, {}, 8080),
        (HTTP, {"shop/s.example": (ServicePort(Port(80), 9090),)}, 9090),
        ((ServicePort(Port(80), 0),), {"shop/s.example": (ServicePort(Port(80), 9090),)}, 9090),
    ],
)
def test_a_name_asks_for_the_port_behind_the_services(
    shared: tuple[ServicePort, ...], own: dict[str, tuple[ServicePort, ...]], port: int
) -> None:
    backend = service(ports=shared)
    found = resolve_inbound("s.example", 80, HERE, local(services=own), mesh_of(backend))
    assert found == Inbound(port=port, service=backend)


def test_a_named_port_that_the_workload_does_not_have_is_refused() -> None:
    found = resolve_inbound("s.example", 80, HERE, local(), mesh_of(service(ports=(ServicePort(Port(80), 0),))))
    assert isinstance(found, Refuse)
    assert found.reason is Reason.NO_SERVICE_PORT


def test_of_several_services_of_one_name_the_workloads_namespace_is_meant() -> None:
    ours, theirs = service(ports=(ServicePort(Port(80), 1),)), service(namespace="ops")
    assert resolve_inbound("s.example", 80, HERE, local(), mesh_of(theirs, ours)) == Inbound(port=1, service=ours)


@pytest.mark.parametrize(
    ("host", "port", "forwarded", "name"),
    [
        pytest.param("10.0.0.1", 8080, "", "s.example", id="the Service that leads to this port"),
        pytest.param("10.0.0.1", 8080, "t.example", "t.example", id="the one that the client named"),
        pytest.param("10.0.0.1", 8080, "evil.example", "s.example", id="not one that has nothing to do with us"),
        pytest.param("10.0.0.1", 99, "", None, id="no Service leads here"),
    ],
)
def test_the_record_names_the_service_behind_an_address(host: str, port: int, forwarded: str, name: str | None) -> None:
    member = local(services={"shop/s.example": (), "shop/t.example": (), "shop/late": ()})
    mesh = mesh_of(service(), service("t.example"), service("evil.example"))
    found = resolve_inbound(host, port, HERE, member, mesh, forwarded)
    assert isinstance(found, Inbound)
    assert (found.service.name if found.service else None) == name


WAY = GatewayAddress(Port(15008), service="shop/way.example")


@pytest.mark.parametrize(
    ("gateway", "member", "is_ours"),
    [
        pytest.param(WAY, {"shop/way.example": ()}, True, id="an instance of the waypoint"),
        pytest.param(WAY, {}, False, id="somebody else"),
        pytest.param(GatewayAddress(Port(15008), ip=HERE), {}, True, id="the waypoint by address"),
        pytest.param(GatewayAddress(Port(15008), ip=Ip("10.0.0.7")), {}, False, id="another by address"),
        pytest.param(None, {"shop/way.example": ()}, False, id="no waypoint"),
    ],
)
@pytest.mark.parametrize("target", ["10.9.0.1", "10.0.0.9"])
def test_a_waypoint_takes_what_is_for_those_behind_it(
    gateway: GatewayAddress | None, member: dict[str, tuple[ServicePort, ...]], target: str, *, is_ours: bool
) -> None:
    waypoint = local(services=member)
    backend = service("back.example", vips=(Vip("", Ip("10.9.0.1")),), waypoint=gateway)
    behind = Workload(uid="b", name="b", namespace="shop", addresses=(Ip("10.0.0.9"),), waypoint=gateway)
    mesh = mesh_of(backend, behind, waypoint, service("way.example"))
    found = resolve_inbound(target, 80, HERE, waypoint, mesh)
    assert found == Inbound(port=80, service=None) if is_ours else isinstance(found, Refuse)


@pytest.mark.parametrize("tunnel", [{"application_tunnel_port": 15088}, {"has_open_tunnel": True}])
def test_an_application_that_expects_the_proxy_protocol_is_not_sent_without_it(tunnel: dict[str, Any]) -> None:
    found = resolve_inbound("10.0.0.1", 80, HERE, local(**tunnel), mesh_of())
    assert isinstance(found, Refuse)
    assert (found.reason, "PROXY protocol" in found.detail) == (Reason.CONNECT_FAILED, True)


@given(host=st.text() | st.ip_addresses().map(str), port=st.integers(1, 65535))
def test_whatever_a_peer_asks_for_it_gets_this_workload_or_nothing(host: str, port: int) -> None:
    found = resolve_inbound(host, port, HERE, local(services={"shop/s.example": ()}), mesh_of(service()))
    if isinstance(found, Inbound):
        assert host in {HERE, "s.example", f"::ffff:{HERE}"}
        assert found.port not in PROXY_PORTS
