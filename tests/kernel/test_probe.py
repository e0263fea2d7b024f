# SPDX-License-Identifier: Apache-2.0
"""The probes on this machine, which runs the product: all that is needed is there."""

from pathlib import Path

import pytest

from nodeagent.kernel.survey import probe_all
from tests.kernel.conftest import Node
from tests.kernel.namespaces import run

pytestmark = pytest.mark.kernel


def test_everything_that_is_needed_is_here(node: Node) -> None:
    before = run("ip -o link; tc qdisc")
    probes = probe_all(str(node.bpffs))
    assert [probe for probe in probes if probe.is_needed and not probe.ok] == []
    assert all(probe.evidence for probe in probes)
    assert run("ip -o link; tc qdisc") == before


def test_what_is_missing_comes_with_advice(node: Node, tmp_path: Path) -> None:
    (bpffs,) = [probe for probe in probe_all(str(tmp_path)) if probe.name == "bpffs"]
    assert not bpffs.ok
    assert str(tmp_path) in bpffs.evidence
    assert "mount -t bpf" in bpffs.advice
