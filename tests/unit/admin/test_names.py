# SPDX-License-Identifier: Apache-2.0
"""What operators call things, and what of the mesh that is."""

import msgspec
import pytest

from nodeagent.admin.names import find_destination, find_source
from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.workload import Service, Workload


@pytest.mark.parametrize("name", ["shop/web", "web", "pod/shop/web", "10.241.0.12", "fd00::12", "[fd00::12]"])
def test_a_source(mesh: Mesh, name: str) -> None:
    found = find_source(mesh, "", name)
    assert isinstance(found, Workload)
    assert found.name == "web"


def test_a_source_that_nobody_knows_is_an_address(mesh: Mesh) -> None:
    assert find_source(mesh, "", "::ffff:192.0.2.7") == Ip("192.0.2.7")
    assert find_source(mesh, "another network", "10.241.0.12") == Ip("10.241.0.12")


@pytest.mark.parametrize(
    "name",
    ["db", "shop/db", "db.shop", "db.shop.svc.cluster.local", "shop/db.shop.svc.cluster.local", "service/shop/db"],
)
def test_a_service(mesh: Mesh, name: str) -> None:
    found = find_destination(mesh, name, 5432)
    assert isinstance(found, Service)
    assert found.name == "db"


@pytest.mark.parametrize("name", ["db-0", "shop/db-0", "pod/shop/db-0"])
def test_a_pod_as_destination(mesh: Mesh, name: str) -> None:
    found = find_destination(mesh, name, 5432)
    assert isinstance(found, Workload)
    assert found.name == "db-0"


@pytest.mark.parametrize(("port", "kind"), [(5432, Service), (9999, Workload)])
def test_a_name_of_both_is_the_service_where_it_has_the_port(mesh: Mesh, port: int, kind: type) -> None:
    pod = find_source(mesh, "", "shop/db-0")
    assert isinstance(pod, Workload)
    pod = msgspec.structs.replace(pod, uid="db", name="db")
    mesh.apply(Changes(workloads=(pod,)))

    assert isinstance(find_destination(mesh, "shop/db", port), kind)
    assert isinstance(find_destination(mesh, "service/shop/db", port), Service)


def test_an_address_stays_one(mesh: Mesh) -> None:
    assert find_destination(mesh, "10.96.0.5", 80) == Ip("10.96.0.5")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pod/shop/db", "nothing called"),
        ("service/shop/web", "nothing called"),
        ("other/db", "nothing called"),
        ("", "nothing called"),
        ("deployment/shop/db", "names no pod and no service"),
    ],
)
def test_what_is_not_there(mesh: Mesh, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find_destination(mesh, name, 5432)
