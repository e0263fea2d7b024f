# SPDX-License-Identifier: Apache-2.0
"""What an agent is told beyond the workload API, as nodeagent/proto/extension.proto describes it.

Nothing of it is needed: a mesh without these values behaves as a ztunnel's.
"""

from typing import ClassVar, TypeAlias

import msgspec

from nodeagent.model.address import Cidr


class TcpMatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Fields that are set are ANDed."""

    destination_blocks: tuple[Cidr, ...] = ()
    """Of what the client dialled; ORed."""
    port: int = 0
    """That the client dialled; 0: any."""
    source_namespace: str = ""
    source_labels: dict[str, str] = {}


class Destination(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    service: str
    """`ns/hostname`."""
    weight: int
    """Above 0."""
    port: int = 0
    """0: the only one of the Service, else the one that the client dialled."""
    subset: str = ""
    """Empty: every endpoint."""


class TcpRoute(msgspec.Struct, frozen=True, gc=False):
    destinations: tuple[Destination, ...]
    """At least one."""
    matches: tuple[TcpMatch, ...] = ()
    """ORed; none at all matches every connection."""


class Subset(msgspec.Struct, frozen=True, gc=False):
    name: str
    labels: dict[str, str] = {}


class ServiceTraffic(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="service", gc=False):
    """How connections to one Service are routed."""

    PREFIX: ClassVar[str] = "service/"

    service: str
    """`ns/hostname`."""
    routes: tuple[TcpRoute, ...] = ()
    """The first that matches counts; without one, the Service itself is meant."""
    subsets: tuple[Subset, ...] = ()

    @property
    def name(self) -> str:
        return self.PREFIX + self.service

    def subset(self, name: str) -> Subset | None:
        return next((subset for subset in self.subsets if subset.name == name), None)


class WorkloadLabels(msgspec.Struct, frozen=True, kw_only=True, tag="workload", gc=False):
    """Those labels of a workload that some route or subset asks for."""

    PREFIX: ClassVar[str] = "workload/"

    uid: str
    labels: dict[str, str]

    @property
    def name(self) -> str:
        return self.PREFIX + self.uid


class MeshTraffic(msgspec.Struct, frozen=True, kw_only=True, tag="mesh", gc=False):
    """What holds for every client of the mesh."""

    NAME: ClassVar[str] = "mesh"

    is_registry_only: bool = False
    """Connections to addresses that the mesh does not know are dropped."""

    @property
    def name(self) -> str:
        return self.NAME


Extension: TypeAlias = ServiceTraffic | WorkloadLabels | MeshTraffic
"""Each has a `name`, by which it is replaced and removed."""
