# SPDX-License-Identifier: Apache-2.0
"""Who may see the page: whoever opened it on this machine, never another site in their browser. Pure.

A browser lets any site send requests to loopback, and read the answers too if its own name can be made to mean loopback
(DNS rebinding). So a request has to name loopback itself as its Host, and a page that sends one has to come from here.
What a browser may do with an answer is said by the headers of each.
"""

import ipaddress
from collections.abc import Mapping

_CONTENT = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
HEADERS = (
    ("Content-Security-Policy", "; ".join(f"{what} {whence}" for what, whence in _CONTENT.items())),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
_OWN_SITES = frozenset({"same-origin", "none"})
"""Sec-Fetch-Site of what this page asks for, and of what a person has typed."""


def obstacle(headers: Mapping[str, str]) -> str:
    """Why a request with these headers (by name in lower case) is refused; empty when it is not."""
    host = headers.get("host", "")
    if not is_loopback(host):
        return f"this page is served at loopback, and not as {host[:64]!r}"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return "another site asks for it"
    if headers.get("sec-fetch-site", "none") not in _OWN_SITES:
        return "another site asks for it"
    return ""


def is_loopback(host: str) -> bool:
    """Of a Host header. Its port does not matter: `ssh -L` gives it another one."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit():
        name = host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
