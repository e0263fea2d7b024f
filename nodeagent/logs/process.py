# SPDX-License-Identifier: Apache-2.0
"""Set-up of the process log: one line an event on standard error, in Istio's text form or as JSON.

A traceback follows its line indented by a tab in the text form, so that no line of it can pass for an event.
"""

import json
import logging
import os
import sys
from typing import TextIO

from nodeagent.logs.escape import one_line
from nodeagent.logs.moment import timestamp

LEVELS = ("debug", "info", "warning", "error")
_LEVELS = {"WARNING": "warn", "CRITICAL": "error"}
_GRPC_LEVEL = "GRPC_VERBOSITY"
"""gRPC writes to standard error by itself, in a form of its own, a line for every handshake that fails. It reads this
variable when it is loaded. What failed stands in our line about the call."""


def set_up_logging(log_format: str, level: str, stream: TextIO | None = None, *, part: str = "") -> None:
    """`log_format` is `text` or `json`, `level` is `debug`, `info`, `warning` or `error`. Replaces what was set up.

    `part` says which of several alike processes writes; it stands in front of the scope.

    Before gRPC is loaded, or its lines stand between ours.
    """
    os.environ.setdefault(_GRPC_LEVEL, "ERROR")
    output = logging.StreamHandler(stream if stream is not None else sys.stderr)
    output.setFormatter(JsonLines(part) if log_format == "json" else TextLines(part))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(output)
    set_level(level)
    logging.captureWarnings(capture=True)


def set_level(level: str) -> None:
    """One of LEVELS, from here on."""
    logging.getLogger().setLevel(level.upper())


class _Lines(logging.Formatter):
    def __init__(self, part: str = "") -> None:
        super().__init__()
        self._part = f"{part}." if part else ""

    def scope(self, record: logging.LogRecord) -> str:
        return self._part + record.name.removeprefix("nodeagent.")


class TextLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{timestamp(record.created)}\t{_level(record)}\t{self.scope(record)}\t{one_line(record.getMessage())}"
        trace = _trace(self, record)
        return line + "".join(f"\n\t{one_line(row)}" for row in trace.splitlines())


class JsonLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "level": _level(record),
            "time": timestamp(record.created),
            "scope": self.scope(record),
            "message": record.getMessage(),
        }
        trace = _trace(self, record)
        return json.dumps(line | {"trace": trace} if trace else line, separators=(",", ":"))


def _level(record: logging.LogRecord) -> str:
    return _LEVELS.get(record.levelname, record.levelname.lower())


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""
