# SPDX-License-Identifier: Apache-2.0
"""Address blocks of policies, as they are written. Pure.

istiod sends an address as it stands before the slash, bits behind the prefix and all, and an IPv4-mapped one as the
IPv6 address that it looks like. Neither matters for a verdict; what is told is the same, though.
"""

import ipaddress

from nodeagent.controlplane.fields import parse_block
from nodeagent.model.address import Cidr


class WrittenBlock(Cidr, frozen=True, array_like=True, gc=False):
    """A block that is not written in its canonical form, such as 10.0.0.5/16."""

    written: str


def parse_written_block(text: str) -> Cidr:
    """Raises ValueError."""
    block = parse_block(text)
    if ipaddress.ip_interface(text) == ipaddress.ip_interface(str(block)):
        return block
    return WrittenBlock(block.network, block.bits, text)


def written_interface(block: Cidr) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Address and length as they are written."""
    return ipaddress.ip_interface(block.written if isinstance(block, WrittenBlock) else str(block))
