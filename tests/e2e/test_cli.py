# SPDX-License-Identifier: Apache-2.0
"""The command line in front of a real agent: a dump answers as the agent did."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from nodeagent.lab.demo.stage import Stage, command, running
from tests.e2e.scene import NODE, played

pytestmark = pytest.mark.e2e

STILL = ("pods", "workloads", "services", "policies", "certs", "explain shop/web shop/db:80", "version")
"""What does not change while nothing happens, but for ages."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage, played(stage):
        yield stage


def ran(stage: Stage, *words: str) -> Any:
    done = stage.lab.nodes[NODE].run(command(*words))
    assert done.returncode in {0, 1}, done.stderr
    return json.loads(done.stdout)


def test_a_dump_answers_as_the_agent_did(stage: Stage) -> None:
    done = stage.lab.nodes[NODE].run(command("dump"))
    path = stage.directory / "dump.json"
    path.write_text(done.stdout)
    for words in STILL:
        live, dumped = (ran(stage, *words.split(), "-o", "json", *more) for more in ((), ("-f", str(path))))
        assert without_ages(dumped) == without_ages(live), words
    for words, kind in (("connections", "connections"), ("flows", "flows")):
        rows = ran(stage, words, "-o", "json", "--file", str(path))[kind]
        assert len(rows) >= 3, words


def without_ages(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_ages(one) for name, one in value.items() if not name.endswith("_in_seconds")}
    return [without_ages(one) for one in value] if isinstance(value, list) else value
