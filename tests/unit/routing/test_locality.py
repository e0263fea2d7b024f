# SPDX-License-Identifier: Apache-2.0
"""Who is near, in which order, and what each group of endpoints gets when some of it is out of service."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.traffic import Distribution, LocalityBalancing, WorkloadLabels
from nodeagent.model.workload import Workload
from nodeagent.routing.locality import Group, group, is_at, loads


def at(place: str, name: str = "", **fields: Any) -> Workload:
    region, zone, subzone = (*place.split("/"), "", "")[:3]
    name = name or place
    return Workload(uid=name, name=name, namespace="shop", region=region, zone=zone, subzone=subzone, **fields)


CLIENT = at("us/west/a", "client", network="n1", node="node-a")
ENDPOINTS = [at(place) for place in ("eu/x/y", "us/west/b", "us/east/a", "us/west/a", "asia")]


def names(groups: tuple[Group, ...]) -> list[list[str]]:
    return [[endpoint.name for endpoint in one.endpoints] for one in groups]


def grouped(fails_over: bool = True, **fields: Any) -> list[list[str]]:  # noqa: FBT001, FBT002 - of a test
    return names(group(LocalityBalancing(**fields), CLIENT, ENDPOINTS, Mesh(), fails_over=fails_over))


def test_without_more_words_subzone_zone_and_region_say_who_is_near() -> None:
    assert grouped() == [["us/west/a"], ["us/west/b"], ["us/east/a"], ["eu/x/y", "asia"]]


def test_a_region_to_fail_over_to_goes_before_the_others() -> None:
    assert grouped(failover=(("us", "asia"), ("eu", "us")))[-2:] == [["asia"], ["eu/x/y"]]
    assert grouped(failover=(("eu", "asia"),))[-1] == ["eu/x/y", "asia"], "for clients of another region"


def test_without_outlier_detection_nobody_is_preferred() -> None:
    assert grouped(fails_over=False) == []


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("topology.kubernetes.io/region",), [["us/west/b", "us/east/a", "us/west/a"], ["eu/x/y", "asia"]]),
        (
            ("topology.kubernetes.io/region", "topology.kubernetes.io/zone"),
            [["us/west/b", "us/west/a"], ["us/east/a"], ["eu/x/y", "asia"]],
        ),
        (("topology.kubernetes.io/region=eu",), [["eu/x/y"], ["us/west/b", "us/east/a", "us/west/a", "asia"]]),
        (("version", "topology.istio.io/network"), [["us/east/a"], ["eu/x/y", "us/west/b", "us/west/a", "asia"]]),
        (("version=v9",), [["eu/x/y"], ["us/west/b", "us/east/a", "us/west/a", "asia"]]),
    ],
)
def test_labels_in_their_order(labels: tuple[str, ...], expected: list[list[str]]) -> None:
    mesh = Mesh()
    mesh.apply(
        Changes(
            extensions=(
                WorkloadLabels(uid="client", labels={"version": "v1"}),
                WorkloadLabels(uid="us/east/a", labels={"version": "v1"}),
                WorkloadLabels(uid="eu/x/y", labels={"version": "v9"}),
            )
        )
    )
    found = group(LocalityBalancing(priority_labels=labels), CLIENT, ENDPOINTS, mesh, fails_over=True)
    assert names(found) == expected


def test_labels_first_then_regions_to_fail_over_to() -> None:
    found = grouped(priority_labels=("version",), failover=(("us", "asia"),))
    assert found == [["us/west/a"], ["us/west/b"], ["us/east/a"], ["asia"], ["eu/x/y"]]


@pytest.mark.parametrize("fails_over", [True, False])
def test_connections_are_shared_out_among_localities_and_others_get_none(*, fails_over: bool) -> None:
    shares = (("us/west/*", 70), ("eu", 20), ("africa", 10))
    locality = LocalityBalancing(distributions=(Distribution("asia", (("eu", 100),)), Distribution("us/west", shares)))
    found = group(locality, CLIENT, ENDPOINTS, Mesh(), fails_over=fails_over)
    assert names(found) == [["us/west/b", "us/west/a"], ["eu/x/y"]]
    assert [one.share for one in found] == [70, 20]


def test_a_client_that_no_distribution_is_about_is_sent_anywhere() -> None:
    locality = LocalityBalancing(distributions=(Distribution("asia", (("eu", 100),)),))
    assert group(locality, CLIENT, ENDPOINTS, Mesh(), fails_over=True) == ()


@pytest.mark.parametrize(
    ("pattern", "is_there"),
    [("*", True), ("us", True), ("us/*", True), ("us/west", True), ("us/west/a", True), ("us/west/*", True),
     ("eu", False), ("us/east", False), ("us/west/b", False), ("us/east/*", False)],
)  # fmt: skip
def test_localities_by_pattern(pattern: str, *, is_there: bool) -> None:
    assert is_at("us/west/a", pattern) is is_there


def groups_of(*sizes: int, shares: tuple[int, ...] = ()) -> list[Group]:
    return [Group((CLIENT,) * size, (), share) for size, share in zip(sizes, shares or (0,) * len(sizes), strict=True)]


@pytest.mark.parametrize(
    ("sizes", "in_service", "expected"),
    [
        ((10, 10), (10, 10), (100, 0)),
        ((10, 10), (8, 10), (100, 0)),
        ((10, 10), (5, 10), (70, 30)),
        ((10, 10), (0, 10), (0, 100)),
        ((10, 10), (5, 3), (70, 30)),
        ((10, 10), (3, 3), (50, 50)),
        ((10, 10, 10), (5, 0, 10), (70, 0, 30)),
        ((10, 10), (0, 0), (0, 0)),
        ((1,), (1,), (100,)),
    ],
)
def test_a_group_that_fails_leaves_connections_to_the_next(
    sizes: tuple[int, ...], in_service: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert loads(groups_of(*sizes), in_service) == expected


def test_what_is_shared_out_is_less_for_a_group_that_fails() -> None:
    assert loads(groups_of(10, 10, shares=(70, 30)), (10, 8)) == (7000, 3000)
    assert loads(groups_of(10, 10, shares=(70, 30)), (0, 5)) == (0, 2100)


@given(st.lists(st.integers(1, 50).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=5))
def test_who_has_nobody_in_service_gets_nothing_and_the_others_all(rows: list[tuple[int, int]]) -> None:
    found = loads(groups_of(*(size for size, _ in rows)), [count for _, count in rows])
    assert all(not load for load, (_, count) in zip(found, rows, strict=True) if not count)
    assert (sum(found) > 0) is any(count for _, count in rows)
