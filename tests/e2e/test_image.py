# SPDX-License-Identifier: Apache-2.0
"""The image: built, and an agent run from its root, read-only, with the manifest's capabilities and mounts.

It is built from the packages of this machine's Debian, which takes half a minute and is the same for every test here.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.kernel.netns import mount
from nodeagent.lab.demo import stage as stage_module
from nodeagent.lab.demo.client import is_served
from nodeagent.lab.demo.stage import NODES, PORT, Stage, running
from nodeagent.version import VERSION
from tests.e2e.contained import MS_SHARED, PRIVILEGED
from tests.e2e.test_daemonset import ROOT, capabilities, containers

pytestmark = [pytest.mark.e2e, pytest.mark.kernel, pytest.mark.any_kernel]

IMAGE = ROOT / "build/image"
LARGEST_BYTES = 220_000_000
"""LLVM and clang are 75 MB of it."""
COMPILES = """
import hashlib, os, subprocess, sys
from nodeagent.kernel.loader import import_bcc
from nodeagent.kernel.sources import PROGRAMS, bpf_folder, program_text
from nodeagent.model.mark import Marks

subprocess.run(["mount", "-t", "bpf", "none", sys.argv[1]], check=True)
os.mkdir(f"{sys.argv[1]}/maps")
os.environ["BCC_KERNEL_SOURCE"] = str(bpf_folder())
module = import_bcc().BPF(text=program_text(), cflags=[f'-DPIN_DIRECTORY="{sys.argv[1]}"', *Marks().flags])
for name in PROGRAMS:
    print(name, hashlib.sha256(module.dump_func(name.encode())).hexdigest())
"""
"""Where the first argument is a directory of its own mount namespace."""


@pytest.fixture(scope="module")
def image() -> Path:
    """Its archive."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools/make_image.py"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return IMAGE / f"nodeagent-{VERSION}.tar"


