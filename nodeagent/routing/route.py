# SPDX-License-Identifier: Apache-2.0
"""The answers of routing: values only. A refusal is an answer too, with its reason; nothing here is ever raised."""

from typing import TypeAlias

import msgspec

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.workload import Service, Workload
from nodeagent.routing.candidates import Terms

HBONE_PORT = 15008
PROXY_PORTS = frozenset({15001, 15006, 15008})
"""Ports of the proxy's own listeners: a connection for one of them would come back to us for ever."""


class Target(msgspec.Struct, frozen=True):
    """Where the client connected to, before anything was translated."""

    ip: Ip
    port: int
    server_name: str = ""
    """That its ClientHello has, in lower case; empty: none, or not asked for."""


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """CONNECT `authority` over HBONE to `ip:port`, whose certificate must carry one of `expected`."""

    ip: Ip
    port: int = HBONE_PORT
    authority: str
    """`ip:port` of the application; for a waypoint the client's own target, untranslated."""
    expected: frozenset[Identity]
    destination: Workload | None
    """Who terminates the tunnel's stream: the endpoint, or the waypoint in front of it."""
    service: Service | None
    """The Service that was addressed."""
    port_at_destination: int
    """The port of `authority`."""
    host: str = ""
    """`host=` of the `forwarded` header: the hostname of `service`, or empty."""
    is_to_waypoint: bool = False
    terms: Terms | None = None
    """What a policy asks of the connection."""


class Direct(msgspec.Struct, frozen=True, kw_only=True):
    """Plain TCP to `ip:port`: a workload outside the mesh, or an address that nobody knows."""

    ip: Ip
    port: int
    destination: Workload | None = None
    service: Service | None = None
    terms: Terms | None = None


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    reason: Reason
    detail: str
    """One line for log and `explain`: what was looked for and not found."""
    service: Service | None = None
    is_pending: bool = False
    """What is missing may be on its way: it is worth a wait."""


Route: TypeAlias = Tunnel | Direct | Refuse


class Inbound(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's CONNECT is for this port of the local workload."""

    port: int
    service: Service | None
    """The Service by which the client came, as far as it can be told."""


InboundRoute: TypeAlias = Inbound | Refuse
