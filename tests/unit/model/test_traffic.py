# SPDX-License-Identifier: Apache-2.0
"""Extensions: each has a name that says what it is about, and travels to the workers as what it is."""

import msgspec

from nodeagent.model.mesh import Changes
from nodeagent.model.traffic import (
    Destination,
    MeshTraffic,
    PortPolicy,
    ServiceTraffic,
    Subset,
    TcpMatch,
    TcpRoute,
    TrafficPolicy,
    WorkloadLabels,
    WorkloadLimits,
)

TRAFFIC = ServiceTraffic(
    service="shop/db",
    routes=(TcpRoute((Destination(service="shop/db", weight=1, subset="v1"),), (TcpMatch(port=80),)),),
    subsets=(Subset("v1", {"version": "v1"}),),
)
LABELS = WorkloadLabels(uid="c//Pod/shop/db", labels={"version": "v1"})


def test_names_tell_kinds_apart() -> None:
    assert (TRAFFIC.name, LABELS.name) == ("service/shop/db", "workload/c//Pod/shop/db")
    assert MeshTraffic().name == "mesh"
    assert WorkloadLimits(uid="c//Pod/shop/db").name == "limits/c//Pod/shop/db"


def test_a_subset_is_found_by_its_name() -> None:
    assert TRAFFIC.subset("v1") == Subset("v1", {"version": "v1"})
    assert TRAFFIC.subset("v2") is None


def test_a_policy_is_the_subsets_if_it_has_any_and_the_ports_before_the_rest() -> None:
    one, other, third = (TrafficPolicy(max_connections=number) for number in (1, 2, 3))
    traffic = ServiceTraffic(
        service="shop/db",
        subsets=(Subset("own", policies=(PortPolicy(0, third),)), Subset("none")),
        policies=(PortPolicy(80, one), PortPolicy(0, other)),
    )
    assert [traffic.policy(80), traffic.policy(90)] == [one, other]
    assert [traffic.policy(80, "own"), traffic.policy(80, "none"), traffic.policy(80, "gone")] == [third, one, one]
    assert TRAFFIC.policy(80) is None


def test_a_change_arrives_as_it_was_sent() -> None:
    changes = Changes(
        extensions=(
            TRAFFIC,
            LABELS,
            MeshTraffic(is_registry_only=True),
            WorkloadLimits(uid="a", per_second=0.5, burst=1),
        ),
        removed_extensions=("service/x",),
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(changes), type=Changes) == changes
