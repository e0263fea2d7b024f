# SPDX-License-Identifier: Apache-2.0
"""Takes names and addresses out of text that strangers will read, and puts others in their place. Pure.

The same name has the same pseudonym in all of one report, so who talked to whom is still told. Addresses become others
that are nobody's and are still addresses: IPv4 of 198.18.0.0/15 (RFC 2544), IPv6 of 2001:db8::/32 (RFC 3849), local
MACs; which of them are neighbours is lost. Names are those that the agent knows, and those in identities; whatever else
has such a word in it (a command, a field of JSON) changes with it. Loopback, wildcards and names that every cluster has
stay.
"""

import ipaddress
import re
from collections.abc import Iterable

_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.\d{1,3}){0,3}(?![\w:])")
_MAC = re.compile(r"(?<![\w:])[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}(?![\w:])")
_IDENTITY = re.compile(r"spiffe://([\w.-]+)/ns/([\w.-]+)/sa/([\w.-]+)")
_FIRST_IPV4, _FIRST_IPV6 = int(ipaddress.ip_address("198.18.0.1")), int(ipaddress.ip_address("2001:db8::1"))
_EVERYBODYS = frozenset(
    {"cluster.local", "default", "istio-system", "kube-system", "kube-public", "Kubernetes", "kubernetes", "localhost"}
)
_NOBODYS_MACS = frozenset({"00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"})


class Pseudonyms:
    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._macs: dict[str, str] = {}
        self._count = 0
        self._pattern = re.compile(r"(?!)")
        self._learn(names)

    def hide(self, text: str) -> tuple[str, int]:
        """The text with pseudonyms, and how many there are in it."""
        self._learn(part for found in _IDENTITY.findall(text) for part in found)
        self._count = 0
        text = _MAC.sub(self._mac, text)
        text = _IPV6.sub(self._ip, text)
        text = _IPV4.sub(self._ip, text)
        text = self._pattern.sub(self._name, text)
        return text, self._count

    def _learn(self, names: Iterable[str]) -> None:
        new = sorted({name for name in names if name and not name.isdigit()} - self._names.keys() - _EVERYBODYS)
        if not new:
            return
        for name in new:
            self._names[name] = f"name-{len(self._names) + 1}"
        longest_first = sorted(self._names, key=lambda name: (-len(name), name))
        # Also within a longer word, as a device may be named for its pod; not in the middle of letters and digits.
        self._pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9])")

    def _name(self, found: re.Match[str]) -> str:
        self._count += 1
        return self._names[found[0]]

    def _ip(self, found: re.Match[str]) -> str:
        try:
            ip = ipaddress.ip_address(found[0])
        except ValueError:  # a time, a version
            return found[0]
        if ip.is_loopback or ip.is_unspecified:
            return found[0]
        self._count += 1
        number = len(self._addresses)
        first = _FIRST_IPV4 if ip.version == 4 else _FIRST_IPV6
        return self._addresses.setdefault(str(ip), str(ipaddress.ip_address(first + number)))

    def _mac(self, found: re.Match[str]) -> str:
        mac = found[0].lower()
        if mac in _NOBODYS_MACS:
            return found[0]
        self._count += 1
        number = len(self._macs) + 1
        digits = f"{number:08x}"
        made = "02:00:" + ":".join(digits[start : start + 2] for start in range(0, 8, 2))
        return self._macs.setdefault(mac, made)
