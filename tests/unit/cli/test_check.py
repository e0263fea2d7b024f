# SPDX-License-Identifier: Apache-2.0
"""What is missing is marked, with what to do; what is only useful does not fail the machine."""

import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass

import pytest

Call = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Probe:
    name: str
    ok: bool
    evidence: str
    advice: str = ""
    is_needed: bool = True


_GOOD = Probe("kernel", ok=True, evidence="Linux 6.1", advice="Linux 5.10 or newer is needed.")
_MISSING = Probe("bpffs", ok=False, evidence="no bpffs is mounted at /x", advice="mount -t bpf bpf /x")
_USEFUL = Probe("cgroup2", ok=False, evidence="not mounted", advice="mount it", is_needed=False)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    found: list[Probe] = []
    module = types.SimpleNamespace(probe_all=lambda bpffs, cgroup: [*found] if (bpffs, cgroup) == ("/x", "") else [])
    monkeypatch.setitem(sys.modules, "nodeagent.kernel.survey", module)
    return found


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        pytest.param(
            [_GOOD, _USEFUL],
            0,
            "✓ kernel         Linux 6.1\n"
            "! cgroup2        not mounted\n"
            "                 mount it\n"
            "this machine can run the agent\n",
            id="able",
        ),
        pytest.param(
            [_GOOD, _MISSING],
            1,
            "✓ kernel         Linux 6.1\n"
            "✗ bpffs          no bpffs is mounted at /x\n"
            "                 mount -t bpf bpf /x\n"
            "this machine cannot run the agent as it is\n",
            id="not able",
        ),
    ],
)
def test_check(call: Call, probes: list[Probe], found: list[Probe], status: int, said: str) -> None:
    probes += found
    assert call("check", "--bpffs", "/x") == (status, said, "")


def test_json(call: Call, probes: list[Probe]) -> None:
    probes += [_MISSING]
    status, out, _ = call("check", "--bpffs", "/x", "-o", "json")
    assert status == 1
    assert json.loads(out) == {
        "schema": "nodeagent/v1",
        "ok": False,
        "checks": [
            {
                "name": "bpffs",
                "ok": False,
                "evidence": "no bpffs is mounted at /x",
                "advice": "mount -t bpf bpf /x",
                "is_needed": True,
            }
        ],
    }
