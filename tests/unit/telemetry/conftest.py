# SPDX-License-Identifier: Apache-2.0
"""A record with everything known, and the factory that varies it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.record import ConnectionRecord, Direction, Party, Transport

RecordOf = Callable[..., ConnectionRecord]

_RECORD = ConnectionRecord(
    id=7,
    direction=Direction.OUTBOUND,
    started=1_787_233_553.123456,
    source_ip=Ip("10.0.0.1"),
    source_port=34567,
    original_ip=Ip("10.96.0.9"),
    original_port=80,
    destination_ip=Ip("10.0.0.2"),
    destination_port=8080,
    hop="10.0.0.2:15008",
    service="default/server.default.svc.cluster.local",
    source=Party("client-abc", "default", "client", "client", "v1", "Kubernetes"),
    destination=Party("server-xyz", "shop", "server", "server-app", "v2", "Kubernetes"),
    source_identity=Identity("cluster.local", "default", "client"),
    destination_identity=Identity("cluster.local", "shop", "server"),
    transport=Transport.HBONE,
)


@pytest.fixture
def record_of() -> RecordOf:
    def make(**changes: Any) -> ConnectionRecord:
        return msgspec.structs.replace(_RECORD, **changes)

    return make
