# SPDX-License-Identifier: Apache-2.0
"""Which events are logged: one level for everything, and others for some scopes. Read and put in force here alone.

The words are those of `istioctl ztunnel-config log`: `debug`, or `info,xds:debug,access:off`. A scope is what a log
line names, or a part of its front: `xds` is all of `xds.client`, too. `access` is the access log.
"""

import logging
import re
from typing import Self

import msgspec

import nodeagent
from nodeagent.errors import ConfigError

ACCESS = "access"
LEVELS = ("trace", "debug", "info", "warn", "error", "off")
_ALIASES = {"warning": "warn", "critical": "error"}
_NUMBERS = {
    "trace": logging.DEBUG,  # nothing here says more than debug
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
_PACKAGE = "nodeagent."
_scopes_in_force: set[str] = set()
"""Loggers of this process whose level is set here."""
_SCOPE = re.compile(r"[a-z_]+(\.[a-z_0-9]+)*")


class LogLevels(msgspec.Struct, frozen=True):
    everything: str = "info"
    scopes: dict[str, str] = {}

    @classmethod
    def parse(cls, text: str, base: "LogLevels | None" = None) -> Self:
        """`text` on top of `base`, where it stays silent. Raises ConfigError, which says what is expected."""
        everything = base.everything if base is not None else "info"
        scopes = dict(base.scopes) if base is not None else {}
        for clause in text.split(","):
            scope, separator, level = re.sub("=", ":", clause.strip(), count=1).rpartition(":")
            if not separator:
                everything = _level(level)
            elif _is_scope(scope):
                scopes[scope] = _level(level)
            else:
                raise ConfigError(
                    f"{scope!r} is no scope of the log",
                    check=f"Scopes are what log lines name, such as xds or proxy.tunnel; and `{ACCESS}`.",
                )
        return cls(everything, scopes)

    def __str__(self) -> str:
        return ",".join([self.everything, *(f"{scope}:{level}" for scope, level in sorted(self.scopes.items()))])

    def access(self) -> str:
        """Of the access log. That says what became of connections, so it is not silenced with what the process says."""
        follows = "debug" if _NUMBERS[self.everything] == logging.DEBUG else "info"
        return self.scopes.get(ACCESS, follows)


def put_in_force(levels: LogLevels) -> None:
    """For this process, in place of what was in force."""
    while _scopes_in_force:  # and no others: a logger may have a level of its own, as that of the audit has
        logging.getLogger(_scopes_in_force.pop()).setLevel(logging.NOTSET)
    logging.getLogger().setLevel(_NUMBERS[levels.everything])
    for scope, level in levels.scopes.items():
        if scope != ACCESS:
            logging.getLogger(_PACKAGE + scope).setLevel(_NUMBERS[level])
            _scopes_in_force.add(_PACKAGE + scope)


def is_told(level: str, threshold: str) -> bool:
    """Whether an event of `level` is written where `threshold` is in force."""
    return LEVELS.index(level) >= LEVELS.index(threshold)


def _level(text: str) -> str:
    level = _ALIASES.get(text, text)
    if level not in LEVELS:
        raise ConfigError(f"{text!r} is no level of the log", check=f"Levels are {', '.join(LEVELS)}.")
    return level


def _is_scope(text: str) -> bool:
    if text == ACCESS:
        return True
    if not _SCOPE.fullmatch(text):
        return False
    from pathlib import Path  # for whoever reads such texts: a worker never does

    place = Path(nodeagent.__path__[0]).joinpath(*text.split("."))  # looked for, not imported
    return place.is_dir() or place.with_suffix(".py").is_file()
