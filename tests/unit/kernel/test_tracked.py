# SPDX-License-Identifier: Apache-2.0
"""What several tables have of one connection is one row; rows as decoded.py shows them."""

from typing import Any

from nodeagent.kernel.tracked import TABLES, TrackedConnection, join

NOW = 100.0


def key(first: str, first_port: int, second: str, second_port: int) -> dict[str, Any]:
    return {"first": first, "second": second, "first_port": first_port, "second_port": second_port}


def flow(kind: str, from_second: int = 0) -> dict[str, Any]:
    rest = {"held": 0, "first_checked": 1, "second_checked": 0}
    return {"generation": 3, "kind": kind, "from_second": from_second, **rest}


REPORT = {
    "cookie": 77,
    "netns": 5,
    "started": 90 * 10**9,
    "ended": 0,
    "sent": 10,
    "received": 20,
    "client": "10.0.0.2",
    "server": "10.0.0.3",
    "client_port": 4000,
    "server_port": 80,
    "round_trip_us": 24,
    "retransmissions": 1,
    "state": "open",
}


def joined(**tables: list[tuple[Any, Any]]) -> list[TrackedConnection]:
    return join({name: tables.get(name, []) for name in TABLES}, NOW)


def test_nothing() -> None:
    assert joined() == []


def test_a_flow_and_its_report_are_one() -> None:
    there = [(key("10.0.0.3", 80, "10.0.0.2", 4000), flow("allowed", from_second=1))]
    (one,) = joined(flows=there, flow_reports=[(77, REPORT)])
    assert one == TrackedConnection(
        source="10.0.0.2:4000",
        destination="10.0.0.3:80",
        is_opener_known=True,
        kind="allowed",
        generation=3,
        tables=("flows", "flow_reports"),
        state="open",
        cookie=77,
        netns=5,
        age_seconds=10.0,
        sent_bytes=10,
        received_bytes=20,
        round_trip_us=24,
        retransmissions=1,
    )


def test_a_report_of_an_end_is_as_old_as_the_connection_was() -> None:
    (one,) = joined(flow_reports=[(77, {**REPORT, "ended": 91 * 10**9, "state": "closed"})])
    assert (one.age_seconds, one.state, one.kind, one.generation) == (1.0, "closed", "", 0)


def test_who_opened_a_flow_that_was_restored_is_not_known() -> None:
    (one,) = joined(kept_flows=[(key("fd00::1", 1, "fd00::2", 2), flow("adopted", from_second=2))])
    assert (one.source, one.destination, one.is_opener_known) == ("[fd00::1]:1", "[fd00::2]:2", False)


def test_what_comes_in_for_the_proxy_has_a_row_for_each_direction_and_is_one() -> None:
    (one,) = joined(
        inbound_flows=[(key("a", 1, "b", 2), 1), (key("b", 2, "a", 1), 1)], hairpins=[(key("b", 2, "a", 1), 1)]
    )
    assert (one.source, one.kind, one.tables) == ("a:1", "proxy", ("inbound_flows", "hairpins"))


def test_in_order_of_their_ends() -> None:
    keys = [key("b", 1, "c", 2), key("a", 9, "c", 2), key("a", 1, "c", 2)]
    assert [one.source for one in joined(flows=[(one, flow("proxy")) for one in keys])] == ["a:1", "a:9", "b:1"]


def test_of_two_reports_for_one_pair_of_ends_the_open_one_counts() -> None:
    """Its port is used again, and nobody has read the end of the former connection."""
    former = {**REPORT, "cookie": 7, "started": 10 * 10**9, "ended": 20 * 10**9, "state": "closed"}
    for rows in ([(77, REPORT), (7, former)], [(7, former), (77, REPORT)]):
        (one,) = joined(flow_reports=rows)
        assert (one.cookie, one.state) == (77, "open")
