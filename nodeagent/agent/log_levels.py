# SPDX-License-Identifier: Apache-2.0
"""What this node logs, changed while it runs: by istioctl, by the command line, by whoever else is let to.

One place for the agent's own log, the access log and the workers. A change lasts for its time, until the next one, or
until the agent's end: forgotten debug logs fill disks, so `nodeagent log` asks for a time.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from nodeagent.errors import ConfigError
from nodeagent.logs.levels import LogLevels, put_in_force

log = logging.getLogger(__name__)

LONGEST_SECONDS = 30 * 86400.0
"""Longer is meant for good, and should be said so."""


class AgentLogLevels:
    def __init__(self, configured: str, followers: Sequence[Callable[[LogLevels], None]]) -> None:
        """`configured` is in force already; `followers` are told of each change."""
        self._configured = self.current = LogLevels.parse(configured)
        self.until = 0.0
        """Unix time at which what is configured comes back; 0: it stays."""
        self._followers = followers
        self._end: asyncio.TimerHandle | None = None

    def change(self, text: str, *, is_reset: bool = False, seconds: float = 0.0) -> LogLevels:
        """`text` on top of what is in force, or of what is configured; for so many seconds, 0: until something else.

        Raises ConfigError; nothing has changed then.
        """
        base = self._configured if is_reset else self.current
        levels = LogLevels.parse(text, base) if text else base
        if seconds > LONGEST_SECONDS:
            raise ConfigError("log levels for more than 30 days", check="0s: until further notice.")
        if self._end is not None:
            self._end.cancel()
        self._end, self.until = None, 0.0
        if seconds and levels != self._configured:
            self.until = time.time() + seconds
            self._end = asyncio.get_running_loop().call_later(seconds, self.reset)
        if levels != self.current:
            log.info("log levels change from %s to %s", self.current, levels)
        self.current = levels
        put_in_force(levels)
        for follow in self._followers:
            follow(levels)
        return levels

    def reset(self) -> None:
        """To what the configuration says."""
        self.change("", is_reset=True)
