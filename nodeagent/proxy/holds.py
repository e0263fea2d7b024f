# SPDX-License-Identifier: Apache-2.0
"""Connections that wait briefly for something that is on its way: a policy that is named, a certificate.

Each is tried again whenever state has changed, and given up at its deadline.
"""

from collections.abc import Callable

from nodeagent.proxy.loop import Breakable, Loop


class Hold:
    """One connection that waits."""

    def __init__(
        self, holds: "Holds", owner: Breakable, seconds: float, attempt: Callable[[], bool], give_up: Callable[[], None]
    ) -> None:
        self._holds, self._owner = holds, owner
        self._attempt, self._give_up = attempt, give_up
        self._timer = holds.loop.after(seconds, owner, self._expired)

    def release(self) -> None:
        """It waits no more. Releasing twice does nothing."""
        self._timer.cancel()
        self._holds.waiting.pop(self, None)

    def again(self) -> None:
        self._holds.loop.guarded(self._owner, self._try)

    def _try(self) -> None:
        if self._attempt():
            self.release()

    def _expired(self) -> None:
        self.release()
        self._give_up()


class Holds:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.waiting: dict[Hold, None] = {}

    def wait(
        self, owner: Breakable, seconds: float, attempt: Callable[[], bool], give_up: Callable[[], None]
    ) -> Hold | None:
        """Tries at once; None when that was enough. `attempt` returns whether there is nothing left to wait for."""
        return None if attempt() else self.hold(owner, seconds, attempt, give_up)

    def hold(self, owner: Breakable, seconds: float, attempt: Callable[[], bool], give_up: Callable[[], None]) -> Hold:
        """As `wait`, after an attempt in vain."""
        hold = Hold(self, owner, seconds, attempt, give_up)
        self.waiting[hold] = None
        return hold

    def state_changed(self) -> None:
        for hold in tuple(self.waiting):
            if hold in self.waiting:  # an earlier one may have ended it
                hold.again()
