# SPDX-License-Identifier: Apache-2.0
"""The manifests by a policy linter: each finding that stays has its reason in one file, and nothing there is idle."""

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.unit.daemonset.conftest import DAEMONSET

CHECKOV = DAEMONSET.parent / "build/checkov/bin/checkov"
EXCEPTIONS = DAEMONSET / "policy-exceptions.yaml"
LEAST_CHECKS = 150
"""Fewer, and it has not read what it should."""


class Finding(NamedTuple):
    check: str
    file: str
    """Below daemonset/."""


def exceptions() -> dict[Finding, str]:
    rows = yaml.safe_load(EXCEPTIONS.read_text(encoding="utf-8"))
    found = [(Finding(row["check"], file), row["reason"]) for row in rows for file in row["in"]]
    assert len(dict(found)) == len(found), "one reason each"
    return dict(found)


def run_checkov(home: Path, *files: Path) -> tuple[set[Finding], int]:
    """What it finds, and how many checks were passed. Nothing is asked of any network."""
    if not CHECKOV.exists():
        words = "checkov is not here: `make test` installs it into build/checkov"
        if "checkov" in os.environ.get("REQUIRE", "").split(","):
            pytest.fail(words)
        pytest.skip(words)
    options = ["--framework", "kubernetes", "--skip-download", "--quiet", "--output", "json"]
    done = subprocess.run(
        [CHECKOV, *options, *(word for path in files for word in ("--file", path))],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "BC_DISABLE_TELEMETRY": "1", "LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=home,
    )
    assert done.returncode in {0, 1}, done.stderr
    told = json.loads(done.stdout)
    assert told["summary"]["parsing_errors"] == 0
    found = told["results"]["failed_checks"]
    return {Finding(one["check_id"], _below(one["file_abs_path"])) for one in found}, told["summary"]["passed"]


def _below(path: str) -> str:
    return os.path.relpath(path, DAEMONSET)


def manifests() -> list[Path]:
    found = [path for path in DAEMONSET.rglob("*.yaml") if path.name not in {"kustomization.yaml", EXCEPTIONS.name}]
    return sorted(found)


def test_each_finding_has_a_reason_and_each_reason_a_finding(tmp_path: Path) -> None:
    found, passed = run_checkov(tmp_path, *manifests())
    explained = set(exceptions())
    assert sorted(found - explained) == [], f"mend it, or give a reason in {EXCEPTIONS.name}"
    assert sorted(explained - found) == [], f"no reason is needed any more: remove it from {EXCEPTIONS.name}"
    assert passed > LEAST_CHECKS


def test_every_reason_is_a_sentence() -> None:
    for finding, reason in exceptions().items():
        assert reason.endswith("."), finding


def test_what_would_be_wrong_is_found(tmp_path: Path) -> None:
    """Else nothing would be shown by nothing being found."""
    manifest = next(yaml.safe_load_all((DAEMONSET / "cni/daemonset.yaml").read_text(encoding="utf-8")))
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    container["securityContext"] = {"privileged": True}
    container["image"] = "nodeagent:latest"
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(manifest))
    found, _ = run_checkov(tmp_path, path)
    checks = {finding.check for finding in found}
    assert {"CKV_K8S_14", "CKV_K8S_16", "CKV_K8S_20", "CKV_K8S_22", "CKV_K8S_37"} <= checks
