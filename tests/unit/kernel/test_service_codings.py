# SPDX-License-Identifier: Apache-2.0
"""Codings for Service addresses, without a kernel; shapes are asserted against C in tests/kernel."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.kernel import service_codings
from nodeagent.kernel.service_codings import DialKey, DrawKey, ServiceRow
from nodeagent.model.address import Ip
from nodeagent.routing.route import Target

_ips = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda ip: not getattr(ip, "ipv4_mapped", None))
).map(lambda ip: Ip(str(ip)))
_ports = st.integers(0, 65535)
_words = st.integers(0, 2**32 - 1)
_values: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "endpoint": (service_codings.of_endpoint, st.builds(Target, _ips, _ports)),
    "service": (service_codings.of_service, st.builds(ServiceRow, _words, _words)),
    "draw_key": (service_codings.of_draw_key, st.builds(DrawKey, _words, _words)),
    "dial_key": (
        service_codings.of_dial_key,
        st.builds(DialKey, st.integers(0, 2**64 - 1), _ips, _ips, _ports, _ports),
    ),
}


@pytest.mark.parametrize("name", _values)
@given(data=st.data())
def test_what_is_put_is_found(name: str, data: st.DataObject) -> None:
    coding, values = _values[name]
    value = data.draw(values)
    assert coding().decode(coding().encode(value)) == value


def test_addresses_and_ports_are_in_network_order_and_ipv4_is_mapped() -> None:
    packed = service_codings.of_endpoint().encode(Target(Ip("10.96.0.1"), 80))
    assert packed == bytes(10) + b"\xff\xff" + bytes((10, 96, 0, 1)) + b"\x00\x50" + bytes(2)
