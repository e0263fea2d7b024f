# SPDX-License-Identifier: Apache-2.0
"""What this node logs, changed while it runs: by istioctl, by the command line, by whoever else is let to.

One place for the agent's own log, the access log and the workers; it lasts until the next change or the agent's end.
"""

import logging
from collections.abc import Callable, Sequence

from nodeagent.logs.levels import LogLevels, put_in_force

log = logging.getLogger(__name__)


class AgentLogLevels:
    def __init__(self, configured: str, followers: Sequence[Callable[[LogLevels], None]]) -> None:
        """`configured` is in force already; `followers` are told of each change."""
        self._configured = self.current = LogLevels.parse(configured)
        self._followers = followers

    def change(self, text: str, *, is_reset: bool = False) -> LogLevels:
        """`text` on top of what is in force, or of what is configured. Raises ConfigError; nothing has changed then."""
        base = self._configured if is_reset else self.current
        levels = LogLevels.parse(text, base) if text else base
        if levels != self.current:
            log.info("log levels change from %s to %s", self.current, levels)
        self.current = levels
        put_in_force(levels)
        for follow in self._followers:
            follow(levels)
        return levels
