# SPDX-License-Identifier: Apache-2.0
"""Privilege: a marked test is skipped where it cannot run, saying why; REQUIRE=kernel,e2e makes that a failure."""

import os
import shutil

import pytest

_NEEDS_ROOT = ("kernel", "e2e", "interop")
_NO_APISERVER = "opt-in; set NODEAGENT_APISERVER to a folder with kube-apiserver and etcd"


def _obstacle(marker: str) -> str:
    if marker == "apiserver":
        return "" if os.environ.get("NODEAGENT_APISERVER") else _NO_APISERVER
    if os.geteuid() != 0:
        return "needs root"
    if marker == "interop" and not envoy_binary():
        return "needs Envoy: `make test` installs it, or set NODEAGENT_ENVOY"
    return ""


def envoy_binary() -> str:
    return os.environ.get("NODEAGENT_ENVOY") or shutil.which("envoy") or ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = os.environ.get("REQUIRE", "").split(",")
    for marker in (*_NEEDS_ROOT, "apiserver"):
        if item.get_closest_marker(marker) is None:
            continue
        obstacle = _obstacle(marker)
        if obstacle and marker in required:
            pytest.fail(f"{marker} tests are required here: {obstacle}")
        if obstacle:
            pytest.skip(f"{marker}: {obstacle}")


@pytest.fixture(scope="session")
def envoy() -> str:
    """Path of the Envoy binary; the `interop` marker has made sure that there is one."""
    return envoy_binary()
