# SPDX-License-Identifier: Apache-2.0
"""One edge for each pair of ends, each connection counted once, as secure as the least secure of them."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nodeagent.admin import answers
from nodeagent.admin.edges import edges, secured
from nodeagent.admin.state import AgentState, OpenConnection
from nodeagent.model.address import Ip
from nodeagent.model.record import ConnectionRecord, Direction, Party, Transport

StateOf = Callable[..., AgentState]
OutOf = Callable[..., ConnectionRecord]


@pytest.fixture
def changed(connection: OpenConnection) -> OutOf:
    def change(**changes: Any) -> ConnectionRecord:
        return msgspec.structs.replace(connection.record, **changes)

    return change


def told(state: AgentState, found: list[ConnectionRecord], over: list[ConnectionRecord]) -> list[answers.Edge]:
    return edges(state, [OpenConnection(0, record) for record in found], over)["edges"]


def test_open_and_over_are_summed(state_of: StateOf, changed: OutOf) -> None:
    over = [changed(reason="closed"), changed(reason="policy_denied"), changed(reason="connect_timeout")]
    (edge,) = told(state_of(), [changed(), changed(source_port=2)], over)
    assert (edge["source"], edge["destination"]) == ("shop/web", "shop/db-0")
    assert edge["source_identity"] == "spiffe://cluster.local/ns/shop/sa/web"
    assert [edge["connections"], edge["ended"], edge["denied"], edge["failed"]] == [2, 1, 1, 1]
    assert (edge["sent_bytes"], edge["received_bytes"]) == (50, 10000)
    assert edge["secured"] == "mtls"


def test_the_least_secure_connection_counts(state_of: StateOf, changed: OutOf) -> None:
    plain = changed(transport=Transport.TCP, destination_identity=None, reason="closed")
    (edge,) = told(state_of(), [changed()], [plain])
    assert edge["secured"] == "plain"


def test_what_was_only_refused_is_not_secured_at_all(state_of: StateOf, changed: OutOf) -> None:
    (edge,) = told(state_of(), [], [changed(reason="policy_denied", transport=Transport.TCP)])
    assert edge["secured"] == "none"


def test_both_ends_here_are_one_connection(state_of: StateOf, changed: OutOf) -> None:
    """web is captured here, so its own end is told, too; a client of another node is told by the server's alone."""
    inbound = changed(direction=Direction.INBOUND)
    (edge,) = told(state_of(), [changed(), inbound], [])
    assert edge["connections"] == 1
    (edge,) = told(state_of(pods=()), [inbound], [])
    assert edge["connections"] == 1


def test_names(state_of: StateOf, changed: OutOf) -> None:
    nobody = Party()
    records = [
        changed(source=nobody, source_identity=None),
        changed(destination=nobody, service=""),
        changed(destination=nobody, destination_ip=Ip("")),
        changed(destination=Party(canonical_name="db", namespace="far")),
    ]
    assert [(edge["source"], edge["destination"]) for edge in told(state_of(), records, [])] == [
        ("10.241.0.12", "shop/db-0"),
        ("shop/web", "10.242.0.1"),
        ("shop/web", "far/db"),
        ("shop/web", "shop/db.shop.svc.cluster.local"),
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "mtls"),
        ({"transport": Transport.TCP}, "node"),
        ({"transport": Transport.TCP, "is_in_kernel": True}, "node"),
        ({"transport": Transport.TCP, "source_identity": None}, "plain"),
        ({"transport": Transport.TCP, "destination_identity": None}, "plain"),
    ],
)
def test_secured(changed: OutOf, changes: dict[str, Any], expected: str) -> None:
    assert secured(changed(**changes)) == expected
