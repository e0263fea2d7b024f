# SPDX-License-Identifier: Apache-2.0
"""A node that cannot be looked at is a finding, and no reason to tell nothing."""

from dataclasses import replace

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import survey
from nodeagent.kernel.probe import Probe
from nodeagent.model.check import Check


def test_what_cannot_be_looked_at_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> list[Probe]:
        raise KernelError("listing the devices: Operation not permitted")

    folder = Probe(Check.NETNS_FOLDER, ok=True, evidence="")
    needed = Probe(Check.KERNEL, ok=True, evidence="Linux 6.1")
    monkeypatch.setattr(survey, "probe_conflicts", refuse)
    monkeypatch.setattr(survey, "probe_strangers", refuse)
    monkeypatch.setattr(survey, "probe_neighbours", lambda _ports: [])
    monkeypatch.setattr(survey, "probe_needs", lambda _bpffs, _cgroup: [needed])
    monkeypatch.setattr(survey, "probe_features", list)
    monkeypatch.setattr(survey, "probe_settings", list)
    monkeypatch.setattr(survey, "netns_folder", lambda directory: replace(folder, evidence=directory))
    found = survey.probe_all("/x", netns_dir="/netns")
    assert found[:2] == [needed, replace(folder, evidence="/netns")]
    assert [(probe.name, probe.ok, probe.is_needed) for probe in found[2:]] == [("conflicts", False, False)]
    assert "not permitted" in found[2].evidence
    assert survey.probe_before("/x", netns_dir="/netns") == found
    assert survey.probe_node("/x") == found[2:]
