# SPDX-License-Identifier: Apache-2.0
"""The record: what one end is called, and its way from the worker."""

import msgspec

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.record import ConnectionRecord, Direction, Party
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
