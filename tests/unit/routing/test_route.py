# SPDX-License-Identifier: Apache-2.0
"""The answers of routing are values: equal when they say the same, and usable as keys where the pool needs them."""

import msgspec

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.routing.route import HBONE_PORT, PROXY_PORTS, Refuse, Tunnel


def test_a_tunnel_goes_to_the_port_of_hbone_unless_a_waypoint_says_otherwise() -> None:
    route = Tunnel(
        ip=Ip("10.0.0.1"),
        authority="10.0.0.1:80",
        expected=frozenset({Identity("td", "a", "b")}),
        destination=None,
        service=None,
        port_at_destination=80,
    )
    assert (route.port, route.host, route.is_to_waypoint) == (HBONE_PORT, "", False)
    assert msgspec.structs.replace(route, port=16008) != route


def test_the_listeners_are_the_proxys_ports() -> None:
    assert HBONE_PORT in PROXY_PORTS


def test_a_refusal_is_shown_as_json_for_explain() -> None:
    refusal = Refuse(reason=Reason.NO_GATEWAY, detail="waypoint a/b: it is not known")
    assert msgspec.json.decode(msgspec.json.encode(refusal), type=Refuse) == refusal
