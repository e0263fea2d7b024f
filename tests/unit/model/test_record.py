# SPDX-License-Identifier: Apache-2.0
"""The record: what one end is called, and its way from the worker."""

import msgspec
import pytest

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionId, ConnectionRecord, Direction, Party, Verdict
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
    ("number", "is_in_kernel", "name"),
    [((4711 << 32) + 9, False, "4711-9"), (9, False, "0-9"), ((4711 << 32) + 9, True, "kernel-20233590931465")],
)
def test_names(number: int, is_in_kernel: bool, name: str) -> None:  # noqa: FBT001 - a column of the table
    record = ConnectionRecord(
        id=number,
        direction=Direction.OUTBOUND,
        started=0.0,
        source_ip=Ip("10.0.0.1"),
        source_port=1,
        original_ip=Ip("10.0.0.2"),
        original_port=2,
        is_in_kernel=is_in_kernel,
    )
    assert record.name == name
    assert ConnectionId.parse(name) == (is_in_kernel, number)


@pytest.mark.parametrize("text", ["", "9", "-", "a-9", "9-", "kernel-", "kernel-x", "1-2-3", "1--2", "9-" + "9" * 30])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a connection's id"):
        ConnectionId.parse(text)


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
