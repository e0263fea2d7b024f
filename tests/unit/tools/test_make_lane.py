# SPDX-License-Identifier: Apache-2.0
"""The compiled hot path's build: what it says without a compiler, and that sanitizers find nothing in what it makes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import make_lane  # type: ignore[import-not-found]

_UNDER_SANITIZERS = """
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.ExtensionFileLoader("_lane", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_lane", loader))
loader.exec_module(module)
from nodeagent.proxy import lane, stream
lane.compiled = module
lane.use(stream.StreamRelay)
import pytest
from tests.fuzz.campaign import run
from tests.fuzz.hot_path import HotPath
failure = run([HotPath()], int(sys.argv[2]), 1000, lambda done: None)
sys.exit(str(failure) if failure else 0)
"""


@pytest.mark.parametrize(("arguments", "status"), [([], 5), (["--if-possible"], 0)])
def test_without_a_compiler_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    status: int,
) -> None:
    stale = tmp_path / "_lane.abi3.so"
    stale.write_bytes(b"of an older source")
    monkeypatch.setattr(make_lane.compile_lane, "__defaults__", (stale, ()))
    monkeypatch.setattr(sys, "argv", ["make_lane", *arguments])
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert make_lane.main() == status
    assert "there is no C compiler (apt-get install gcc libc6-dev)" in capsys.readouterr().err
    assert not stale.exists()


def test_without_pythons_headers_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(make_lane.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(make_lane.CannotCompile, match=r"Python\.h \(apt-get install python3-dev\)"):
        make_lane.compile_lane(tmp_path / "_lane.abi3.so")


def test_what_a_compiler_says_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "cc -DTURN_WORK=)")
    with pytest.raises(make_lane.CannotCompile, match="says: "):
        make_lane.compile_lane(tmp_path / "_lane.abi3.so")


def test_hostile_bytes_under_sanitizers(tmp_path: Path) -> None:
    """Of addresses and of undefined behaviour. Python itself is not built for them, so their libraries go first."""
    target = tmp_path / "_lane_checked.abi3.so"
    checks = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    make_lane.compile_lane(target, checks)
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {**os.environ, "LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-c", _UNDER_SANITIZERS, str(target), str(int.from_bytes(os.urandom(3), "big"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
