# SPDX-License-Identifier: Apache-2.0
"""The maps of the kernel part, once they are open, and those of their rows that have several writers.

These are the settings: listeners come and go, verdicts are swapped and suspended, a reconcile plans new ones. Whoever
changes a field reads and writes the whole under one lock, which is held for microseconds.
"""

import socket
import threading

from nodeagent.errors import KernelError
from nodeagent.kernel.codings import Settings
from nodeagent.kernel.listeners import ListenerKind
from nodeagent.kernel.maps import SLOTS, Maps
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.services import Services
from nodeagent.kernel.verdicts import Verdicts


class Tables:
    """Methods raise KernelError, before `open` too."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._maps: Maps | None = None
        self._verdicts: Verdicts | None = None
        self._services: Services | None = None
        self._settings_lock = threading.Lock()
        self._listeners: dict[int, socket.socket] = {}
        """By row, for maps that have to be made again."""

    @property
    def opened(self) -> Maps | None:
        return self._maps

    @property
    def maps(self) -> Maps:
        if self._maps is None:
            raise KernelError("the kernel's maps are not open yet", check="The agent has not started its kernel part.")
        return self._maps

    @property
    def verdicts(self) -> Verdicts:
        if self._verdicts is None:
            self._verdicts = Verdicts(self.maps, self._settings_lock)
        return self._verdicts

    @property
    def services(self) -> Services:
        if self._services is None:
            self._services = Services(self.maps)
        return self._services

    @property
    def slots(self) -> int:
        """Up to the highest that has any listener."""
        return _slots_in_use(self.maps)

    def open(self) -> None:
        self._maps = self._maps or Maps(self._pins.maps)

    def open_again(self, former: Maps) -> None:
        """Those that are pinned now, in place of `former`."""
        with self._settings_lock:
            self._maps, self._verdicts, self._services = Maps(self._pins.maps), None, None
            former.close()
            for row, sock in self._listeners.items():
                if sock.fileno() >= 0:
                    self._maps.listeners.put(row, sock.fileno())

    def close(self) -> None:
        if self._maps is not None:
            self._maps.close()
            self._maps, self._verdicts, self._services = None, None, None

    # ---- rows that have several writers ---------------------------------------------------------------------------

    def put_listener(self, kind: ListenerKind, slot: int, sock: socket.socket | None) -> None:
        """New connections of this kind may go to `sock` from here on; None empties the slot. Raises KernelError."""
        if not 0 <= slot < SLOTS:
            raise ValueError(f"slot {slot} is not below {SLOTS}")
        row = kind * SLOTS + slot
        with self._settings_lock:
            maps = self.maps
            if sock is None:
                maps.listeners.remove(row)
                self._listeners.pop(row, None)
            else:
                maps.listeners.put(row, sock.fileno())
                self._listeners[row] = sock
            settings = maps.read_settings()
            slots = _slots_in_use(maps)
            if slots != settings.slots:
                maps.settings.put(0, settings._replace(slots=slots))

    def put_settings(self, settings: Settings) -> None:
        """As they were planned, but for what has its own writers."""
        with self._settings_lock:  # a listener or a suspension may have come since the plan was made
            maps = self.maps
            now = maps.read_settings()
            generation = now.generation or settings.generation
            maps.settings.put(
                0,
                settings._replace(slots=_slots_in_use(maps), generation=generation, is_changing=now.is_changing),
            )

    def set_settling(self, *, is_settling: bool) -> None:
        with self._settings_lock:
            maps = self.maps
            maps.settings.put(0, maps.read_settings()._replace(is_settling=int(is_settling)))

    def set_registry_only(self, *, is_registry_only: bool) -> None:
        registry_only = int(is_registry_only)
        with self._settings_lock:
            maps = self.maps
            settings = maps.read_settings()
            if settings.registry_only != registry_only:
                maps.settings.put(0, settings._replace(registry_only=registry_only))


def _slots_in_use(maps: Maps) -> int:
    """Up to the highest slot that has any listener."""
    rows = [row for row in range(len(ListenerKind) * SLOTS) if maps.listeners.find(row) is not None]
    return max((row % SLOTS + 1 for row in rows), default=0)
