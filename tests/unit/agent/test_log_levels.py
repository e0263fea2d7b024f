# SPDX-License-Identifier: Apache-2.0
"""Levels change for everybody at once, or for nobody."""

import pytest

from nodeagent.agent.log_levels import AgentLogLevels
from nodeagent.errors import ConfigError
from nodeagent.logs.levels import LogLevels
from nodeagent.telemetry.access_log import AccessLog

pytestmark = pytest.mark.usefixtures("own_logging")


def test_a_change_reaches_all_and_a_reset_goes_back() -> None:
    told: list[str] = []
    levels = AgentLogLevels("warning", (lambda levels: told.append(str(levels)), AccessLog(told.append).follow))
    assert str(levels.current) == "warn"
    levels.change("debug")
    levels.change("xds:off")
    levels.change("access:off", is_reset=True)
    levels.change("", is_reset=True)
    assert told == ["debug", "debug,xds:off", "warn,access:off", "warn"]
    assert levels.current == LogLevels("warn")


def test_a_mistake_changes_nothing() -> None:
    told: list[LogLevels] = []
    levels = AgentLogLevels("info", (told.append,))
    with pytest.raises(ConfigError):
        levels.change("debug,nowhere:off")
    assert (told, str(levels.current)) == ([], "info")
