# SPDX-License-Identifier: Apache-2.0
"""Holds the snapshot in force, and wakes the streams when it is replaced: first those of nodes that enforce the change.

A change is several messages of a stream, which are written one after the other, and with each of them all other streams
have their turn. So the others are woken when those who are concerned have everything: at 200 nodes a policy would be in
force 50 ms later else.
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterator

from nodeagent.controlplane.snapshot import Snapshot

HEAD_START_SECONDS = 0.02
"""At most: a stream that is read slowly must not keep the others from theirs."""


class Publisher:
    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._listeners: dict[asyncio.Event, str] = {}
        self._ahead: set[asyncio.Event] = set()
        """Concerned by what was published, and not served yet."""
        self._behind: dict[asyncio.Event, None] = {}
        """To be woken after them, in this order."""
        self._head_start: asyncio.TimerHandle | None = None

    def publish(self, snapshot: Snapshot, first: Collection[str] = ()) -> None:
        """Streams of the nodes in `first` are served before the others."""
        self.snapshot = snapshot
        for listener, node in self._listeners.items():
            if node in first:
                self._ahead.add(listener)
                listener.set()
            else:
                self._behind[listener] = None
        if self._ahead and self._head_start is None:
            loop = asyncio.get_running_loop()
            self._head_start = loop.call_later(HEAD_START_SECONDS, self._wake_others)
        self._follow_up()

    def served(self, listener: asyncio.Event) -> None:
        """Its stream has been given all that is due."""
        self._ahead.discard(listener)
        self._follow_up()

    @contextlib.contextmanager
    def listening(self, node: str) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        self._listeners[changed] = node
        try:
            yield changed
        finally:
            del self._listeners[changed]
            self._behind.pop(changed, None)
            self.served(changed)

    @property
    def streams(self) -> int:
        return len(self._listeners)

    def _follow_up(self) -> None:
        if not self._ahead:
            self._wake_others()

    def _wake_others(self) -> None:
        if self._head_start is not None:
            self._head_start.cancel()
            self._head_start = None
        self._ahead.clear()
        behind, self._behind = self._behind, {}
        for listener in behind:
            listener.set()
