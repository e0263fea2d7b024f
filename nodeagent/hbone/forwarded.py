# SPDX-License-Identifier: Apache-2.0
"""The `forwarded` header (RFC 7239): who the client really is, and which service it addressed.

Only syntax. Whether the sender may be believed is the worker's to judge: the address is the tunnel's own, except behind
a waypoint.
"""

import re

import msgspec

from nodeagent.model.address import Ip, Port, join_host_port, parse_ip

MAX_CHARACTERS = 2048
"""A dozen hops with service names; more is refused unread."""

_TCHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PAIR = re.compile(rf'({_TCHARS})=(?:({_TCHARS})|"((?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*)")')
_SEPARATOR = re.compile(r"[ \t]*,[ \t]*|;")
_USUAL = re.compile(rf'for="([0-9.]+|\[[0-9a-f:]+\]):([1-9][0-9]{{0,4}})"(?:;host=({_TCHARS}))?')
"""As `build_forwarded` and ztunnel say it: one look instead of four."""
_NODE = re.compile(r"(unknown|_[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::([0-9]{1,5}|_[A-Za-z0-9._-]+))?")


class Forwarded(msgspec.Struct, frozen=True, gc=False):
    ip: Ip | None
    """None when the client is absent, `unknown` or obfuscated (§6.2, §6.3)."""
    port: Port | None = None
    host: str | None = None


def build_forwarded(ip: Ip, port: int, host: str = "") -> str:
    """`for="1.2.3.4:567";host=name`; without `host` when no service was addressed."""
    forwarded = f'for="{join_host_port(ip, port)}"'
    if not host:
        return forwarded
    if not re.fullmatch(_TCHARS, host):
        host = '"' + re.sub(r'(["\\])', r"\\\1", host) + '"'
    return f"{forwarded};host={host}"


def parse_forwarded(text: str) -> Forwarded:
    """The first element, which is the first hop's word about the client. All elements must be well-formed.

    Raises ValueError for anything that RFC 7239 §4 does not allow, or beyond MAX_CHARACTERS.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text)} characters of `forwarded`")
    usual = _USUAL.fullmatch(text)
    if usual is not None and int(usual[2]) <= 65535:
        return Forwarded(parse_ip(usual[1].strip("[]")), Port(int(usual[2])), usual[3])
    elements = _parse_elements(text)
    first = elements[0]
    ip, port = _parse_node(first.get("for", "unknown"))
    for element in elements[1:]:
        _parse_node(element.get("for", "unknown"))
    return Forwarded(ip, port, first.get("host"))


def _parse_elements(text: str) -> list[dict[str, str]]:
    """Parameter names in lower case, values without quotes."""
    elements: list[dict[str, str]] = [{}]
    at = 0
    while True:
        pair = _PAIR.match(text, at)
        if pair is None:
            raise ValueError(f"no parameter at character {at} of `forwarded`")
        name, token, quoted = pair[1].lower(), pair[2], pair[3]
        if name in elements[-1]:
            raise ValueError(f"{name!r} twice in one element of `forwarded`")
        elements[-1][name] = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = pair.end()
        if at == len(text):
            return elements
        separator = _SEPARATOR.match(text, at)
        if separator is None:
            raise ValueError(f"neither ';' nor ',' at character {at} of `forwarded`")
        if separator[0] != ";":
            elements.append({})
        at = separator.end()


def _parse_node(text: str) -> tuple[Ip | None, Port | None]:
    node = _NODE.fullmatch(text)
    if node is None:
        raise ValueError(f"{text[:64]!r} names no node")
    name, port = node[1], node[2]
    number = None
    if port is not None and not port.startswith("_"):
        number = int(port)
        if not 1 <= number <= 65535:
            raise ValueError(f"{port} is no port")
    if name == "unknown" or name.startswith("_"):
        return None, None if number is None else Port(number)
    if name.startswith("["):
        if ":" not in name:
            raise ValueError(f"{text[:64]!r} has brackets around something else than IPv6")
        name = name[1:-1]
    return parse_ip(name), None if number is None else Port(number)
