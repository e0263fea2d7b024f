# SPDX-License-Identifier: Apache-2.0
"""The record: what one end is called, and its way from the worker."""

import msgspec
import pytest

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord, Direction, Party, Verdict
from nodeagent.model.workload import Workload


def test_a_party_takes_its_labels_from_the_workload() -> None:
    labels = {name: f"a {name}" for name in Party.__struct_fields__ if name != "workload"}
    workload = Workload(uid="u", name="a pod", service_account="sa", **labels)  # type: ignore[arg-type]
    assert msgspec.structs.asdict(Party.of(workload)) == labels | {"workload": "a pod"}


def test_a_record_begins_open_and_survives_its_way_from_the_worker() -> None:
    record = ConnectionRecord(
        id=1,
        direction=Direction.INBOUND,
        started=1.5,
        source_ip=Ip("10.0.0.1"),
        source_port=40000,
        original_ip=Ip("fd00::1"),
        original_port=80,
    )
    assert record.reason == ""
    record.source_identity = Identity("td", "a", "b")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=ConnectionRecord) == record


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        ("", Verdict.ALLOWED),
        (Reason.CLOSED.value, Verdict.ALLOWED),
        (Reason.DRAINED.value, Verdict.ALLOWED),
        (Reason.POLICY_CHANGED.value, Verdict.DENIED),
        (Reason.HBONE_DENIED.value, Verdict.DENIED),
        (Reason.SOURCE_RATE.value, Verdict.DENIED),
        (Reason.CONNECT_REFUSED.value, Verdict.FAILED),
        (Reason.UPSTREAM_OVERFLOW.value, Verdict.FAILED),
        ("of another release", Verdict.FAILED),
    ],
)
def test_what_a_connection_came_to(reason: str, verdict: Verdict) -> None:
    record = ConnectionRecord(
        id=1,
        direction=Direction.OUTBOUND,
        started=0.0,
        source_ip=Ip("10.0.0.1"),
        source_port=1,
        original_ip=Ip("10.0.0.2"),
        original_port=2,
        reason=reason,
    )
    assert record.verdict is verdict
