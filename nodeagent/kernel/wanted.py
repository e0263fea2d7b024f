# SPDX-License-Identifier: Apache-2.0
"""What the agent wants of the kernel part, whatever the kernel has."""

from dataclasses import dataclass

from nodeagent.model.address import Cidr, Ip
from nodeagent.model.exclusion import Exclusion


@dataclass(frozen=True)
class WantedPod:
    namespace: str
    name: str
    netns: str
    """Path of its network namespace."""
    addresses: tuple[Ip, ...]
    registry_only: bool = False
    """Its connections to addresses that the mesh does not know are dropped."""


@dataclass(frozen=True)
class Wanted:
    pods: tuple[WantedPod, ...]
    known: frozenset[Ip]
    """Addresses of the mesh: workloads and services."""
    adoption_seconds: int
    excluded: frozenset[Exclusion] = frozenset()
    in_question: frozenset[Ip] | None = None
    """None: `known` is every address. Else those that may have become known, or no longer, since the last reconcile
    that succeeded; `known` are those of them that are."""
    known_blocks: frozenset[Cidr] = frozenset()
    """Every block of addresses that a Service has."""
    named: frozenset[Exclusion] = frozenset()
    """Single addresses with a port: what names of the mesh mean at the moment."""
