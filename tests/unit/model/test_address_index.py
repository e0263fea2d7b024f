# SPDX-License-Identifier: Apache-2.0
"""Owners of addresses in the order of arrival, and nothing left of those that have gone."""

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Ip
from nodeagent.model.address_index import AddressIndex, Owners

IPS, NETWORKS, OWNERS = [Ip("10.0.0.1"), Ip("fd00::1")], ["", "other"], "abc"


def test_the_first_owner_comes_first_and_one_that_is_added_again_keeps_its_place() -> None:
    index = AddressIndex()
    for owner in "abab":
        index.add("", IPS[0], owner)
    assert list(index.find("", IPS[0])) == ["a", "b"]
    assert list(index.find("other", IPS[0])) == []
    index.remove("", IPS[0], "a")
    assert list(index.find("", IPS[0])) == ["b"]


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(NETWORKS), st.sampled_from(IPS), st.sampled_from(OWNERS)), max_size=20
    )
)
def test_it_is_a_list_of_owners_for_each_address(history: list[tuple[bool, str, Ip, str]]) -> None:
    index = AddressIndex()
    plain: dict[tuple[str, Ip], list[str]] = {}
    for is_added, network, ip, owner in history:
        owners = plain.setdefault((network, ip), [])
        if is_added:
            index.add(network, ip, owner)
            owners += [owner] if owner not in owners else []
        else:
            index.remove(network, ip, owner)
            owners[:] = [one for one in owners if one != owner]

    for network in NETWORKS:
        there = {ip for ip in IPS if plain.get((network, ip))}
        assert set(index.addresses(network)) == there
        for ip in IPS:
            assert list(index.find(network, ip)) == plain.get((network, ip), [])
            assert index.has(network, ip) is (ip in there)
    assert bool(index) is any(plain.values())


def test_a_name_has_owners_too() -> None:
    owners = Owners[str]()
    for owner in "aba":
        owners.add("db.example", owner)
    assert list(owners.find("db.example")) == ["a", "b"]
    assert list(owners) == ["db.example"]
    for owner in "acb":
        owners.remove("db.example", owner)
    assert not owners
    assert "db.example" not in owners
    assert list(owners.find("db.example")) == []
