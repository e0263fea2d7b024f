# SPDX-License-Identifier: Apache-2.0
"""Everything that `nodeagent check` tells: what is needed, what this kernel can do, what gets in the way here."""

from nodeagent.errors import KernelError
from nodeagent.kernel.conflicts import probe_conflicts
from nodeagent.kernel.features import probe_features
from nodeagent.kernel.probe import Probe, probe_needs
from nodeagent.model.mark import DEFAULT_MARKS, Marks


def probe_all(bpffs: str, marks: Marks = DEFAULT_MARKS, *, cgroup: str = "") -> list[Probe]:
    """Takes about half a second. What cannot be looked at is a finding too."""
    try:
        conflicts = probe_conflicts(bpffs, marks)
    except (OSError, KernelError) as error:
        conflicts = [Probe("conflicts", ok=False, evidence=str(error), advice="Run it as root.", is_needed=False)]
    return [*probe_needs(bpffs, cgroup), *probe_features(), *conflicts]
