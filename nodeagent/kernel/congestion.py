# SPDX-License-Identifier: Apache-2.0
"""Which congestion control the proxy's sockets have, where the node's own paces (DECISIONS.md, 66).

BBR sends by a timer, which a veth or a switch between two nodes does not ask for: it costs a quarter of a bulk stream's
CPU. So the proxy's sockets begin without, and a tunnel with a long way takes the node's choice (proxy/sockets.py).
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

_OWN = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
"""Only of these a namespace may choose that is not the machine's first."""
_PACING = "bbr"
"""And what begins with it. Others are left alone: who chose DCTCP wants it within a data centre above all."""


class Congestion(NamedTuple):
    near: str
    """Of the proxy namespace, by default; a name of the kernel's."""
    far: str
    """Of tunnels with a long way; empty: the same."""


def choose(own: str, allowed: Collection[str]) -> Congestion:
    """`own` is the node's, `allowed` what everybody may use there."""
    if not own.startswith(_PACING):
        return Congestion(own, "")
    return Congestion("cubic" if "cubic" in allowed else "reno", own)


def read() -> Congestion:
    """Of this thread's network namespace, which is the node's. Raises OSError."""
    return choose(_OWN.read_text("ascii").strip(), _ALLOWED.read_text("ascii").split())
