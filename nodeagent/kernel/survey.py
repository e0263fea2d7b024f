# SPDX-License-Identifier: Apache-2.0
"""Everything that `nodeagent check` tells: what is needed, what this kernel can do, what gets in the way here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from nodeagent.errors import KernelError
from nodeagent.kernel.conflicts import probe_conflicts, probe_strangers
from nodeagent.kernel.features import probe_features
from nodeagent.kernel.neighbours import probe_neighbours
from nodeagent.kernel.netns_folder import netns_folder
from nodeagent.kernel.node_settings import probe_settings
from nodeagent.kernel.probe import Probe, probe_needs
from nodeagent.model.check import Check
from nodeagent.model.mark import DEFAULT_MARKS, Marks

NO_PORTS: Mapping[str, str] = MappingProxyType({})


def probe_all(
    bpffs: str,
    marks: Marks = DEFAULT_MARKS,
    *,
    cgroup: str = "",
    netns_dir: str = "",
    ports: Mapping[str, str] = NO_PORTS,
) -> list[Probe]:
    """Takes about half a second. What cannot be looked at is a finding too."""
    return [*_probe_machine(bpffs, cgroup, netns_dir, ports), *probe_node(bpffs, marks)]


def probe_before(
    bpffs: str,
    marks: Marks = DEFAULT_MARKS,
    *,
    cgroup: str = "",
    netns_dir: str = "",
    ports: Mapping[str, str] = NO_PORTS,
) -> list[Probe]:
    """As `probe_all`, without what only an agent leaves here.

    For `ports` see neighbours.py, for `netns_dir` netns_folder.py.
    """
    return [*_probe_machine(bpffs, cgroup, netns_dir, ports), *_looked_at(lambda: probe_strangers(marks))]


def probe_node(bpffs: str, marks: Marks = DEFAULT_MARKS) -> list[Probe]:
    """What is set up here, by us and by others."""
    return _looked_at(lambda: probe_conflicts(bpffs, marks))


def _probe_machine(bpffs: str, cgroup: str, netns_dir: str, ports: Mapping[str, str]) -> list[Probe]:
    return [
        *probe_needs(bpffs, cgroup),
        *probe_settings(),
        netns_folder(netns_dir),
        *probe_neighbours(ports),
        *probe_features(),
    ]


def _looked_at(probes: Callable[[], list[Probe]]) -> list[Probe]:
    try:
        return probes()
    except (OSError, KernelError) as error:
        return [Probe(Check.CONFLICTS, ok=False, evidence=str(error), advice="Run it as root.", is_needed=False)]