@pytest.fixture(scope="module")
def unpacked(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a container runtime has it: layer upon layer, by another program than the one that packed it."""
    place = tmp_path_factory.mktemp("unpacked")
    (place / "layout").mkdir()
    subprocess.run(["tar", "-xf", image, "-C", place / "layout"], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{place}/layout:{VERSION}", place / "bundle"], check=True)
    return place / "bundle/rootfs"


@pytest.fixture(scope="module")
def stage(unpacked: Path) -> Iterator[Stage]:
    """Its agents and the init containers run from the image alone; the control plane and the pods do not."""
    command = stage_module.command
    runner = [sys.executable, "-m", "tests.e2e.contained", str(unpacked)]

    def contained(*words: str | Path) -> list[str]:
        if words[0] != "agent":
            return command(*words)
        given = [str(word) for word in words if word != "--takeover"]
        return [*runner, ",".join(capabilities()), "supervise", "--takeover", "nodeagent", *given]

    with pytest.MonkeyPatch.context() as patch, running() as made:
        made.prepare()
        made.start_control_plane()
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setattr(stage_module, "command", contained)
        for node in NODES:
            made.lab.nodes[node].call(lambda: mount("none", "/run", flags=MS_SHARED))
            done = made.lab.nodes[node].run([*runner, PRIVILEGED, *containers()["prepare-node"]["command"]])
            assert done.returncode == 0, done.stderr
            made.start_agent(node)
        yield made


def test_an_agent_of_the_image_compiles_loads_and_serves(stage: Stage) -> None:
    before = stage.packets("node-b")["INTO_POD"]
    assert is_served(stage.pod("web"), stage.pod("db").ipv4, PORT)
    assert stage.packets("node-b")["INTO_POD"] > before
    assert is_served(stage.pod("web"), stage.pod("api").ipv4, PORT)
    rows = stage.ask("node-a", "status")["components"]
    assert [row for row in rows if row["state"] != "ok"] == []
    for pid in (stage.agents["node-a"].pid, *stage.worker_pids("node-a")):
        assert Path(f"/proc/{pid}/root").readlink().name == "rootfs"


def test_its_workers_have_the_compiled_hot_path(unpacked: Path) -> None:
    assert [path.name for path in unpacked.rglob("_lane*.so")] == ["_lane.abi3.so"]


def test_there_is_nothing_in_it_that_nobody_needs(unpacked: Path) -> None:
    names = {path.name for path in unpacked.rglob("*") if not path.is_dir()}
    assert (
        names & {"sh", "bash", "dash", "apt", "dpkg", "perl", "gcc", "cc", "clang", "pip", "uv", "curl", "mount"}
        == set()
    )
    writable = [path for path in unpacked.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert {str(path.relative_to(unpacked)) for path in writable} == {"tmp", "var/tmp"}
    special = [path for path in unpacked.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o6000]
    assert special == [], "no file makes anybody more than he is"
    size = sum(path.lstat().st_size for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < LARGEST_BYTES
    assert {"nodeagent", "nodeagent-cni", "supervise"} <= names


def test_its_cni_plugin_runs_wherever_a_node_runs_it(unpacked: Path) -> None:
    """Without a library: it is copied out of the image."""
    plugin = unpacked / "usr/local/bin/nodeagent-cni"
    done = subprocess.run(
        [plugin], input="{}", env={"CNI_COMMAND": "VERSION"}, capture_output=True, text=True, check=True
    )
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]
    told = subprocess.run(["readelf", "--program-headers", plugin], check=True, capture_output=True, text=True).stdout
    assert "INTERP" not in told


def test_its_llvm_compiles_the_same_bytes_as_debians(unpacked: Path, tmp_path: Path) -> None:
    [libraries] = unpacked.glob("usr/lib/*-linux-gnu")
    told = []
    for number, environment in enumerate(({}, {"LD_LIBRARY_PATH": str(libraries)})):
        (place := tmp_path / str(number)).mkdir()
        words = ["unshare", "--mount", sys.executable, "-c", COMPILES, str(place)]
        done = subprocess.run(
            words,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        told.append(done.stdout.splitlines())
    assert told[0] == told[1]
    assert len(told[0]) > 4


def test_what_its_programs_are_linked_with_is_in_it(unpacked: Path) -> None:
    """Also what was taken away because nobody needs it."""
    names = {path.name for path in unpacked.rglob("*")}
    programs = [path for path in unpacked.rglob("*") if is_program(path)]
    said = subprocess.run(["readelf", "--dynamic", "--wide", *programs], check=True, capture_output=True, text=True)
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", said.stdout))
    assert "libc.so.6" in needed
    assert needed - names == set()


def is_program(path: Path) -> bool:
    """Or a library of one."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def test_its_list_has_every_package_with_version_and_hash(image: Path) -> None:
    listed = json.loads((image.parent / "sbom.cdx.json").read_text())
    found = {one["name"]: one for one in listed["components"]}
    assert {"python3-bpfcc", "libssl3", "libllvm14", "grpcio", "cryptography", "h11", "nodeagent"} <= {
        "libllvm14" if name.startswith("libllvm") else "libssl3" if name.startswith("libssl3") else name
        for name in found
    }
    assert all(one["version"] for one in found.values())
    assert all(one["hashes"] for one in found.values() if one["purl"].startswith("pkg:deb/"))
    assert "pytest" not in found, "what tests need is not shipped"
    assert not {"libz3-4", "libxml2"} & found.keys(), "nor what is not there"
    assert any(re.fullmatch(r"llvm-\d+-dev", name) for name in found), "of whose archives LLVM was linked"


def test_its_layers_have_one_time_and_one_owner(image: Path) -> None:
    with tarfile.open(image) as archive:
        entries = archive.getmembers()
    assert {(entry.uid, entry.gid, entry.uname) for entry in entries} == {(0, 0, "")}
    assert len({int(entry.mtime) for entry in entries}) == 1
