# SPDX-License-Identifier: Apache-2.0
"""The `:authority` of a CONNECT: which address or host, and which port, the client wants to reach."""

import re
from functools import lru_cache

import msgspec

from nodeagent.model.address import Ip, Port, parse_ip, split_host_port

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?!\d+\Z){_LABEL}")
"""Lower case. The last label is no number, so that `10.0.0.256` is neither an address nor a name."""


class Authority(msgspec.Struct, frozen=True, gc=False):
    """Exactly one of `ip` and `hostname` is set."""

    port: Port
    ip: Ip | None = None
    hostname: str = ""


@lru_cache(maxsize=1024)
def parse_authority(text: str) -> Authority:
    """From `10.0.0.2:8080`, `[fd00::1]:8080` or `name.ns.svc.cluster.local:80`.

    Raises ValueError for anything else: no port, port 0, user info, a zone index, brackets around something else.
    """
    host, port = split_host_port(text)
    if ":" in host:
        return Authority(port, ip=parse_ip(host))
    try:
        return Authority(port, ip=parse_ip(host))
    except ValueError:
        hostname = host.lower()
        if not _HOSTNAME.fullmatch(hostname):
            raise ValueError(f"{text[:64]!r} has neither an address nor a host name") from None
        return Authority(port, hostname=hostname)
