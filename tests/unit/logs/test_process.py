# SPDX-License-Identifier: Apache-2.0
"""An event is one line; nothing in a message or a traceback can pass for another."""

import io
import json
import logging
import os

import pytest

from nodeagent.logs.process import set_up_logging

pytestmark = pytest.mark.usefixtures("own_logging")


def _failing() -> None:
    raise RuntimeError("first\n2026-01-01T00:00:00Z\tinfo\taccess\tforged")


def test_text() -> None:
    output = io.StringIO()
    set_up_logging("text", "info", output)
    logging.getLogger("nodeagent.xds.client").warning("lost\nthe %s", "stream")
    logging.getLogger("nodeagent").debug("not asked for")
    (line,) = output.getvalue().splitlines()
    assert line.split("\t")[1:] == ["warn", "xds.client", "lost\\nthe stream"]
    assert line.split("\t")[0].endswith("Z")


def test_a_traceback_is_indented() -> None:
    output = io.StringIO()
    set_up_logging("text", "error", output)
    try:
        _failing()
    except RuntimeError:
        logging.getLogger("nodeagent").exception("a bug")
    first, *rest = output.getvalue().splitlines()
    assert first.endswith("\terror\tnodeagent\ta bug")
    assert rest
    assert all(row.startswith("\t") for row in rest)


def test_json() -> None:
    output = io.StringIO()
    set_up_logging("json", "debug", output)
    try:
        _failing()
    except RuntimeError:
        logging.getLogger("nodeagent.agent").exception('say "hello"')
    (line,) = output.getvalue().splitlines()
    event = json.loads(line)
    assert (event["level"], event["scope"], event["message"]) == ("error", "agent", 'say "hello"')
    assert "RuntimeError: first\n" in event["trace"]


def test_a_second_set_up_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    set_up_logging("text", "info", first)
    set_up_logging("text", "info", second)
    logging.getLogger("nodeagent").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


def test_grpc_writes_errors_alone_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_logging("json", "info", io.StringIO())
    assert os.environ["GRPC_VERBOSITY"] == "INFO"
    monkeypatch.delenv("GRPC_VERBOSITY")
    set_up_logging("json", "info", io.StringIO())
    assert os.environ["GRPC_VERBOSITY"] == "ERROR"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_one_of_several_alike_processes_says_which_it_is(log_format: str) -> None:
    stream = io.StringIO()
    set_up_logging(log_format, "info", stream, part="worker1")
    logging.getLogger("nodeagent.proxy.control").info("serving on")
    assert "worker1.proxy.control" in stream.getvalue()
