# SPDX-License-Identifier: Apache-2.0
"""Follows one kind of objects for as long as the agent lives: asks what the reflector wants to know, hands on changes.

An API server that is away, refuses, or talks nonsense is asked again with a growing pause, and longer if it says so.
What is known stays known meanwhile.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable

from nodeagent.errors import ControlPlaneError
from nodeagent.kubernetes.api import ApiRefused, ApiServer
from nodeagent.kubernetes.reflector import WATCH_SECONDS, Ask, Change, Expired, Reflector
from nodeagent.upstream.backoff import delay

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 15.0
LASTING_SECONDS = 5.0
"""A watch that lived this long was a good one."""
_WATCH_LIMIT_SECONDS = 2.0 * WATCH_SECONDS + 60.0
"""The server ends it before; one that does not is gone, or does not know how."""

log = logging.getLogger(__name__)


class Follower:
    def __init__(
        self,
        api: ApiServer,
        reflector: Reflector,
        changed: Callable[[Change], None],
        *,
        pick: Callable[[], float] = random.random,
    ) -> None:
        self.error = ""
        """Why there is no news; empty while it is followed."""
        self.since = 0.0
        """When that began, Unix seconds; 0: never followed."""
        self._api, self._reflector, self._changed, self._pick = api, reflector, changed, pick
        self._failures = 0

    async def run(self) -> None:
        """Ends only by cancellation, or by a bug."""
        while True:
            began, ask = time.monotonic(), self._reflector.ask(self._pick())
            try:
                await self._ask(ask)
            except ControlPlaneError as error:
                pause = self._ended(error, time.monotonic() - began)
            else:
                pause = self._pause(time.monotonic() - began) if ask.is_watch else 0.0
            await asyncio.sleep(pause)

    async def _ask(self, ask: Ask) -> None:
        if not ask.is_watch:
            change = self._reflector.listed(await self._api.fetch(ask.target))
            if change is not None:
                self._changed(change)
            return
        async with self._api.lines(ask.target, _WATCH_LIMIT_SECONDS) as lines:
            self._followed()
            async for line in lines:
                event = self._reflector.told(line)
                self._failures = 0  # it serves, even if it is cut again and again
                if event is not None:
                    self._changed(event)

    def _followed(self) -> None:
        if self.error or not self.since:
            self.error, self.since = "", time.time()
            log.info("following the Kubernetes API at %s", self._api.name)

    def _ended(self, error: ControlPlaneError, lasted: float) -> float:
        """Tells of it. Seconds to wait."""
        if isinstance(error, ApiRefused):
            self._reflector.refused(error.status)
        if isinstance(error, Expired):
            log.info("%s; listing again", error)
        else:
            if str(error) != self.error:  # the same line every 15 s for hours helps nobody
                log.warning("%s. %s", error, error.check)
            self.error, self.since = str(error), time.time()
        pause = self._pause(lasted)
        return max(pause, error.retry_seconds) if isinstance(error, ApiRefused) else pause

    def _pause(self, lasted: float) -> float:
        """A watch that ends at once, however politely, must not be asked for in a circle."""
        self._failures = 1 if lasted > LASTING_SECONDS else self._failures + 1
        return delay(self._failures, FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, self._pick)
