# SPDX-License-Identifier: Apache-2.0
"""What a component says of itself agrees with its state."""

import pytest

from nodeagent.admin.state import Health
from nodeagent.agent.picture import kernel_component, xds_component
from nodeagent.xds.client import XdsStatus

STARTED = 100.0
ADDRESS = "https://cp:15012"


@pytest.mark.parametrize(
    ("error", "is_settled", "state", "detail"),
    [
        ("", True, Health.OK, "programs and maps as wanted"),
        ("", False, Health.DEGRADED, "programs and maps are not as wanted yet"),
        ("no bpffs", True, Health.FAILED, "no bpffs"),
        ("no bpffs", False, Health.FAILED, "no bpffs"),
    ],
)
def test_kernel(error: str, *, is_settled: bool, state: Health, detail: str) -> None:
    component = kernel_component(error, is_settled=is_settled, started=STARTED)
    assert (component.name, component.state, component.since, component.detail) == ("kernel", state, STARTED, detail)


@pytest.mark.parametrize(
    ("status", "state", "since", "detail"),
    [
        (
            XdsStatus(ADDRESS, connected_since=200.0, is_ready=True, last_change=300.0),
            Health.OK,
            200.0,
            f"following {ADDRESS}",
        ),
        (
            XdsStatus(ADDRESS, is_ready=True, last_change=300.0, last_error="UNAVAILABLE"),
            Health.DEGRADED,
            300.0,
            "UNAVAILABLE; the last good state stays in force",
        ),
        (
            XdsStatus(ADDRESS, last_error="UNAUTHENTICATED"),
            Health.DEGRADED,
            STARTED,
            "UNAUTHENTICATED; the mesh is not known yet",
        ),
        (
            XdsStatus(ADDRESS),
            Health.DEGRADED,
            STARTED,
            f"connecting to {ADDRESS}; the mesh is not known yet",
        ),
    ],
    ids=["following", "lost", "never heard", "first attempt"],
)
def test_xds(status: XdsStatus, state: Health, since: float, detail: str) -> None:
    component = xds_component(status, STARTED)
    assert (component.name, component.state, component.since, component.detail) == ("xds", state, since, detail)
