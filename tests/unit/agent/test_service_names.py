# SPDX-License-Identifier: Apache-2.0
"""Which connections are named, by whose note, and what is forgotten."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from nodeagent.agent.service_connect import ServiceConnect
from nodeagent.agent.service_names import ServiceNames
from nodeagent.agent.state import NodeState
from nodeagent.errors import KernelError
from nodeagent.kernel.service_codings import DialKey
from nodeagent.kernel.steering import Steering
from nodeagent.model.address import Ip, Port
from nodeagent.model.mesh import Changes
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.model.workload import Service, ServicePort, Vip, Workload
from nodeagent.routing.route import Target
from nodeagent.telemetry.open_connections import Dialled

VIP, WEB, API = Ip("10.96.0.1"), Ip("10.0.0.1"), Ip("10.0.0.2")
KEY = DialKey(100, WEB, API, 40000, 8080)
OWN = Service(name="api", namespace="shop", hostname="api", ports=(ServicePort(Port(80), 8080),), vips=(Vip("", VIP),))
FOREIGN = Service(name="api", namespace="other", hostname="other", ports=OWN.ports, vips=OWN.vips)


class Kernel:
    def __init__(self) -> None:
        self.notes = {KEY: Target(VIP, 80)}
        self.is_broken = False

    def dialled(self, key: DialKey) -> Target | None:
        if self.is_broken:
            raise KernelError("no map today")
        return self.notes.get(key)

    def forget_dialled(self, key: DialKey) -> None:
        if self.is_broken:
            raise KernelError("no map today")
        del self.notes[key]


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def connect() -> SimpleNamespace:
    return SimpleNamespace(is_on=True, has_notes=True, cookies={WEB: 100})


@pytest.fixture
def names(kernel: Kernel, connect: SimpleNamespace) -> ServiceNames:
    state = NodeState()
    web = Workload(uid="web", name="web", namespace="shop", addresses=(WEB,))
    state.apply(Changes(services=(FOREIGN, OWN), workloads=(web,)))
    return ServiceNames("", state, cast("Steering", kernel), cast("ServiceConnect", connect))


def _record(**fields: Any) -> ConnectionRecord:
    values: dict[str, Any] = {
        "id": 1,
        "direction": Direction.OUTBOUND,
        "started": 0.0,
        "source_ip": WEB,
        "source_port": 40000,
        "original_ip": API,
        "original_port": 8080,
    }
    return ConnectionRecord(**{**values, **fields})


def test_a_connection_is_named_by_what_its_client_sees_at_that_address(names: ServiceNames) -> None:
    assert names.find(_record()) == Dialled(VIP, 80, OWN.key, KEY)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"direction": Direction.INBOUND}, id="that comes in"),
        pytest.param({"service": "shop/x"}, id="that the proxy has named"),
        pytest.param({"source_port": 40001}, id="of another port"),
        pytest.param({"original_port": 8081}, id="to another port"),
        pytest.param({"source_ip": API}, id="of a pod whose namespace is not known"),
    ],
)
def test_other_connections_are_left_as_they_are(names: ServiceNames, fields: dict[str, Any]) -> None:
    assert names.find(_record(**fields)) is None


def test_a_note_from_another_namespace_names_nothing(names: ServiceNames, connect: SimpleNamespace) -> None:
    """Somebody gave his own loopback web's address."""
    connect.cookies = {WEB: 101}
    assert names.find(_record()) is None


def test_what_was_dialled_is_told_when_nothing_has_that_address_any_more(kernel: Kernel, names: ServiceNames) -> None:
    gone = Target(Ip("10.96.0.9"), 80)
    kernel.notes[KEY] = gone
    assert names.find(_record()) == Dialled(gone.ip, 80, "", KEY)


@pytest.mark.parametrize("is_on", [True, False])
def test_it_is_ready_when_the_pods_are_known(names: ServiceNames, connect: SimpleNamespace, *, is_on: bool) -> None:
    """Switched off, too: a predecessor may have drawn."""
    connect.is_on = is_on
    readiness = [names.is_ready]
    connect.cookies = None
    readiness.append(names.is_ready)
    assert names.find(_record()) is None
    assert readiness == [True, False]


def test_where_nothing_is_noted_nothing_is_asked(kernel: Kernel, names: ServiceNames, connect: SimpleNamespace) -> None:
    connect.has_notes = False
    kernel.is_broken = True
    assert names.is_ready
    assert names.find(_record()) is None


def test_it_is_forgotten_and_a_broken_kernel_costs_the_name_alone(kernel: Kernel, names: ServiceNames) -> None:
    dialled = names.find(_record())
    assert dialled is not None
    kernel.is_broken = True
    names.forget(dialled)
    assert names.find(_record()) is None
    kernel.is_broken = False
    names.forget(dialled)
    assert kernel.notes == {}
