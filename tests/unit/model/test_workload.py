# SPDX-License-Identifier: Apache-2.0
"""Workloads and Services: the defaults are what istiod leaves out, and values survive their way to the worker."""

import msgspec

from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.workload import (
    BalancingMode,
    GatewayAddress,
    LoadBalancing,
    Scope,
    Service,
    ServicePort,
    TunnelProtocol,
    Vip,
    Workload,
)


def test_what_istiod_leaves_out_has_istios_meaning() -> None:
    workload = Workload(uid="u", name="n", namespace="shop")
    assert workload.identity == Identity("cluster.local", "shop", "default")
    assert (workload.protocol, workload.capacity, workload.cluster) == (TunnelProtocol.TCP, 1, "Kubernetes")
    assert workload.is_healthy
    assert Service(name="s", namespace="a", hostname="h").balancing == LoadBalancing(mode=BalancingMode.STANDARD)


def test_two_workloads_do_not_share_their_services() -> None:
    assert Workload(uid="1", name="", namespace="").services is not Workload(uid="2", name="", namespace="").services


def test_a_service_is_named_by_namespace_and_hostname() -> None:
    assert Service(name="s", namespace="shop", hostname="s.example").key == "shop/s.example"


def test_values_survive_their_way_to_the_worker() -> None:
    gateway = GatewayAddress(Port(15008), network="n", ip=Ip("10.0.0.1"))
    workload = Workload(
        uid="u",
        name="n",
        namespace="shop",
        addresses=(Ip("10.0.0.1"), Ip("fd00::1")),
        services={"shop/s": (ServicePort(Port(80), 8080),)},
        waypoint=gateway,
    )
    service = Service(
        name="s",
        namespace="shop",
        hostname="s",
        vips=(Vip("n", Ip("10.9.0.1")), Vip("n", block=Cidr.parse("10.0.0.0/8"))),
        balancing=LoadBalancing(BalancingMode.FAILOVER, (Scope.NETWORK, Scope.NODE)),
        prefers_ipv6=False,
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(workload), type=Workload) == workload
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(service), type=Service) == service
