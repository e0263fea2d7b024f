# SPDX-License-Identifier: Apache-2.0
"""Which programs are attached where, as the kernel lists them."""

from pyroute2 import IPRoute

from nodeagent.kernel.listing import list_programs
from nodeagent.kernel.netlink import read_devices


def attached_filters() -> dict[str, list[str]]:
    """Programs on devices of the calling thread's namespace by `<device> <hook>`, ours as `nodeagent/<name>:<id>`."""
    found: dict[str, list[str]] = {}
    with IPRoute() as ip:
        for device in read_devices(ip).values():
            for hook in ("ingress", "egress"):
                programs = list_programs(ip, device.index, is_egress=hook == "egress")
                if programs:
                    found[f"{device.name} {hook}"] = [program.words for program in programs]
    return found
