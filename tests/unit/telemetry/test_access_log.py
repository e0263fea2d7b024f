# SPDX-License-Identifier: Apache-2.0
"""The lines are ztunnel's; what is added stands behind its fields."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.logs.levels import LogLevels
from nodeagent.model.record import ConnectionRecord, Direction, Party, Transport
from nodeagent.telemetry.access_log import AccessLog, fields_of, format_json, format_text, level_and_message

RecordOf = Callable[..., ConnectionRecord]

_ENDS = (
    'src.addr=10.0.0.1:34567 src.workload="client-abc" src.namespace="default" '
    'src.identity="spiffe://cluster.local/ns/default/sa/client" src.cluster="Kubernetes" '
    "dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:8080 "
    'dst.service="server.default.svc.cluster.local" dst.workload="server-xyz" dst.namespace="shop" '
    'dst.identity="spiffe://cluster.local/ns/shop/sa/server" dst.cluster="Kubernetes" '
)


def _line(record: ConnectionRecord, *, as_json: bool = False) -> str:
    lines: list[str] = []
    AccessLog(lines.append, as_json=as_json).closed(record)
    (line,) = lines
    return line


def test_a_complete_connection_is_written_as_ztunnel_does(record_of: RecordOf) -> None:
    record = record_of(reason="closed", sent_bytes=84, received_bytes=1024, seconds=0.0129)
    assert _line(record) == (
        "2026-08-20T13:45:53.136356Z\tinfo\taccess\tconnection complete\t"
        + _ENDS
        + 'direction="outbound" bytes_sent=84 bytes_recv=1024 duration="12ms" path="tunnel"\n'
    )


def test_inbound_bytes_are_those_of_the_server(record_of: RecordOf) -> None:
    record = record_of(direction=Direction.INBOUND, reason="closed", sent_bytes=84, received_bytes=1024)
    assert 'direction="inbound" bytes_sent=1024 bytes_recv=84 ' in _line(record)


def test_a_denial_names_reason_policy_and_what_to_check(record_of: RecordOf) -> None:
    record = record_of(
        direction=Direction.INBOUND, reason="policy_denied", policy="shop/no-legacy", error='denied by "no-legacy"'
    )
    line = _line(record)
    assert "\terror\taccess\tconnection complete\t" in line
    assert line.endswith(
        'duration="0ms" path="tunnel" error="denied by \\"no-legacy\\"" reason="policy_denied" policy="shop/no-legacy" '
        'check="A DENY policy matches; `nodeagent explain` names the rule."\n'
    )


def test_an_early_denial_is_a_line_too(record_of: RecordOf) -> None:
    record = record_of(
        reason="unknown_source",
        destination_ip="",
        destination_port=0,
        hop="",
        service="",
        source=Party(),
        destination=Party(),
        source_identity=None,
        destination_identity=None,
        transport=Transport.TCP,
    )
    assert _line(record) == (
        "2026-08-20T13:45:53.123456Z\twarn\taccess\tconnection failed\tsrc.addr=10.0.0.1:34567 dst.addr=10.96.0.9:80 "
        'direction="outbound" bytes_sent=0 bytes_recv=0 duration="0ms" path="proxy" '
        'error="The source address is no enrolled pod; has xDS sent its workload?" reason="unknown_source"\n'
    )


@pytest.mark.parametrize(
    ("changes", "level", "message"),
    [
        pytest.param({"reason": "closed"}, "info", "connection complete", id="as TCP means it"),
        pytest.param({"reason": "reset"}, "info", "connection complete", id="the application's own reset"),
        pytest.param({"reason": "tls_failed"}, "error", "connection complete", id="failed"),
        pytest.param({"reason": "policy_pending"}, "error", "connection complete", id="denied, destination known"),
        pytest.param(
            {"reason": "no_service_port", "destination_ip": ""}, "warn", "connection failed", id="nothing chosen"
        ),
        pytest.param({"reason": "of_a_later_release"}, "error", "connection complete", id="unknown reason"),
    ],
)
def test_level_and_message(record_of: RecordOf, changes: dict[str, Any], level: str, message: str) -> None:
    assert level_and_message(record_of(**changes)) == (level, message)


def test_a_reason_that_this_release_does_not_know_is_told_by_its_name(record_of: RecordOf) -> None:
    assert 'reason="of_a_later_release"' in _line(record_of(reason="of_a_later_release"))


def test_identities_that_nobody_proved_are_not_told(record_of: RecordOf) -> None:
    unproved = record_of(
        reason="closed", transport=Transport.TCP, hop="", source_identity=None, destination_identity=None
    )
    assert "identity" not in _line(unproved)


def test_identities_between_pods_of_one_node_are_told(record_of: RecordOf) -> None:
    line = _line(record_of(reason="closed", transport=Transport.TCP, hop=""))
    assert 'src.identity="spiffe://' in line
    assert 'dst.identity="spiffe://' in line
    assert "hbone_addr" not in line
    assert " dst.addr=10.0.0.2:8080 " in line


def test_the_kernel_tells_more_of_what_it_carries(record_of: RecordOf) -> None:
    record = record_of(
        reason="closed", transport=Transport.TCP, hop="", is_in_kernel=True, round_trip_us=71, retransmissions=2
    )
    assert _line(record).endswith('duration="0ms" path="kernel" rtt="71us" retransmissions=2\n')


def test_json_has_the_same_fields(record_of: RecordOf) -> None:
    line = json.loads(_line(record_of(reason="closed", sent_bytes=1), as_json=True))
    assert line["scope"] == "access"
    assert line["message"] == "connection complete"
    assert (line["src.addr"], line["dst.hbone_addr"]) == ("10.0.0.1:34567", "10.0.0.2:8080")
    assert (line["bytes_sent"], line["duration"]) == (1, "0ms")


def test_openings_are_told_only_on_request(record_of: RecordOf) -> None:
    lines: list[str] = []
    AccessLog(lines.append).opened(record_of())
    assert lines == []
    AccessLog(lines.append, level="debug").opened(record_of())
    assert len(lines) == 1
    assert "\tdebug\taccess\tconnection opened\t" in lines[0]


def test_of_the_level_depends_what_is_told(record_of: RecordOf) -> None:
    lines: list[str] = []
    log = AccessLog(lines.append)
    log.follow(LogLevels.parse("access:warn"))
    log.closed(record_of(reason="closed"))
    log.closed(record_of(reason="policy_denied"))
    log.follow(LogLevels.parse("access:off"))
    log.closed(record_of(reason="policy_denied"))
    assert ["policy_denied" in line for line in lines] == [True]


@given(st.dictionaries(st.sampled_from(["src.workload", "src.addr", "error", "policy"]), st.text()))
def test_no_value_forges_a_line_or_breaks_json(fields: dict[str, str | int]) -> None:
    text = format_text(0.0, "info", "connection complete", fields)
    assert text.count("\n") == 1
    assert text.count("\t") == 4
    assert text.rstrip("\n").replace("\t", "").isprintable()
    line = format_json(0.0, "info", "connection complete", fields)
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line)["level"] == "info"


def test_what_dry_runs_would_have_decided_is_told(record_of: RecordOf) -> None:
    told = fields_of(record_of(reason="closed", dry_run="denied", dry_run_policy="shop/try", is_dry_run_other=True))
    assert (told["dry_run"], told["dry_run.policy"], told.get("error")) == ("denied", "shop/try", None)
    assert "dry_run.policy" not in fields_of(record_of(reason="closed", dry_run="allowed"))
    assert "dry_run" not in fields_of(record_of(reason="closed"))
