# SPDX-License-Identifier: Apache-2.0
"""What keeps an agent from starting is told before anything is touched; a bug in a callback is counted."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from nodeagent.agent import run as module
from nodeagent.agent.instance import only_instance
from nodeagent.agent.run import Agent, run_agent
from nodeagent.config import Config, make_config
from nodeagent.errors import AlreadyRunning, ConfigError, KernelError, NodeagentError
from nodeagent.kernel.steering import Steering
from nodeagent.telemetry.open_connections import NoSpans


@pytest.fixture(autouse=True)
def _dumpable(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be taken back, and the tests' process goes on."""
    monkeypatch.setattr(module, "forbid_dumps", lambda: None)


def config(run_dir: Path, **more: object) -> Config:
    """Without servers: their ports are the machine's."""
    quiet = {"stats_address": "", "ready_address": "", "admin_address": "", "access_log": ""}
    return make_config({"node": "node-a", "run_dir": str(run_dir), **quiet, **more}, {}, {})


@pytest.mark.parametrize(
    ("setting", "value"),
    [("xds_address", "ftp://nowhere"), ("ca_address", "https://"), ("pods_file", "/nowhere/pods.yaml")],
)
def test_a_setting_that_cannot_be_is_told_before_anything_is_touched(tmp_path: Path, setting: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_agent(config(tmp_path / "run", **{setting: value}), takeover=False)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_second_agent_is_refused(tmp_path: Path) -> None:
    with only_instance(str(tmp_path), takeover=False), pytest.raises(AlreadyRunning):
        run_agent(config(tmp_path), takeover=False)
    assert not (tmp_path / "admin.sock").exists()


def test_without_the_extra_tracing_is_refused_before_anything_runs(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "nodeagent.telemetry.spans", raising=False)
    with pytest.raises(ConfigError, match="--trace-endpoint: opentelemetry") as caught:
        run_agent(config(run_dir, trace_endpoint="http://127.0.0.1:4318/v1/traces"), takeover=False)
    assert "nodeagent[otel]" in caught.value.check


def test_an_error_of_a_part_is_the_agents_error(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_steering: object) -> None:
        raise KernelError("no bpffs here")

    monkeypatch.setattr(Steering, "start", refuse)
    with pytest.raises(KernelError, match="no bpffs here"):
        run_agent(config(run_dir), takeover=False)


def test_of_several_errors_the_first_is_told(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail_together(_agent: Agent) -> None:
        raise ExceptionGroup("parts", [ExceptionGroup("inner", [KernelError("first")]), ConfigError("second")])

    monkeypatch.setattr(Agent, "run", fail_together)
    with pytest.raises(NodeagentError, match="first"):
        run_agent(config(run_dir), takeover=False)


def test_a_bug_is_not_taken_for_an_error(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_down(_agent: Agent) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Agent, "run", break_down)
    with pytest.raises(ZeroDivisionError):
        run_agent(config(run_dir), takeover=False)


def test_an_exception_in_a_callback_is_logged_and_counted(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def only_a_callback(agent: Agent) -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(0.01)

    monkeypatch.setattr(Agent, "_run_parts", only_a_callback)
    agent = Agent(config(run_dir), None, NoSpans())
    asyncio.run(agent.run())
    assert agent._picture.bugs() == 1
    assert "ZeroDivisionError" in caplog.text


def test_it_leaves_when_it_is_told_to(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    async def wait(_agent: Agent) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    monkeypatch.setattr(Agent, "_run_parts", wait)
    run_agent(config(run_dir), takeover=False)
    assert (run_dir / "agent.lock").exists()


def test_it_does_not_wait_for_the_compiler(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With which it begins, where nothing is pinned yet."""

    def compile_for_ever(steering: Steering) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        steering._programs._loading.run(["sleep", "600"])

    monkeypatch.setattr(Steering, "start", compile_for_ever)
    run_agent(config(run_dir), takeover=False)
