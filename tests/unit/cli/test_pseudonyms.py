# SPDX-License-Identifier: Apache-2.0
"""The same name has the same pseudonym, addresses stay addresses, and what says nothing of anybody stays."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.cli.pseudonyms import Pseudonyms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("shop/web to shop/db", "name-2/name-3 to name-2/name-1", id="names"),
        pytest.param("na-web: db-clients", "na-name-3: name-1-clients", id="in longer words"),
        pytest.param("webbing shopping", "webbing shopping", id="not in the middle of one"),
        pytest.param("web.shop.svc.cluster.local", "name-3.name-2.svc.cluster.local", id="in a host's name"),
        pytest.param("10.1.2.3:80 10.1.2.4 10.1.2.3", "198.18.0.1:80 198.18.0.2 198.18.0.1", id="IPv4"),
        pytest.param("[fd00::7]:80 fd00:0::7/64", "[2001:db8::1]:80 2001:db8::1/64", id="IPv6, however it is written"),
        pytest.param("ether 0a:58:0a:F4:01:02 x", "ether 02:00:00:00:00:01 x", id="MAC"),
        pytest.param("127.0.0.1 ::1 0.0.0.0 [::]:15020", "127.0.0.1 ::1 0.0.0.0 [::]:15020", id="nobody's"),
        pytest.param("00:00:00:00:00:00 brd ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00 brd ff:ff:ff:ff:ff:ff", id="no MAC"),
        pytest.param(
            "at 2026-11-28T12:34:56.5Z 6.18.0 999.1.1.1", "at 2026-11-28T12:34:56.5Z 6.18.0 999.1.1.1", id="no"
        ),
        pytest.param("kube-system/x default", "kube-system/x default", id="everybody's"),
        pytest.param(
            "spiffe://my.org/ns/pay/sa/bank and pay",
            "spiffe://name-5/ns/name-6/sa/name-4 and name-6",
            id="who is named by an identity is known from then on",
        ),
        pytest.param("", "", id="nothing"),
    ],
)
def test_text(text: str, expected: str) -> None:
    found, count = Pseudonyms(["web", "shop", "db", "", "80", "default"]).hide(text)
    assert found == expected
    assert (count > 0) is (found != text)


def test_the_longest_name_counts() -> None:
    assert Pseudonyms(["web", "web-0"]).hide("web-0 web")[0] == "name-2 name-1"


@given(st.lists(st.ip_addresses(), max_size=20))
def test_addresses_that_differ_stay_different_and_valid(ips: list[ipaddress.IPv4Address]) -> None:
    hidden, _ = Pseudonyms().hide("\n".join(map(str, ips)))
    made = [ipaddress.ip_address(line) for line in hidden.splitlines()]
    assert [one.version for one in made] == [one.version for one in ips]
    assert [[a == b for a in made] for b in made] == [[a == b for a in ips] for b in ips]
