# SPDX-License-Identifier: Apache-2.0
"""What a lab refuses before it touches anything. What it builds is proven in tests/e2e/test_lab.py."""

import os

import pytest

from nodeagent.errors import ConfigError, MissingPrivilege
from nodeagent.lab.lab import Lab
from nodeagent.lab.topology import Topology


@pytest.fixture
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.usefixtures("ordinary_user")
def test_only_root_can_build_one() -> None:
    with pytest.raises(MissingPrivilege) as caught, Lab(Topology.of(["node-a"])):
        pytest.fail("it must not have been built")
    assert "sudo" in caught.value.check


@pytest.mark.usefixtures("ordinary_user")
def test_only_root_can_clean() -> None:
    with pytest.raises(MissingPrivilege):
        Lab.clean_all()


def test_an_outside_host_that_was_not_asked_for_is_missed_by_name() -> None:
    with pytest.raises(ConfigError, match="no outside host"):
        _ = Lab(Topology.of(["node-a"])).outside
