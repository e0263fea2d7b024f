# SPDX-License-Identifier: Apache-2.0
"""What a name of the mesh means at the moment, as the agent's resolver has learned it."""

import msgspec

from nodeagent.model.address import Ip


class ResolvedName(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The answers of both families together."""

    hostname: str
    """As workloads have it."""
    addresses: tuple[Ip, ...] = ()
    """In a stable order."""
    former: tuple[Ip, ...] = ()
    """That it had until a short time ago, and that a client may remember."""
    error: str = ""
    """Why there are none, in words that complete "it cannot be resolved: "; or why they may be outdated."""
