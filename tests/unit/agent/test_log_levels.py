# SPDX-License-Identifier: Apache-2.0
"""Levels change for everybody at once, or for nobody; and come back by themselves."""

import asyncio
import time

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


def test_it_comes_back_by_itself() -> None:
    told: list[str] = []

    async def scenario() -> None:
        back = asyncio.Event()

        def follow(levels: LogLevels) -> None:
            told.append(str(levels))
            if levels == LogLevels("info"):
                back.set()

        levels = AgentLogLevels("info", (follow,))
        levels.change("debug", seconds=0.01)
        assert levels.until >= time.time() - 1
        await back.wait()
        assert (str(levels.current), levels.until) == ("info", 0.0)

    asyncio.run(scenario())
    assert told == ["debug", "info"]


def test_the_last_word_counts_for_the_time_too() -> None:
    async def scenario() -> None:
        levels = AgentLogLevels("info", ())
        levels.change("error", seconds=60.0)
        levels.change("debug")
        assert levels.until == 0.0
        levels.change("debug", seconds=60.0)
        levels.change("info", seconds=60.0)
        assert levels.until == 0.0, "what is configured needs no end"
        levels.change("debug", seconds=60.0)
        levels.reset()
        assert levels.until == 0.0

    asyncio.run(scenario())


def test_a_mistake_changes_nothing() -> None:
    told: list[LogLevels] = []
    levels = AgentLogLevels("info", (told.append,))
    with pytest.raises(ConfigError):
        levels.change("debug,nowhere:off")
    with pytest.raises(ConfigError, match="more than 30 days"):
        levels.change("debug", seconds=1e18)
    assert (told, str(levels.current)) == ([], "info")
