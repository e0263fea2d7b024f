# SPDX-License-Identifier: Apache-2.0
"""`nodeagent cni`, by its exit statuses and words; what it does to files is tested in tests/unit/kubernetes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nodeagent.cli.main import run

LIST = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    for name in ("net.d", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "net.d/10-pods.conflist").write_text(json.dumps(LIST))
    (tmp_path / "program").write_bytes(b"a plugin")
    return ["--net-dir", f"{tmp_path}/net.d", "--bin-dir", f"{tmp_path}/bin", "--program", f"{tmp_path}/program"]


def plugins(directory: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((directory / "net.d/10-pods.conflist").read_bytes())["plugins"]
    return found


def test_it_is_installed_until_told_to_stop_and_stays(
    places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cni", "check", *places]) == 5
    assert "is missing" in capsys.readouterr().err
    more = ["--run-dir", "/run/other", "--exclude-namespaces", "kube-system, dns ,"]
    words = [sys.executable, "-m", "nodeagent.cli.main", "cni", "install", *places, *more]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(plugins(tmp_path)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "the plugin stays" in said
    assert plugins(tmp_path)[1] == {
        "type": "nodeagent-cni",
        "socket": "/run/other/admin.sock",
        "excludeNamespaces": ["dns", "kube-system"],
    }
    assert run(["cni", "check", *places, *more]) == 0
    assert capsys.readouterr().out == "in force\n"
    assert run(["cni", "check", *places]) == 5
    assert "with other settings" in capsys.readouterr().err


def test_it_is_removed_and_says_what(places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.d/10-pods.conflist").write_text(
        json.dumps({**LIST, "plugins": [*plugins(tmp_path), {"type": "nodeagent-cni"}]})
    )
    assert run(["cni", "uninstall", *places]) == 0
    assert "10-pods.conflist" in capsys.readouterr().out
    assert plugins(tmp_path) == LIST["plugins"]
    assert run(["cni", "uninstall", "--all", *places]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_a_mistake_gives_one_clear_error(places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cni", "uninstall", *places, "--net-dir", "/no/such"]) == 5
    assert "/no/such: No such file" in capsys.readouterr().err
    assert run(["cni", "install", *places, "--daemonset", "x"]) == 2
    assert "error" in capsys.readouterr().err
    assert plugins(tmp_path) == LIST["plugins"]
