# SPDX-License-Identifier: Apache-2.0
"""A port that leads to the worker of one's own number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.proxy.tunnel_port import pick_port, read_port_range


@given(st.integers(0, 3), st.integers(1, 65535), st.integers(24, 30000), st.integers(1, 4))
def test_it_leads_to_the_slot_however_many_there_are(slot: int, first: int, count: int, slots: int) -> None:
    """As bpf/steer.h chooses."""
    ports = range(first, min(first + count, 65536))
    port = pick_port(slot, ports)
    assert port == 0 or port in ports
    if port and slot < slots:
        assert port // 2 % slots == slot


def test_all_ports_of_a_slot_are_used() -> None:
    ports = range(32768, 32768 + 48)
    assert {pick_port(1, ports) for _ in range(2000)} == {port for port in ports if port // 2 % 12 == 1}


@pytest.mark.parametrize("ports", [range(0), range(1024, 1025)])
def test_without_a_fitting_one_any_is_taken(ports: range) -> None:
    assert pick_port(3, ports) == 0


def test_the_range_is_the_kernels() -> None:
    ports = read_port_range()
    assert 0 < ports.start < ports.stop <= 65536
