# SPDX-License-Identifier: Apache-2.0
"""Addresses that were given to hosts of ServiceEntries, on disk: what istiod keeps in the objects' status.

    allocated.json   0600  by namespace, name and host

Clients remember addresses, so one must not become another host's because the control plane was restarted. It is written
before agents are told. Addresses of hosts that are gone when it starts are free again. What two have, or somebody has
written meanwhile, `service_entries.allocate` exchanges.
"""

import logging
import threading

import msgspec

from nodeagent.controlplane.service_entries import Allocated
from nodeagent.controlplane.state import SCHEMA, SECRET, StateDirectory
from nodeagent.model.address import parse_ip

_log = logging.getLogger(__name__)

FILE = "allocated.json"


class _Host(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    """Of the ServiceEntry."""
    host: str
    addresses: tuple[str, ...]


class _File(msgspec.Struct, frozen=True):
    schema: str
    hosts: tuple[_Host, ...]


class Allocations:
    """Of one state directory; for several threads."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._wanted: Allocated = {}
        self._written: Allocated = {}
        self._lock = threading.Lock()
        """Around a write: two of them would be in each other's file."""

    def load(self) -> Allocated:
        """What was saved last; nothing, with a warning, if the file is damaged or foreign."""
        data = self._state.read(FILE)
        try:
            self._written = _read(data) if data is not None else {}
        except (ValueError, msgspec.MsgspecError) as error:
            words = "%s is ignored, so hosts of ServiceEntries may get other addresses: %s"
            _log.warning(words, self._state.path / FILE, error)
        self._wanted = self._written
        return self._written

    def save(self, allocated: Allocated) -> None:
        """Nothing if the file says it already. Raises StateFileUnwritable."""
        self._wanted = allocated
        self.save_again()

    def save_again(self) -> None:
        """What `save` was given last, if it could not be written then. Raises StateFileUnwritable."""
        with self._lock:
            wanted = self._wanted
            if wanted is self._written or wanted == self._written:
                return
            hosts = tuple(_Host(*key, tuple(wanted[key])) for key in sorted(wanted))
            self._state.write(FILE, msgspec.json.encode(_File(SCHEMA, hosts)) + b"\n", SECRET)
            self._written = wanted


def _read(data: bytes) -> Allocated:
    """Raises ValueError or MsgspecError."""
    found = msgspec.json.decode(data, type=_File)
    if found.schema != SCHEMA:
        raise ValueError(f"it is of another program or version ({found.schema!r})")
    return {(one.namespace, one.name, one.host): tuple(map(parse_ip, one.addresses)) for one in found.hosts}
