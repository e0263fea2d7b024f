# SPDX-License-Identifier: Apache-2.0
"""From which port a worker dials a tunnel: so that the tunnels of one node's workers spread over those of another.

The kernel gives a tunnel to the worker whose slot is half of its source port, modulo their number (bpf/steer.h). So
worker i of one node talks to worker i of each other that has as many, and the load of a pair of nodes is shared as the
connections of the one are. Who dials from elsewhere has a port by chance, and so a worker by chance.
"""

import random

from nodeagent.proxy.lean import read_file

_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
_PERIOD = 12
"""The least number that 1 to 4 workers all divide: what is right modulo this is right for each number of them."""


def read_port_range() -> range:
    """Of this network namespace; empty when the kernel does not tell."""
    try:
        first, last = map(int, read_file(_RANGE).split())
    except (OSError, ValueError):
        return range(0)
    return range(first, last + 1)


def pick_port(slot: int, ports: range) -> int:
    """One of `ports` that leads to `slot`; 0, which is any, when they have none.

    It may be taken: then whoever dials goes on with any other (dial.py).
    """
    halves = range(ports.start // 2 + (slot - ports.start // 2) % _PERIOD, ports.stop // 2, _PERIOD)
    if not halves:
        return 0
    port = 2 * random.choice(halves) + random.getrandbits(1)  # noqa: S311 - spreading, no secret
    return port if port in ports else 0
