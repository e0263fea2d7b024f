# SPDX-License-Identifier: Apache-2.0
"""Codings between model values and map bytes, without a kernel; shapes are asserted against C in tests/kernel."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.kernel import codings
from nodeagent.kernel.codings import (
    NUMBERS,
    Flow,
    FlowKey,
    FlowReport,
    PodCount,
    PodRow,
    ReportState,
    Settings,
    Source,
    SourceRow,
    VerdictBits,
    VerdictKey,
)
from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.exclusion import Exclusion

_ips = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda ip: not getattr(ip, "ipv4_mapped", None))
).map(lambda ip: Ip(str(ip)))
_ports = st.integers(0, 65535)
_words = st.integers(0, 2**32 - 1)
_longs = st.integers(0, 2**64 - 1)
_macs = st.binary(min_size=6, max_size=6)
_blocks = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 95))
).map(lambda pair: Cidr.parse(f"{pair[0]}/{pair[1]}"))
_values: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "settings": (codings.of_settings, st.builds(Settings, *[_words] * 6, _longs, _words, _words)),
    "source": (codings.of_source, st.builds(Source, _words, _ips)),
    "source_row": (codings.of_source_row, st.builds(SourceRow, st.integers(0, 2**64 - 1), _words, _words)),
    "pod": (codings.of_pod, st.builds(PodRow, _words, _macs, _macs, _words)),
    "verdict_key": (codings.of_verdict_key, st.builds(VerdictKey, _words, _words, _ports)),
    "verdict": (codings.of_verdict, st.builds(VerdictBits, st.integers(0, 2**NUMBERS - 1), st.integers(0, 1))),
    "exclusion": (codings.of_exclusion, st.builds(Exclusion, _blocks, _ports.map(Port))),
    "flow_key": (codings.of_flow_key, st.builds(FlowKey, _ips, _ips, _ports, _ports)),
    "flow": (codings.of_flow, st.builds(Flow, _words, *[st.integers(0, 255)] * 3, _longs, _longs)),
    "flow_report": (
        codings.of_flow_report,
        st.builds(FlowReport, *[_longs] * 6, _ips, _ips, _ports, _ports, _words, _words, st.sampled_from(ReportState)),
    ),
    "address": (codings.of_address, _ips),
}


@pytest.mark.parametrize("name", _values)
@given(data=st.data())
def test_what_is_put_is_found(name: str, data: st.DataObject) -> None:
    coding, values = _values[name]
    value = data.draw(values)
    assert coding().decode(coding().encode(value)) == value


def test_per_cpu_values_are_summed() -> None:
    assert codings.of_sum().decode(struct.pack("=3Q", 1, 2, 2**40)) == 2**40 + 3
    assert codings.of_pod_count().decode(struct.pack("=10Q", *range(1, 11))) == PodCount(7, 9, 11, 13, 15)


def test_an_address_is_sixteen_bytes_in_network_order() -> None:
    assert codings.of_address().encode(Ip("192.0.2.1")) == bytes(10) + b"\xff\xff\xc0\x00\x02\x01"


def test_the_prefix_of_an_exclusion_counts_port_and_padding() -> None:
    encoded = codings.of_exclusion().encode(Exclusion(Cidr.parse("10.0.0.0/8"), Port(80)))
    (bits,) = struct.unpack_from("=I", encoded)
    assert (bits, encoded[4:8]) == (32 + 96 + 8, b"\0P\0\0")
