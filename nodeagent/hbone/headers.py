# SPDX-License-Identifier: Apache-2.0
"""Header blocks of HBONE: the CONNECT request and its answer, through HPACK, with every limit in front."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What a client asks for. Empty members are not sent."""

    authority: str
    """`10.0.0.2:8080`, `[fd00::1]:8080` or `name.ns.svc.cluster.local:80`."""
    baggage: str = ""
    forwarded: str = ""
    traceparent: str = ""
    network: str = ""
    """`x-forwarded-network`."""
