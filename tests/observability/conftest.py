# SPDX-License-Identifier: Apache-2.0
"""Debian's Prometheus, as `make test` unpacks it; nothing of it is installed, and no service of it runs."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / "build/prometheus/usr/bin"


def program(name: str) -> str:
    """Its path; empty when it is nowhere."""
    places = os.environ.get("NODEAGENT_PROMETHEUS", ""), str(UNPACKED), os.environ.get("PATH", "")
    return shutil.which(name, path=os.pathsep.join(filter(None, places))) or ""


@pytest.fixture(scope="session")
def promtool() -> str:
    return _required("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    return _required("prometheus")


def _required(name: str) -> str:
    found = program(name)
    if not found and "prometheus" in os.environ.get("REQUIRE", "").split(","):
        pytest.fail(f"{name} is required here: `make test` unpacks it")
    if not found:
        pytest.skip(f"needs {name}: `make test` unpacks it, or set NODEAGENT_PROMETHEUS to its folder")
    return found


@pytest.fixture(scope="session")
def documented() -> frozenset[str]:
    """Names of our series, from the page that `make check` compares with the code; a histogram has three."""
    text = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    table = text[text.index("## Metrics") :]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", table[: table.index("\n## ", 3)], re.MULTILINE)
    return frozenset(_series(rows))


def _series(rows: list[tuple[str, str]]) -> Iterator[str]:
    for name, kind in rows:
        if kind == "histogram":
            yield from (f"{name}_{part}" for part in ("bucket", "sum", "count"))
        elif kind == "summary":
            yield from (f"{name.removesuffix('_count')}_{part}" for part in ("sum", "count"))
        else:
            yield name
