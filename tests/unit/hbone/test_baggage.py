# SPDX-License-Identifier: Apache-2.0
"""Labels of a peer: there and back, and total over whatever is sent."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.hbone.baggage import MAX_CHARACTERS, MAX_MEMBERS, MAX_VALUE, Baggage, build_baggage, parse_baggage
from nodeagent.model.workload import Workload

WEB = Workload(
    uid="Kubernetes//Pod/shop/web-1",
    name="web-1",
    namespace="shop",
    workload_type="deployment",
    workload_name="web",
    canonical_name="web",
    canonical_revision="v2",
    region="eu",
    zone="eu-1",
)


def test_build_as_ztunnel_does() -> None:
    assert build_baggage(WEB, "c1") == (
        "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v2,"
        "cloud.region=eu,cloud.availability_zone=eu-1"
    )


def test_members_without_a_value_are_left_out() -> None:
    assert build_baggage(Workload(uid="u", name="n", namespace="a"), "") == "k8s.namespace.name=a"


@pytest.mark.parametrize(
    ("text", "baggage"),
    [
        ("", Baggage()),
        ("k8s.cluster.name=,service.name=", Baggage()),
        ("k8s.job.name=j,other=1,novalue,=x", Baggage(workload_type="job", workload_name="j")),
        ("service.name=a,service.name=b", Baggage(canonical_name="b")),
        (" service.name = a ;property=1 , cloud.region=r", Baggage(canonical_name="a", region="r")),
        ("service.name=a%20b", Baggage(canonical_name="a b")),
        ("service.name=a%0Ab", Baggage()),
        ("service.name=" + "a" * (MAX_VALUE + 1), Baggage()),
        ("x=1," * MAX_MEMBERS + "service.name=late", Baggage()),
    ],
)
def test_parse(text: str, baggage: Baggage) -> None:
    assert parse_baggage(text) == baggage


@given(
    st.sampled_from(["deployment", "cronjob", "pod", "job"]),
    st.lists(st.text(max_size=20).filter(str.isprintable), min_size=7, max_size=7),
)
def test_what_is_built_is_parsed_back(kind: str, values: list[str]) -> None:
    cluster, namespace, name, canonical, revision, region, zone = values
    workload = Workload(
        uid="u",
        name="n",
        namespace=namespace,
        workload_type=kind,
        workload_name=name,
        canonical_name=canonical,
        canonical_revision=revision,
        region=region,
        zone=zone,
    )
    built = build_baggage(workload, cluster)
    assert built.isascii()
    assert parse_baggage(built) == Baggage(
        cluster, namespace, kind if name else "", name, canonical, revision, region, zone
    )


@given(st.text(max_size=200))
def test_parse_is_total(text: str) -> None:
    parse_baggage(text)


def test_what_is_kept_is_bounded() -> None:
    """A peer may say as much as its headers hold, and something else each time."""
    tracemalloc.start()
    try:
        for n in range(400):
            parse_baggage(f"k8s.namespace.name=n{n}," + "x" * 60_000)
        assert tracemalloc.get_traced_memory()[0] < 256 * (MAX_CHARACTERS + 1500)
    finally:
        tracemalloc.stop()
