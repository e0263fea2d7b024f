# SPDX-License-Identifier: Apache-2.0
"""Who has an address, in the order of arrival.

Of an address there is one owner, as a rule, and of addresses there are tens of thousands. So one owner is kept as it
is, several as a tuple, and a network's name once for all of its addresses: an entry costs what a dict needs for it.
"""

from collections.abc import Iterator, Sequence

from nodeagent.model.address import Ip


class AddressIndex:
    """Owners are named by texts, which mean something to the caller."""

    def __init__(self) -> None:
        self._networks: dict[str, dict[Ip, str | tuple[str, ...]]] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def add(self, network: str, ip: Ip, owner: str) -> None:
        """An owner that is there already keeps its place."""
        owners = self.find(network, ip)
        if not owners:
            self._networks.setdefault(network, {})[ip] = owner
        elif owner not in owners:
            self._networks[network][ip] = (*owners, owner)

    def remove(self, network: str, ip: Ip, owner: str) -> None:
        owners = self.find(network, ip)
        if owner not in owners:
            return
        left = tuple(one for one in owners if one != owner)
        addresses = self._networks[network]
        if left:
            addresses[ip] = left[0] if len(left) == 1 else left
            return
        del addresses[ip]
        if not addresses:
            del self._networks[network]

    def find(self, network: str, ip: Ip) -> Sequence[str]:
        """Oldest first."""
        addresses = self._networks.get(network)
        owners = addresses.get(ip) if addresses is not None else None
        if owners is None:
            return ()
        return (owners,) if isinstance(owners, str) else owners

    def has(self, network: str, ip: Ip) -> bool:
        addresses = self._networks.get(network)
        return addresses is not None and ip in addresses

    def addresses(self, network: str) -> Iterator[Ip]:
        return iter(self._networks.get(network, ()))
