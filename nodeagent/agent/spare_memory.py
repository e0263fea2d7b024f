# SPDX-License-Identifier: Apache-2.0
"""When what changes of the mesh needed for a moment goes back to the kernel.

malloc keeps what is freed between values that live on: reading, telling and saving a large mesh leaves as much behind
as it takes itself, and a change of one pod a page here and there. To give it back takes some milliseconds of another
thread, so it is done some time after a change, once for all that came meanwhile.
"""

import asyncio
import math
import time
from collections.abc import Callable

from nodeagent.agent.own_process import give_back_memory
from nodeagent.model import sharing

LARGE_CHANGE = 256
"""Values: as many as leave behind what matters, and texts in common that nobody is going to ask for."""
AFTER_LARGE_SECONDS = 10.0
"""The last of them: by then kernel, workers and disk have it."""
AFTER_SMALL_SECONDS = 3.0
"""The first of them since it was given back."""
LOOK_SECONDS = 1.0
"""While the kernel has not the first mesh yet: on a busy machine that takes long."""


class SpareMemory:
    def __init__(self, is_settled: Callable[[], bool], give_back: Callable[[], None] = give_back_memory) -> None:
        """`is_settled`: the kernel has what it needs of the mesh. `give_back` is called in a thread."""
        self._is_settled, self._give_back = is_settled, give_back
        self._due = math.inf
        self._has_large = False
        self._changed = asyncio.Event()

    def changed(self, values: int) -> None:
        """So many values of the mesh have come or changed; what only goes needs little for it."""
        now = time.monotonic()
        if values >= LARGE_CHANGE:
            self._due, self._has_large = now + AFTER_LARGE_SECONDS, True
        elif not self._has_large:
            self._due = min(self._due, now + AFTER_SMALL_SECONDS)
        self._changed.set()

    async def run(self) -> None:
        """Ends only by cancellation."""
        while True:
            await self._changed.wait()
            seconds = self._left()
            while seconds > 0:
                await asyncio.sleep(seconds)
                seconds = self._left()
            self._due = math.inf
            self._changed.clear()
            if self._has_large:
                self._has_large = False
                sharing.forget()
            await asyncio.to_thread(self._give_back)

    def _left(self) -> float:
        seconds = self._due - time.monotonic()
        return LOOK_SECONDS if seconds <= 0 and not self._is_settled() else seconds
