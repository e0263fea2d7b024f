# SPDX-License-Identifier: Apache-2.0
"""Which flows match: of one field any, of several all."""

from typing import Any

import pytest

from nodeagent.cli.flow_filter import FlowFilter, parse_duration, require_flow
from nodeagent.errors import ConfigError

FLOW: dict[str, Any] = {
    "ended": "2026-08-20T13:45:41.750000Z",
    "direction": "outbound",
    "source": {"namespace": "shop", "workload": "web-7f", "address": "10.1.0.5:40000"},
    "destination": {"namespace": "data", "workload": "db-0", "address": "[fd00::9]:5432"},
    "source_identity": "spiffe://cluster.local/ns/shop/sa/web",
    "destination_identity": "spiffe://cluster.local/ns/data/sa/db",
    "original": "10.96.0.5:6432",
    "service": "data/db.data.svc.cluster.local",
    "path": "tunnel",
    "protocol": "HBONE",
    "verdict": "denied",
    "reason": "policy_not_allowed",
    "policy": "data/db-allow",
}
NAMELESS = FLOW | {"source": {"namespace": "", "workload": "", "address": "192.0.2.1:9"}, "source_identity": ""}


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({}, True),
        ({"sources": ("shop/web-7f",)}, True),
        ({"sources": ("shop/web*",)}, True),
        ({"sources": ("shop/",)}, True),
        ({"sources": ("web-?f",)}, True),
        ({"sources": ("10.1.0.5",)}, True),
        ({"sources": ("10.1.*",)}, True),
        ({"sources": ("spiffe://cluster.local/ns/shop/sa/web",)}, True),
        ({"sources": ("cluster.local/ns/shop/*",)}, True),
        ({"sources": ("web",)}, False),
        ({"sources": ("data/",)}, False),
        ({"sources": ("SHOP/",)}, False),
        ({"sources": ("other", "shop/")}, True),
        ({"destinations": ("fd00::9",)}, True),
        ({"destinations": ("shop/",)}, False),
        ({"pods": ("shop/",)}, True),
        ({"pods": ("data/",)}, True),
        ({"pods": ("else/",)}, False),
        ({"services": ("data/db.data.svc.cluster.local",)}, True),
        ({"services": ("db.data.svc.*",)}, True),
        ({"services": ("db",)}, True),
        ({"services": ("web",)}, False),
        ({"ports": (5432,)}, True),
        ({"ports": (6432,)}, True),
        ({"ports": (1, 5432)}, True),
        ({"ports": (40000,)}, False),
        ({"verdicts": ("denied", "failed")}, True),
        ({"verdicts": ("allowed",)}, False),
        ({"protocols": ("HBONE",)}, True),
        ({"protocols": ("PLAIN",)}, False),
        ({"reasons": ("policy_not_allowed",)}, True),
        ({"reasons": ("closed",)}, False),
        ({"policies": ("data/db-allow",)}, True),
        ({"policies": ("db-*",)}, True),
        ({"policies": ("web-*",)}, False),
        ({"paths": ("tunnel",)}, True),
        ({"paths": ("kernel",)}, False),
        ({"directions": ("outbound",)}, True),
        ({"directions": ("inbound",)}, False),
        ({"ended_since": "2026-08-20T13:45:41.750000Z"}, True),
        ({"ended_since": "2026-08-20T13:45:41.750001Z"}, False),
        ({"sources": ("shop/",), "ports": (1,)}, False),
    ],
)
def test_matching(wanted: dict[str, Any], matches: bool) -> None:  # noqa: FBT001 - a column of the table
    chosen = FlowFilter(**wanted)
    assert chosen.matches(FLOW) is matches
    assert chosen.is_empty is not bool(wanted)


def test_what_has_no_name_is_found_by_its_address_alone() -> None:
    assert FlowFilter(sources=("192.0.2.1",)).matches(NAMELESS)
    assert not FlowFilter(sources=("/",)).matches(NAMELESS)
    assert FlowFilter(sources=("192.0.2.*",), destinations=("data/",)).matches(NAMELESS)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172800), (" 1s ", 1), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "5", "m", "5x", "-5m", "1.5h", "5m!", "9" * 19 + "s" + "1", "²s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("name", FLOW)
def test_a_row_without_one_of_its_fields_is_no_flow(name: str) -> None:
    require_flow(FLOW)
    with pytest.raises(LookupError):
        require_flow({field: value for field, value in FLOW.items() if field != name})
