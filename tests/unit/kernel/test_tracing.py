# SPDX-License-Identifier: Apache-2.0
"""What a program has written of a packet, decoded; the maps themselves are tested with a kernel."""

import struct

import pytest

from nodeagent.kernel import tracing
from nodeagent.kernel.layout import read_maps, read_rings
from nodeagent.kernel.reasons import reasons
from nodeagent.kernel.sources import FILTERS, layout_text, read_source
from nodeagent.kernel.tracing import HOOKS, WantedTrace, decode_event, trace_layouts
from nodeagent.model.address import Ip, packed_ip

STEERED = next(reason for reason in reasons() if reason.name == "STEERED")


def _event(hook: int, *, source: str = "10.0.0.1", device: int = 7) -> bytes:
    ends = packed_ip(Ip(source)) + packed_ip(Ip("fd00::2")) + struct.pack("!HH", 40000, 80)
    return ends + struct.pack("=BBBBQIIII", hook, STEERED.number, 1, 6, 1_500_000_000, 5, device, 0x18, 0)


def test_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.if_indextoname", lambda index: f"veth{index}")
    packet = decode_event(_event(0), began=100.0)
    assert (packet.at, packet.program, packet.device) == (101.5, "from_pod", "veth7")
    assert (packet.source, packet.source_port) == ("10.0.0.1", 40000)
    assert (packet.destination, packet.destination_port) == ("fd00::2", 80)
    assert (packet.protocol, packet.flags, packet.bytes, packet.packet) == (6, 0x18, 5, "data 5 B")
    assert (packet.reason, packet.verdict, packet.words) == ("STEERED", STEERED.verdict, STEERED.words)


def test_a_device_that_is_gone_and_one_in_another_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(_index: int) -> str:
        raise OSError

    monkeypatch.setattr("socket.if_indextoname", find)
    assert decode_event(_event(1), began=0.0).device == "device 7"
    assert decode_event(_event(HOOKS.index("at_proxy")), began=0.0).device == "eth0"


def test_the_filter_is_packed_as_it_is_declared() -> None:
    coding = tracing._of_filter()
    packed = coding.encode(WantedTrace(7, (Ip("10.0.0.1"),), is_every=True))
    assert packed == struct.pack("=IIII", 7, 0, 1, 0)
    assert coding.decode(packed) == WantedTrace(7, (), is_every=True)


def test_hooks_are_those_of_the_c_and_each_filter_has_one() -> None:
    (declared,) = [line for line in read_source("trace.h").splitlines() if line.startswith("enum hook ")]
    assert declared == f"enum hook {{ {', '.join(f'HOOK_{name.upper()}' for name in HOOKS)} }};"
    assert set(HOOKS) == set(FILTERS)
    for name in HOOKS:
        assert f"\ttrace(skb, HOOK_{name.upper()}, why);\n" in read_source(f"{name}.c")


def test_its_maps_are_no_part_of_the_layout_that_lives_on() -> None:
    header = read_source("trace.h")
    names = {*read_maps(header), *read_rings(header)}
    assert names
    assert not [name for name in names if name in layout_text()]
    assert all(len(name) <= 15 for name in names), "longer than the kernel takes"
    assert {"trace_filter", "trace_key", "trace_event"} < trace_layouts().keys()
