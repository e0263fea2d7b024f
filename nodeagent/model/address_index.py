# SPDX-License-Identifier: Apache-2.0
"""Who has an address, or a name, in the order of arrival.

Of an address there is one owner, as a rule, and of addresses there are tens of thousands. So one owner is kept as it
is, several as a tuple, and a network's name once for all of its addresses: an entry costs what a dict needs for it.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

from nodeagent.model.address import Ip

_Key = TypeVar("_Key", bound=Hashable)


class Owners(Generic[_Key]):
    """They are named by texts, which mean something to the caller. Adding and removing is linear in those of a key."""

    def __init__(self) -> None:
        self._owners: dict[_Key, str | tuple[str, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._owners)

    def __contains__(self, key: _Key) -> bool:
        return key in self._owners

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._owners)

    def add(self, key: _Key, owner: str) -> None:
        """An owner that is there already keeps its place."""
        owners = self.find(key)
        if not owners:
            self._owners[key] = owner
        elif owner not in owners:
            self._owners[key] = (*owners, owner)

    def remove(self, key: _Key, owner: str) -> None:
        owners = self.find(key)
        if owner not in owners:
            return
        left = tuple(one for one in owners if one != owner)
        if left:
            self._owners[key] = left[0] if len(left) == 1 else left
        else:
            del self._owners[key]

    def find(self, key: _Key) -> Sequence[str]:
        """Oldest first."""
        owners = self._owners.get(key)
        if owners is None:
            return ()
        return (owners,) if isinstance(owners, str) else owners


class AddressIndex:
    """Owners of addresses, by network."""

    def __init__(self) -> None:
        self._networks: dict[str, Owners[Ip]] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def add(self, network: str, ip: Ip, owner: str) -> None:
        """An owner that is there already keeps its place."""
        if network not in self._networks:
            self._networks[network] = Owners()
        self._networks[network].add(ip, owner)

    def remove(self, network: str, ip: Ip, owner: str) -> None:
        owners = self._networks.get(network)
        if owners is not None:
            owners.remove(ip, owner)
            if not owners:
                del self._networks[network]

    def find(self, network: str, ip: Ip) -> Sequence[str]:
        """Oldest first."""
        owners = self._networks.get(network)
        return owners.find(ip) if owners is not None else ()

    def has(self, network: str, ip: Ip) -> bool:
        owners = self._networks.get(network)
        return owners is not None and ip in owners

    def addresses(self, network: str) -> Iterator[Ip]:
        return iter(self._networks.get(network, ()))
