# SPDX-License-Identifier: Apache-2.0
"""What the init container of the DaemonSet leaves for the agent, and that it may be run at any time."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel.netns import MNT_DETACH, unmount
from nodeagent.kernel.pins import is_bpffs
from nodeagent.kernel.preparation import prepare_node
from nodeagent.kernel.proxy_namespace import SYSCTLS, ProxyNamespace
from tests.kernel.namespaces import ip, own_namespaces, run

pytestmark = [pytest.mark.kernel, pytest.mark.any_kernel]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[str, str]]:
    with own_namespaces():
        run("ip link set lo up")
        yield str(tmp_path / "run"), str(tmp_path / "bpf")
        ProxyNamespace(str(tmp_path / "run")).remove()
        if is_bpffs(tmp_path / "bpf"):
            unmount(tmp_path / "bpf", MNT_DETACH)


def test_the_agent_finds_all_that_it_could_not_make_and_a_second_run_changes_nothing(places: tuple[str, str]) -> None:
    run_dir, bpffs = places
    assert prepare_node(run_dir, bpffs) == [
        f"mounted bpffs on {bpffs}",
        f"made the proxy namespace {run_dir}/proxy.netns",
    ]
    assert is_bpffs(bpffs)
    for name, value in SYSCTLS.items():
        assert run(f"cat /proc/sys/{name}", Path(run_dir, "proxy.netns")).split() == value.split(), name
    ip("link set na0 mtu 1400")
    assert prepare_node(run_dir, bpffs) == []
    assert "mtu 1400" in run("ip link show na0"), "an agent that runs has chosen it for its pods"


def test_an_agent_that_may_not_write_sysctls_has_nothing_to_write(places: tuple[str, str]) -> None:
    run_dir, bpffs = places
    prepare_node(run_dir, bpffs)
    subprocess.run(["mount", "--bind", "/proc/sys", "/proc/sys"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", "/proc/sys"], check=True)
    try:
        ProxyNamespace(run_dir).ensure()
    finally:
        unmount("/proc/sys", MNT_DETACH)


def test_a_place_that_cannot_be_is_told(places: tuple[str, str]) -> None:
    with pytest.raises(KernelError, match="/proc/bpf"):
        prepare_node(places[0], "/proc/bpf")
    prepare_node(*places)
