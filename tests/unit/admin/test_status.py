# SPDX-License-Identifier: Apache-2.0
"""One word for the node's health, and a line that says why."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nodeagent.admin.state import (
    AgentState,
    Captured,
    CertificateState,
    ComponentState,
    Health,
    PodView,
    WorkerView,
)
from nodeagent.admin.status import status
from nodeagent.model.mesh import Changes, Mesh

StateOf = Callable[..., AgentState]


def _components(state: AgentState) -> dict[str, tuple[str, str]]:
    rows: Any = status(state)["components"]
    return {row["component"]: (row["state"], row["detail"]) for row in rows}


def test_all_is_well(state_of: StateOf) -> None:
    told = status(state_of())
    assert told["state"] == "ok"
    assert told["summary"] == "1/1 pods captured, 6 workloads, 2 services, 2 policies"
    assert _components(state_of()) == {
        "xds": ("ok", "https://istiod:15012"),
        "redirect": ("ok", "1/1 pods captured"),
        "proxy": ("ok", "2/2 workers ready, 2 connections, restarted: 1"),
        "certificates": ("ok", "1/1 identities have a certificate, the next ends 2026-08-21T13:44:13Z"),
        "policy-sync": ("ok", "2 policies"),
        "drops": ("ok", "3 packets: SPOOFED_SOURCE 3"),
    }


@pytest.mark.parametrize(
    ("changes", "component", "health", "words"),
    [
        pytest.param(
            {"pods": (PodView(namespace="a", pod="b", captured=Captured.PENDING, reason="NO_NETNS"),)},
            "redirect",
            "degraded",
            "0/1 pods captured; pending: a/b (NO_NETNS)",
            id="a pod is pending",
        ),
        pytest.param({"workers": ()}, "proxy", "failed", "0/0 workers ready", id="no worker"),
        pytest.param(
            {
                "workers": (
                    WorkerView(slot=0, pid=1, state="ready", since=1.0, generation=1),
                    WorkerView(slot=1, pid=0, state="gone", since=1.0),
                )
            },
            "proxy",
            "degraded",
            "1/2 workers ready",
            id="one worker of two",
        ),
        pytest.param(
            {"workers": (WorkerView(slot=0, pid=1, state="ready", since=1.0, generation=0),)},
            "proxy",
            "ok",
            "workers 0 still apply a change",
            id="a worker applies",
        ),
        pytest.param(
            {"components": (ComponentState("xds", Health.DEGRADED, 1.0, "refused"),)},
            "xds",
            "degraded",
            "refused",
            id="the control plane is away",
        ),
        pytest.param(
            {"rejected": ("shop/bad: a policy without rules",)},
            "policy-sync",
            "degraded",
            "1 resources refused: shop/bad",
            id="a resource was refused",
        ),
    ],
)
def test_what_is_wrong_is_named(
    state_of: StateOf, changes: dict[str, Any], component: str, health: str, words: str
) -> None:
    state = state_of(**changes)
    found, detail = _components(state)[component]
    assert found == health
    assert words in detail
    assert status(state)["state"] == health


def test_an_identity_without_certificate_is_a_failure(state_of: StateOf) -> None:
    (good,) = state_of().certificates
    expired = replace(good, not_after=state_of().now)
    for bad in (expired, replace(good, state=CertificateState.UNAVAILABLE)):
        health, detail = _components(state_of(certificates=(bad,)))["certificates"]
        assert health == "failed"
        assert detail == "0/1 identities have a certificate; without: spiffe://cluster.local/ns/shop/sa/web"


def test_a_policy_that_a_local_workload_awaits_is_a_failure(state_of: StateOf, mesh: Mesh) -> None:
    late = next(workload for workload in mesh.workloads.values() if workload.name == "late")
    fields = {name: getattr(late, name) for name in late.__struct_fields__}
    mesh.apply(Changes(workloads=(type(late)(**fields | {"node": "node-a"}),)))
    health, detail = _components(state_of())["policy-sync"]
    assert health == "failed"
    assert detail.endswith("not received: shop/not-yet")


def test_the_workers_and_the_kernels_numbers_are_there(state_of: StateOf) -> None:
    told = status(state_of())
    assert [worker["pid"] for worker in told["workers"]] == [101, 102]
    assert told["kernel"][1] == {
        "reason": "SPOOFED_SOURCE",
        "packets": 3,
        "words": "source address is not this pod's",
        "drop": True,
    }
