# SPDX-License-Identifier: Apache-2.0
"""The Vagrantfile as far as it can be checked without a box: Vagrant reads it, and its machines are the matrix's lines.

Whether the box boots, and what provision.sh does in it, only a machine with a provider can tell.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vagrant.fetch import LINES

VAGRANT = Path(__file__).resolve().parents[3] / "vagrant"


@pytest.fixture
def validated(tmp_path: Path) -> str:
    """What `vagrant validate` says."""
    if shutil.which("vagrant") is None:
        pytest.skip("vagrant is not installed; `make test` installs it")
    # Providers are ignored: neither libvirt nor VirtualBox is needed to read the file.
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot")}
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=VAGRANT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_vagrant_reads_it_and_it_has_a_machine_for_each_line(validated: str) -> None:
    assert "Vagrantfile validated successfully." in validated
    assert re.findall(r"^==> linux-(\S+):", validated, re.MULTILINE) == [line.name for line in LINES]


@pytest.mark.parametrize("script", ["provision.sh", "first_process.sh"])
def test_the_scripts_are_shell(script: str) -> None:
    shell = (VAGRANT / script).read_text().splitlines()[0].rpartition("/")[2].split()[-1]
    subprocess.run([shell, "-n", VAGRANT / script], check=True)


@pytest.mark.parametrize("words", [[], ["kernel"], ["tests"], ["kernel", "/"], ["nonsense", "/", "6.1"]])
def test_a_wrong_word_changes_nothing_and_shows_how_it_is_used(words: list[str]) -> None:
    done = subprocess.run([VAGRANT / "provision.sh", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "provision.sh kernel CHECKOUT LINE" in done.stderr
    assert "provision.sh tests CHECKOUT" in done.stderr
