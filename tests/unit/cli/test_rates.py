# SPDX-License-Identifier: Apache-2.0
"""What a connection carries in an interval counts once, for its own ends, whether it lasts, begins or ends in it."""

from typing import Any

import pytest

from nodeagent.cli.rates import Look, of_edges, of_services, of_workloads, percentile, rates


def row(number: str, sent: int = 0, received: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "source": {"namespace": "shop", "workload": "web", "address": "10.0.0.1:4000"},
        "destination": {"namespace": "shop", "workload": "db", "address": "10.0.0.2:5432"},
        "service": "shop/db.shop.svc.cluster.local",
        "path": "tunnel",
        "sent_bytes": sent,
        "received_bytes": received,
        "round_trip_us": 0,
        **changes,
    }


def test_one_that_lasts_one_that_begins_one_that_ends() -> None:
    before = Look(10.0, [row("a", 100, 10), row("b", 5)])
    now = Look(12.0, [row("a", 300, 10), row("c", 50)])
    ended = [row("b", 25, 2, verdict="allowed"), row("d", 4, verdict="failed")]
    (made,) = rates(of_edges, before, now, ended)
    assert made["name"] == "shop/web -> shop/db"
    assert made["open"] == 2
    assert made["connections_per_second"] == 1.0, "c and d have begun"
    assert made["sent_per_second"] == (200 + 50 + 20 + 4) / 2
    assert made["received_per_second"] == 1
    assert made["mtls_percent"] == 100


def test_a_server_has_sent_what_its_client_received() -> None:
    web, db = sorted(
        rates(of_workloads, Look(0.0, []), Look(1.0, [row("a", 300, 10)]), []), key=lambda one: -len(one["name"])
    )
    assert (web["name"], web["sent_per_second"], web["received_per_second"]) == ("shop/web", 300, 10)
    assert (db["name"], db["sent_per_second"], db["received_per_second"]) == ("shop/db", 10, 300)


def test_denials_are_not_carried() -> None:
    ended = [row("a", verdict="denied", path="proxy"), row("b", verdict="allowed")]
    (made,) = rates(of_services, Look(0.0, []), Look(0.5, []), ended)
    assert (made["denied_per_second"], made["connections_per_second"], made["mtls_percent"]) == (2.0, 4.0, 100)


def test_one_that_ended_between_the_two_questions_counts_once() -> None:
    """Its end was told before the list was made, which still has it."""
    (made,) = rates(of_edges, Look(0.0, []), Look(1.0, [row("a", 8)]), [row("a", 8, verdict="allowed")])
    assert (made["open"], made["sent_per_second"]) == (1, 8)


def test_the_busiest_come_first_and_counts_never_go_back() -> None:
    quiet = {"namespace": "shop", "workload": "quiet", "address": "10.0.0.3:1"}
    before, now = Look(0.0, [row("a", 100)]), Look(1.0, [row("a", 90), row("b", 7, source=quiet)])
    made = rates(of_edges, before, now, [])
    assert [(one["name"], one["sent_per_second"]) for one in made] == [
        ("shop/quiet -> shop/db", 7),
        ("shop/web -> shop/db", 0),
    ]


def test_without_a_service_there_is_no_row() -> None:
    assert rates(of_services, Look(0.0, []), Look(1.0, [row("a", service="")]), []) == []


def test_an_end_without_a_name_goes_by_its_address() -> None:
    nobody = {"namespace": "", "workload": "", "address": "[fd00::9]:1"}
    (made,) = rates(of_edges, Look(0.0, []), Look(1.0, [row("a", source=nobody, round_trip_us=80)]), [])
    assert (made["name"], made["round_trip_p50_us"]) == ("[fd00::9] -> shop/db", 80)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 50, 0), ([7], 99, 7), ([1, 2], 50, 1), ([1, 2, 3], 50, 2), ([*range(1, 101)], 99, 99), ([3, 1, 2], 99, 3)],
)
def test_percentile(values: list[int], share: int, expected: int) -> None:
    assert percentile(values, share) == expected
