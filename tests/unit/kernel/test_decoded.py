# SPDX-License-Identifier: Apache-2.0
"""Every map of ours is shown with addresses, ports and names, by its declaration alone."""

import struct
from typing import Any

import pytest

from nodeagent.kernel import codings, service_codings
from nodeagent.kernel.codings import (
    Flow,
    FlowKey,
    FlowReport,
    PodCount,
    PodRow,
    ReportState,
    Settings,
    Source,
    VerdictBits,
    VerdictKey,
)
from nodeagent.kernel.decoded import FLOW_KINDS, HIDDEN, LISTENERS, LOSSES, SLOTS, Decoder
from nodeagent.kernel.layout import read_shapes
from nodeagent.kernel.maps import SLOTS as SLOTS_OF_MAPS
from nodeagent.kernel.sources import layout_text, read_source
from nodeagent.model.address import Cidr, Ip, Port, packed_ip
from nodeagent.model.exclusion import Exclusion
from nodeagent.routing.route import Target

WEB, DB = Ip("10.0.0.1"), Ip("fd00::2")
SHAPES = read_shapes(layout_text())
DECODER = Decoder(SHAPES, lambda index: {7: "veth3"}.get(index, ""), {3: "STEERED"})
MAC = bytes.fromhex("0a0b0c0d0e0f")


@pytest.mark.parametrize(
    ("name", "packed", "expected"),
    [
        ("pods", packed_ip(WEB), "10.0.0.1"),
        ("known", packed_ip(DB), "fd00::2"),
        ("sources", codings.of_source().encode(Source(7, WEB)), {"device": "veth3 (7)", "address": "10.0.0.1"}),
        ("sources", codings.of_source().encode(Source(8, WEB)), {"device": 8, "address": "10.0.0.1"}),
        ("pod_counts", struct.pack("=I", 7), "veth3 (7)"),
        ("reason_counts", struct.pack("=I", 3), "STEERED"),
        ("reason_counts", struct.pack("=I", 60), 60),
        ("flow_losses", struct.pack("=I", 1), "flow"),
        ("listeners", struct.pack("=I", 6), "hbone of worker 2"),
        (
            "excluded",
            codings.of_exclusion().encode(Exclusion(Cidr(packed_ip(WEB), 120), Port(53))),
            {"prefix_bits": 152, "port": 53, "address": "10.0.0.1"},
        ),
        (
            "verdicts",
            codings.of_verdict_key().encode(VerdictKey(4, 2, 5432)),
            {"generation": 4, "destination": 2, "port": 5432},
        ),
        (
            "flows",
            codings.of_flow_key().encode(FlowKey(WEB, DB, 40000, 80)),
            {"first": "10.0.0.1", "second": "fd00::2", "first_port": 40000, "second_port": 80},
        ),
        ("services", service_codings.of_endpoint().encode(Target(DB, 80)), {"address": "fd00::2", "port": 80}),
    ],
)
def test_keys(name: str, packed: bytes, expected: Any) -> None:
    assert DECODER.key(SHAPES.maps[name], packed) == expected


@pytest.mark.parametrize(
    ("name", "packed", "expected"),
    [
        (
            "pods",
            codings.of_pod().encode(PodRow(7, MAC, MAC, 2)),
            {"device": "veth3 (7)", "gateway_mac": "0a:0b:0c:0d:0e:0f", "pod_mac": "0a:0b:0c:0d:0e:0f", "number": 2},
        ),
        ("known", struct.pack("=I", 1), 1),
        ("verdicts", codings.of_verdict().encode(VerdictBits(0b1011)), {"sources": [0, 1, 3], "is_pending": 0}),
        ("reason_counts", struct.pack("=3Q", 1, 2, 4), 7),
        (
            "pod_counts",
            2 * codings.of_pod_count().encode(PodCount(1, 2, 3, 4, 5)),
            {"outbound": 2, "inbound": 4, "dropped": 6, "admitted": 8, "unasked": 10},
        ),
    ],
)
def test_values(name: str, packed: bytes, expected: Any) -> None:
    assert DECODER.value(SHAPES.maps[name], packed) == expected


def test_flows_have_words() -> None:
    shown = DECODER.value(SHAPES.maps["flows"], codings.of_flow().encode(Flow(4, 2, 1)))
    assert isinstance(shown, dict)
    assert (shown["kind"], shown["from_second"]) == ("excluded", 1)
    report = FlowReport(9, 8, 7, 0, 1, 2, WEB, DB, 40000, 80, 70, 0, ReportState.OPEN)
    shown = DECODER.value(SHAPES.maps["flow_reports"], codings.of_flow_report().encode(report))
    assert isinstance(shown, dict)
    assert (shown["client"], shown["server_port"], shown["state"]) == ("10.0.0.1", 80, "open")


def test_secrets_are_not_shown() -> None:
    packed = codings.of_settings().encode(Settings(proxy_device=7, secret=0xDEADBEEF, sources=77))
    shown = DECODER.value(SHAPES.maps["settings"], packed)
    assert isinstance(shown, dict)
    assert (shown["secret"], shown["sources"], shown["proxy_device"]) == (HIDDEN, HIDDEN, "veth3 (7)")
    assert str(0xDEADBEEF) not in str(shown)


@pytest.mark.parametrize("name", SHAPES.maps)
def test_every_map_can_be_shown(name: str) -> None:
    shape = SHAPES.maps[name]
    sizes = {kind: struct.calcsize(code) for kind, code in {"u32": "=I", "u64": "=Q"}.items()}
    sizes |= {kind: layout.size for kind, layout in SHAPES.structs.items()}
    DECODER.key(shape, bytes(sizes[shape.key]))
    copies = 2 if shape.kind.startswith("percpu") else 1
    DECODER.value(shape, bytes(-(-sizes[shape.value] // 8) * 8 * copies if copies == 2 else sizes[shape.value]))


def test_the_words_are_those_of_the_c() -> None:
    maps, flow = read_source("maps.h"), read_source("flow.h")
    assert f"SLOTS = {SLOTS} " in maps
    assert SLOTS == SLOTS_OF_MAPS
    assert f"enum listener {{ {', '.join(f'LISTENER_{name.upper()}' for name in LISTENERS)}, LISTENERS }}" in maps
    assert f"enum flow_loss {{ {', '.join(f'LOSS_OF_{name.upper()}' for name in LOSSES)}, FLOW_LOSSES }}" in maps
    for number, name in ((1, "ALLOWED"), (2, "EXCLUDED"), (3, "ADOPTED"), (4, "TAKEN")):
        assert f"FLOW_{name} = {number}," in flow
    assert len(FLOW_KINDS) == 5
