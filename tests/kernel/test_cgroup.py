# SPDX-License-Identifier: Apache-2.0
"""Programs on a cgroup: attached once, replaced in place, followed to another cgroup, never in anybody's way."""

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import cgroup as cgroups
from nodeagent.kernel import syscall
from nodeagent.kernel.attach import Program
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.sources import SERVICES
from nodeagent.lab.demo.claims import eventually
from tests.kernel.conftest import Node
from tests.kernel.namespaces import run
from tests.kernel.pods_cgroup import PodsCgroup, pods_cgroup
from tests.kernel.recorded import load_again

pytestmark = pytest.mark.kernel

SOCK_OPS = cgroups.ATTACH_TYPES["sockops"]


@pytest.fixture
def own() -> Iterator[PodsCgroup]:
    with pods_cgroup() as made:
        yield made


@pytest.fixture
def links(node: Node) -> Iterator[Path]:
    node.steering = node.make_steering()  # the test before may have taken everything away
    found = Pins(node.bpffs).links
    yield found
    node.draws_services = False
    cgroups.detach_others(found)


def _program(node: Node, name: str = "sockops") -> Program:
    path = str(Pins(node.bpffs).programs / name)
    with syscall.opened(path) as descriptor:
        return Program(name, syscall.program_info(descriptor).id, path)


def _attached(cgroup: Path) -> list[int]:
    """Ids of the programs that run there, whoever attached them."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Not syscall.attached, which asks for links, too: for devices, since Linux 6.6.
        programs = (ctypes.c_uint32 * 16)()
        asked = struct.pack("=IIIIQI", directory, SOCK_OPS, 0, 0, ctypes.addressof(programs), len(programs))
        _, answer = syscall.bpf(syscall.PROGRAM_QUERY, asked)
        return programs[: struct.unpack_from("=I", answer, 24)[0]]
    finally:
        os.close(directory)


def test_it_is_attached_once_and_replaced_in_place(node: Node, own: PodsCgroup, links: Path) -> None:
    first = _program(node)
    assert cgroups.attach(links, own.path, first) == f"attached sockops to {own.path}"
    assert cgroups.attach(links, own.path, first) == ""
    assert _attached(own.path) == [first.id]
    load_again(Pins(node.bpffs))
    second = _program(node)
    assert second.id != first.id
    assert cgroups.attach(links, own.path, second) == f"replaced sockops at {own.path}"
    assert _attached(own.path) == [second.id]
    assert cgroups.detach_others(links, {"sockops"}) == []
    assert cgroups.detach_others(links) == ["sockops"]
    assert _attached(own.path) == []
    assert cgroups.detach_others(links) == []


def test_another_programs_place_is_never_touched(node: Node, own: PodsCgroup, links: Path) -> None:
    program = _program(node)
    directory = os.open(own.path, os.O_RDONLY | os.O_DIRECTORY)
    with syscall.opened(program.path) as descriptor:
        foreign = syscall.link_create(descriptor, directory, SOCK_OPS, 0)
    try:
        cgroups.attach(links, own.path, program)
        assert _attached(own.path) == [program.id] * 2
        cgroups.detach_others(links)
        assert _attached(own.path) == [program.id]
    finally:
        os.close(foreign)
        os.close(directory)


def test_it_follows_to_another_cgroup_and_to_one_that_was_made_anew(node: Node, own: PodsCgroup, links: Path) -> None:
    program = _program(node)
    pods, others = own.path / "pods", own.path / "others"
    for path in (pods, others):
        path.mkdir()
    cgroups.attach(links, pods, program)
    assert cgroups.attach(links, others, program) == f"attached sockops to {others}"
    assert (_attached(pods), _attached(others)) == ([], [program.id])
    others.rmdir()
    eventually(lambda: cgroups.attached(links)["sockops"].cgroup == 0, 60, "the kernel lets a cgroup go")
    others.mkdir()
    assert cgroups.attach(links, others, program) == f"attached sockops to {others}"
    assert _attached(others) == [program.id]


def test_a_cgroup_that_is_not_there(node: Node, own: PodsCgroup, links: Path) -> None:
    with pytest.raises(KernelError, match="cannot be attached to the cgroup") as caught:
        cgroups.attach(links, own.path / "nowhere", _program(node))
    assert "--cgroup" in caught.value.check


def test_the_kernel_part_attaches_says_so_and_takes_it_away(node: Node, own: PodsCgroup, links: Path) -> None:
    node.cgroup = own.setting
    steering = node.steering = node.make_steering()
    words = f"attached sockops to {own.path}"
    assert words in node.enrol(node.a, node.b)
    assert steering.pods_cgroup == cgroups.PodsCgroup(own.path)
    assert words not in node.enrol(node.a, node.b)
    successor = node.steering = node.make_steering()
    assert words not in node.enrol(node.a, node.b), "a successor finds it"
    assert successor.pods_cgroup == cgroups.PodsCgroup(own.path)
    node.cgroup = "na-none"
    node.steering = node.make_steering()
    assert "detached sockops" in node.enrol(node.a, node.b)
    assert node.steering.pods_cgroup.path is None
    assert "na-none" in node.steering.pods_cgroup.reason
    assert _attached(own.path) == []
    node.cgroup = own.setting
    node.steering = node.make_steering()
    node.enrol(node.a, node.b)
    assert "detached sockops" in node.steering.remove()
    assert _attached(own.path) == []


def test_connect_is_looked_at_only_where_that_is_wanted(node: Node, own: PodsCgroup, links: Path) -> None:
    node.cgroup, node.draws_services = own.setting, True
    node.steering = node.make_steering()
    words = [f"attached {name} to {own.path}" for name in ("sockops", *SERVICES)]
    assert [step for step in node.enrol(node.a) if "to /" in step][-5:] == words
    assert node.steering.services_fault == ""
    assert set(cgroups.attached(links)) == {"sockops", *SERVICES}
    node.draws_services = False
    node.steering = node.make_steering()
    assert {f"detached {name}" for name in SERVICES} <= set(node.enrol(node.a))
    assert set(cgroups.attached(links)) == {"sockops"}


def test_programs_for_services_come_all_together_or_not_at_all(node: Node, own: PodsCgroup, links: Path) -> None:
    """Somebody refuses company for getpeername: a socket must not be told an endpoint that it has not dialled."""
    programs = {name: _program(node, name) for name in ("sockops", *SERVICES)}
    pinned = programs["getpeername4"].path  # without flags: alone, and nobody beside it
    run(f"bpftool cgroup attach {own.path} cgroup_inet4_getpeername pinned {pinned}")
    found = cgroups.reconcile(links, own.setting, programs, draws_services=True)
    assert found.seen.path == own.path
    assert "getpeername4 cannot be attached" in found.fault
    assert set(cgroups.attached(links)) == {"sockops"}
