# SPDX-License-Identifier: Apache-2.0
"""A node that cannot be looked at is a finding, and no reason to tell nothing."""

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import survey
from nodeagent.kernel.probe import Probe
from nodeagent.model.check import Check


def test_what_cannot_be_looked_at_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> list[Probe]:
        raise KernelError("listing the devices: Operation not permitted")

    needed = Probe(Check.KERNEL, ok=True, evidence="Linux 6.1")
    monkeypatch.setattr(survey, "probe_conflicts", refuse)
    monkeypatch.setattr(survey, "probe_strangers", refuse)
    monkeypatch.setattr(survey, "probe_neighbours", lambda _ports: [])
    monkeypatch.setattr(survey, "probe_needs", lambda _bpffs, _cgroup: [needed])
    monkeypatch.setattr(survey, "probe_features", list)
    found = survey.probe_all("/x")
    assert found[0] == needed
    assert [(probe.name, probe.ok, probe.is_needed) for probe in found[1:]] == [("conflicts", False, False)]
    assert "not permitted" in found[1].evidence
    assert survey.probe_before("/x") == found
    assert survey.probe_node("/x") == found[1:]
