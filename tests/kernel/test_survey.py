# SPDX-License-Identifier: Apache-2.0
"""What `nodeagent check` finds on a node where something is in the way, and that it is well again afterwards."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.kernel import probe as probing
from nodeagent.kernel import syscall, tcx
from nodeagent.kernel.maps import Maps
from nodeagent.kernel.netns import MS_BIND, OWN_NETNS, enter_netns, mount
from nodeagent.kernel.netns_folder import netns_folder
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.probe import Probe
from nodeagent.kernel.survey import probe_all, probe_node
from nodeagent.model.mark import Marks
from tests.kernel.conftest import UNSPEC, Node, load_verdict
from tests.kernel.namespaces import own_namespaces, run

pytestmark = pytest.mark.kernel

_MS_SHARED = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _bcc_is_asked_once() -> Iterator[None]:
    """By a process of its own each time, and it is not what these tests change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "bcc_importable", functools.cache(probing.bcc_importable))
        yield


@pytest.fixture(params=["tcx", "clsact"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    """A node for one test."""
    if request.param == "tcx" and not tcx.is_supported():
        pytest.skip("this kernel has no TCX (Linux 6.6)")
    with own_namespaces():
        made = Node(tmp_path, request.param)
        try:
            made.enrol(made.a)
            yield made
        finally:
            made.close()


def _probe(node: Node, name: str, marks: Marks | None = None) -> Probe:
    (found,) = [probe for probe in probe_all(str(node.bpffs), marks or Marks()) if probe.name == name]
    return found


def test_a_node_with_an_agent_has_no_conflict(own: Node) -> None:
    names = ("programs", "netkit", "marks", "forwarding", "pins", "crossing", "guards")
    probes = [probe for probe in probe_all(str(own.bpffs)) if probe.name in names]
    assert len(probes) == len(names)
    assert [probe for probe in probes if not probe.ok] == []


def test_a_foreign_filter_before_ours(own: Node) -> None:
    program = Pins(own.bpffs).programs / "to_pod"
    run("tc qdisc add dev va clsact 2>/dev/null || true")
    run(f"tc filter add dev va egress prio 1 bpf da object-pinned {program}")
    probe = _probe(own, "programs")
    if own.attach == "tcx":
        assert probe.ok, "it comes behind TCX"
    else:
        assert not probe.ok
        assert probe.evidence.startswith("va egress: ")


@pytest.mark.skipif(not tcx.is_supported(), reason="this kernel has no TCX (Linux 6.6)")
def test_a_foreign_tcx_program_before_ours(own: Node) -> None:
    program = load_verdict(UNSPEC)
    link = syscall.link_create(program, own.ifindex(own.a), 46, 8)
    os.close(program)
    probe = _probe(own, "programs")
    assert not probe.ok
    assert probe.evidence == "va ingress: a program without a name (tcx)"
    syscall.link_detach(link)
    os.close(link)
    assert _probe(own, "programs").ok


def test_a_routing_rule_that_looks_at_our_bits(own: Node) -> None:
    assert _probe(own, "marks").ok
    run("ip rule add fwmark 0x1000/0x1000 lookup 77 pref 4321")
    probe = _probe(own, "marks")
    assert not probe.ok
    assert "ip rule 4321 (0x1000)" in probe.evidence
    assert _probe(own, "marks", Marks(0x8, 0xF)).ok
    assert "Calico" in _probe(own, "marks", Marks(0x80000, 0xF0000)).evidence


def test_a_node_that_forwards_nothing(own: Node) -> None:
    assert _probe(own, "forwarding").evidence == "net.ipv4.ip_forward is 1"
    run("sysctl -qw net.ipv4.ip_forward=0")
    probe = _probe(own, "forwarding")
    assert not probe.ok
    assert "beside" in probe.evidence


def test_a_container_is_no_node(own: Node) -> None:
    """Its own device is a veth pair with an end elsewhere, too, but that is where it has its network from."""
    run("sysctl -qw net.ipv4.ip_forward=0", own.a.netns)
    with enter_netns(own.a.netns):
        (found,) = [probe for probe in probe_node(str(own.bpffs)) if probe.name == "forwarding"]
    assert (found.ok, found.evidence) == (True, "net.ipv4.ip_forward is 0, and no device of a pod is here")


@pytest.mark.any_kernel
def test_a_folder_that_gets_no_mounts(tmp_path: Path) -> None:
    with own_namespaces():
        mount(str(tmp_path), tmp_path, flags=MS_BIND)
        (tmp_path / "cni-1").touch()
        mount(OWN_NETNS, tmp_path / "cni-1", flags=MS_BIND)
        probe = netns_folder(str(tmp_path))
        assert (probe.ok, probe.is_needed) == (False, True)
        assert "without propagation" in probe.evidence
        mount("none", tmp_path, flags=_MS_SHARED)
        assert netns_folder(str(tmp_path)).evidence == f"1 network namespaces in {tmp_path}"


def test_pins_of_another_layout(own: Node) -> None:
    (Pins(own.bpffs).root / "0123456789ab").mkdir()
    probe = _probe(own, "pins")
    assert not probe.ok
    assert "0123456789ab" in probe.evidence
    own.enrol(own.a)
    assert _probe(own, "pins").ok


def test_a_crossing_that_was_taken_away(own: Node) -> None:
    run("ip link del na0")
    assert not _probe(own, "crossing").ok
    own.enrol(own.a)
    assert _probe(own, "crossing").ok


def test_connections_that_came_past_a_guard(own: Node) -> None:
    maps = Maps(Pins(own.bpffs).maps)
    try:
        index = own.ifindex(own.a)
        count = maps.pod_counts.find(index)
        assert count is not None
        maps.pod_counts.put(index, count._replace(unasked=3, admitted=1))
    finally:
        maps.close()
    probe = _probe(own, "guards")
    assert not probe.ok
    assert "va: " in probe.evidence
    assert "EGRESS_SKIPPED" in probe.advice
