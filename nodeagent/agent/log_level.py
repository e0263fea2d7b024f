# SPDX-License-Identifier: Apache-2.0
"""The log level of this agent and its workers, changed while they run; by itself it comes back after a time.

Forgotten debug logs fill disks, so a change without an end is what has to be asked for.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from nodeagent.errors import ConfigError
from nodeagent.logs.process import LEVELS, set_level

log = logging.getLogger(__name__)

LONGEST_SECONDS = 30 * 86400.0
"""Longer is meant for good, and should be said so."""


class LogLevel:
    def __init__(self, configured: str, tell: Callable[[str], None]) -> None:
        """`tell` hears each new level: of the workers, of the access log."""
        self.level = self.configured = configured
        self.until = 0.0
        """Unix time at which it is the configured one again; 0: it stays."""
        self._tell = tell
        self._end: asyncio.TimerHandle | None = None

    def change(self, level: str, seconds: float) -> None:
        """For so many seconds; 0: until it is changed again. Raises ConfigError."""
        if level not in LEVELS:
            raise ConfigError(f"{level!r} is not a log level", check=f"Expected: {', '.join(LEVELS)}.")
        if seconds > LONGEST_SECONDS:
            raise ConfigError("a log level for more than 30 days", check="0s: until further notice.")
        self._set(level)
        if seconds and level != self.configured:
            self.until = time.time() + seconds
            self._end = asyncio.get_running_loop().call_later(seconds, self.reset)

    def reset(self) -> None:
        """To what the configuration says."""
        self._set(self.configured)

    def _set(self, level: str) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end, self.until = None, 0.0
        if level != self.level:
            log.warning("log level is %s from here on, after %s", level, self.level)
            self.level = level
            set_level(level)
            self._tell(level)
