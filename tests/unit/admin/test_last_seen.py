# SPDX-License-Identifier: Apache-2.0
"""Which connections are such ones, and how many of them there were lately."""

from typing import Any

import pytest

from nodeagent.admin.last_seen import RECENT_SECONDS, Likeness, last_seen
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.routing.route import Target

NOW = 1_787_233_553.0
WEB, DB, VIP = Ip("10.241.0.12"), Ip("10.242.0.1"), Ip("10.96.0.5")
WEB_ID = Identity("cluster.local", "shop", "web")


def _record(ended: float = NOW - 1, **fields: Any) -> ConnectionRecord:
    written: dict[str, Any] = {
        "id": 1,
        "direction": Direction.OUTBOUND,
        "source_ip": WEB,
        "source_port": 40000,
        "original_ip": VIP,
        "original_port": 80,
        "destination_ip": DB,
        "destination_port": 5432,
        "source_identity": WEB_ID,
        "reason": "closed",
    }
    return ConnectionRecord(started=ended - 0.5, seconds=0.5, **written | fields)


def _likeness(**fields: Any) -> Likeness:
    written: dict[str, Any] = {
        "sources": {WEB},
        "dialled": {Target(VIP, 80)},
        "endpoints": {Target(DB, 5432)},
    }
    return Likeness(**written | fields)


_INBOUND: dict[str, Any] = {"direction": Direction.INBOUND, "original_ip": DB, "original_port": 5432}


@pytest.mark.parametrize(
    ("record", "likeness", "fits"),
    [
        pytest.param({}, {}, True, id="dialled as asked"),
        pytest.param({"destination_ip": Ip(""), "destination_port": 0}, {}, True, id="refused before it was led on"),
        pytest.param(_INBOUND, {}, True, id="as the other end sees it"),
        pytest.param({"source_ip": Ip("10.241.0.13")}, {}, False, id="another client"),
        pytest.param(_INBOUND | {"destination_port": 5433}, {}, False, id="another port"),
        pytest.param({}, {"identity": WEB_ID}, True, id="its identity"),
        pytest.param({}, {"identity": Identity("cluster.local", "shop", "api")}, False, id="another identity"),
        pytest.param(_INBOUND, {"is_plaintext": True}, False, id="an identity was proved"),
        pytest.param(_INBOUND | {"source_identity": None}, {"is_plaintext": True}, True, id="plain text"),
        pytest.param({"source_identity": None}, {"is_plaintext": True}, False, id="captured and refused early"),
    ],
)
def test_what_is_like_it(record: dict[str, Any], likeness: dict[str, Any], *, fits: bool) -> None:
    assert _likeness(**likeness).fits(_record(**record)) is fits


def test_none_is_none() -> None:
    assert last_seen([], _likeness(), NOW) is None
    assert last_seen([_record(source_ip=DB)], _likeness(), NOW) is None


def test_the_last_is_told_and_the_recent_are_counted() -> None:
    old = NOW - RECENT_SECONDS - 1
    records = [_record(source_ip=DB), _record(NOW - 2, reason="policy_denied", policy="shop/no"), _record(NOW - 3)]
    assert last_seen([*records, _record(old)], _likeness(), NOW) == {
        "ended": "2026-08-20T13:45:51.000000Z",
        "direction": "outbound",
        "path": "proxy",
        "verdict": "denied",
        "reason": "policy_denied",
        "policy": "shop/no",
        "recent": 2,
        "recent_seconds": 300,
    }


def test_one_of_long_ago_is_told_and_nothing_before_it_is_looked_at() -> None:
    def records() -> Any:
        yield _record(NOW - 5000, source_ip=DB)
        yield _record(NOW - 6000)
        yield _record(NOW - 7000)
        raise AssertionError("nobody asks for what came before")

    seen = last_seen(records(), _likeness(), NOW)
    assert seen is not None
    assert (seen["recent"], seen["ended"]) == (0, "2026-08-20T12:05:53.000000Z")
