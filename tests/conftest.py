# SPDX-License-Identifier: Apache-2.0
"""Privilege: a marked test is skipped where it cannot run, saying why; REQUIRE=kernel,e2e makes that a failure."""

import os
import shutil

import pytest

_NEEDS_ROOT = ("kernel", "e2e", "interop")
_OPT_IN = {
    "apiserver": ("NODEAGENT_APISERVER", "a folder with kube-apiserver and etcd"),
    "istiod": ("NODEAGENT_ISTIOD", "a folder with pilot-discovery, istioctl, kube-apiserver and etcd"),
    "ztunnel": ("NODEAGENT_ZTUNNEL", "the path of a ztunnel"),
}


def _obstacle(marker: str) -> str:
    if marker in _OPT_IN:
        variable, what = _OPT_IN[marker]
        return "" if os.environ.get(variable) else f"opt-in; set {variable} to {what}"
    if os.geteuid() != 0:
        return "needs root"
    if marker == "interop" and not envoy_binary():
        return "needs Envoy: `make test` installs it, or set NODEAGENT_ENVOY"
    return ""


def envoy_binary() -> str:
    return os.environ.get("NODEAGENT_ENVOY") or shutil.which("envoy") or ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = os.environ.get("REQUIRE", "").split(",")
    for marker in (*_NEEDS_ROOT, *_OPT_IN):
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
