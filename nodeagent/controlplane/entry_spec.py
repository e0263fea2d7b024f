# SPDX-License-Identifier: Apache-2.0
"""Parts of WorkloadEntry and ServiceEntry (networking.istio.io): endpoints, ports, resolution."""

import enum

import msgspec

from nodeagent.model.address import Ip, Port, parse_ip


class EntrySpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a WorkloadEntry and an endpoint of a ServiceEntry have in common."""

    address: str = ""
    """As written: an address or a name to resolve; empty for something that is reached by its network's gateway."""
    ports: dict[str, Port] = {}
    labels: dict[str, str] = {}
    network: str = ""
    locality: tuple[str, str, str] = ("", "", "")
    """Region, zone, subzone."""
    weight: int = 0
    """0 when it is not written."""
    service_account: str = ""

    @property
    def ip(self) -> Ip | None:
        """None: a name, or nothing."""
        try:
            return parse_ip(self.address)
        except ValueError:
            return None


class Resolution(enum.StrEnum):
    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"


class EntryPort(msgspec.Struct, frozen=True):
    name: str
    port: Port
    target_port: Port
    protocol: str = ""
