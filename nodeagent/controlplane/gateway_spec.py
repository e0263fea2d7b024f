# SPDX-License-Identifier: Apache-2.0
"""Parts of a Gateway (gateway.networking.k8s.io) that the mesh reads: who may name it as waypoint, and where it is."""

import enum

import msgspec

from nodeagent.controlplane.label_selector import LabelSelector
from nodeagent.model.address import Port


class RoutesFrom(enum.StrEnum):
    ALL = "All"
    SAME = "Same"
    SELECTOR = "Selector"
    NONE = "None"


class Listener(msgspec.Struct, frozen=True):
    protocol: str
    port: Port
    routes_from: RoutesFrom = RoutesFrom.SAME
    selector: LabelSelector | None = None


class AddressType(enum.StrEnum):
    IP = "IPAddress"
    HOSTNAME = "Hostname"
    OTHER = ""


class GatewayStatusAddress(msgspec.Struct, frozen=True):
    type: AddressType
    value: str
