# SPDX-License-Identifier: Apache-2.0
"""Levels as istioctl writes them, and what each logger does then."""

import logging

import pytest

from nodeagent.errors import ConfigError
from nodeagent.logs.levels import LogLevels, is_told, put_in_force

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("debug", "debug,xds:error"),
        ("xds.client:debug", "warn,xds:error,xds.client:debug"),
        ("xds=off,info", "info,xds:off"),
        ("warning,access:critical", "warn,access:error,xds:error"),
    ],
)
def test_what_is_said_stands_on_top_of_what_was(text: str, told: str) -> None:
    assert str(LogLevels.parse(text, LogLevels.parse("warn,xds:error"))) == told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("loud", "'loud' is no level"),
        ("", "'' is no level"),
        ("xds:", "'' is no level"),
        ("info,nowhere:debug", "'nowhere' is no scope"),
        ("xds.nowhere:debug", "'xds.nowhere' is no scope"),
        ("..cli:debug", "'..cli' is no scope"),
        (":debug", "'' is no scope"),
    ],
)
def test_what_cannot_be_is_told(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        LogLevels.parse(text)
    assert caught.value.check


def test_in_force_is_what_was_said_last() -> None:
    client, other = logging.getLogger("nodeagent.xds.client"), logging.getLogger("nodeagent.hbone.connection")
    put_in_force(LogLevels.parse("warn,xds:debug"))
    assert (client.isEnabledFor(logging.DEBUG), other.isEnabledFor(logging.INFO)) == (True, False)
    put_in_force(LogLevels.parse("info"))
    assert (client.isEnabledFor(logging.DEBUG), other.isEnabledFor(logging.INFO)) == (False, True)
    put_in_force(LogLevels.parse("off"))
    assert not other.isEnabledFor(logging.CRITICAL)


@pytest.mark.parametrize(
    ("levels", "access"), [("info", "info"), ("debug", "debug"), ("off", "info"), ("error,access:warn", "warn")]
)
def test_the_access_log_is_not_silenced_with_the_process(levels: str, access: str) -> None:
    assert LogLevels.parse(levels).access() == access


def test_is_told() -> None:
    assert [level for level in ("debug", "info", "warn", "error") if is_told(level, "warn")] == ["warn", "error"]
    assert not is_told("error", "off")


def test_a_logger_with_a_level_of_its_own_keeps_it() -> None:
    """The audit's lines come whatever the level is."""
    own = logging.getLogger("nodeagent.of_its_own")
    own.setLevel(logging.INFO)
    put_in_force(LogLevels.parse("off,logs:debug"))
    put_in_force(LogLevels.parse("off"))
    assert own.level == logging.INFO
    assert logging.getLogger("nodeagent.logs").level == logging.NOTSET
