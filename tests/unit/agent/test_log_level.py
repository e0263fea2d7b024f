# SPDX-License-Identifier: Apache-2.0
"""A level holds for its time, then it is the configured one again, whatever was said in between."""

import asyncio
import logging
import time
from collections.abc import Iterator

import pytest

from nodeagent.agent.log_level import LogLevel
from nodeagent.errors import ConfigError


@pytest.fixture(autouse=True)
def _root_level() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def test_it_comes_back_by_itself() -> None:
    told: list[str] = []

    async def scenario() -> None:
        back = asyncio.Event()

        def tell(word: str) -> None:
            told.append(word)
            if word == "info":
                back.set()

        level = LogLevel("info", tell)
        level.change("debug", 0.01)
        assert logging.getLogger().level == logging.DEBUG
        assert level.until >= time.time() - 1
        await back.wait()
        assert (level.level, level.until) == ("info", 0.0)
        assert logging.getLogger().level == logging.INFO

    asyncio.run(scenario())
    assert told == ["debug", "info"]


def test_without_a_time_it_stays_and_a_reset_ends_it() -> None:
    told: list[str] = []

    async def scenario() -> None:
        level = LogLevel("info", told.append)
        level.change("error", 60.0)
        level.change("debug", 0.0)
        assert level.until == 0.0
        level.change("debug", 60.0)
        level.reset()
        assert level.until == 0.0
        level.reset()

    asyncio.run(scenario())
    assert told == ["error", "debug", "info"]


def test_the_configured_level_needs_no_end() -> None:
    async def scenario() -> None:
        level = LogLevel("info", lambda _word: None)
        level.change("info", 60.0)
        assert level.until == 0.0

    asyncio.run(scenario())


def test_a_time_has_an_end() -> None:
    level = LogLevel("info", lambda _word: None)
    with pytest.raises(ConfigError, match="more than 30 days"):
        level.change("debug", 1e18)
    assert (level.level, level.until) == ("info", 0.0)


def test_what_is_no_level() -> None:
    with pytest.raises(ConfigError, match="'loud' is not a log level"):
        LogLevel("info", lambda _word: None).change("loud", 1.0)
