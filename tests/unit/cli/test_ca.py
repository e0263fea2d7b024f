# SPDX-License-Identifier: Apache-2.0
"""`nodeagent ca`: the three steps as a person takes them."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from nodeagent.controlplane.authority import open_authority
from nodeagent.controlplane.rotation import Ledger, fingerprint
from nodeagent.controlplane.state import StateDirectory

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path / "state")
    authority = open_authority(made, "cluster.local", dt.datetime.now(dt.UTC))
    Ledger(made).issued(authority, dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
    return made


def test_a_root_is_exchanged_in_three_steps(call: Call, state: StateDirectory) -> None:
    def step(name: str, *flags: str) -> tuple[int, str, str]:
        return call("ca", name, "--state-dir", str(state.path), *flags)

    status, before, _ = step("show", "--no-headers")
    assert (status, before[:6], before.count("\n")) == (0, "in use", 1)
    status, said, _ = step("add-root")
    assert (status, "then: nodeagent ca use-root" in said) == (0, True)
    _, out, _ = step("show", "--no-headers")
    assert [line.split()[0] for line in out.splitlines()] == ["in", "trusted"]

    status, _, error = step("use-root")
    assert status == 2
    assert "certificates are in use whose holders do not trust it" in error
    assert "nodeagent certs --renew" in error
    assert step("use-root", "--force")[0] == 0
    assert step("drop-root")[0] == 2
    status, out, _ = step("drop-root", "--force")
    assert (status, "dropped: sha256" in out) == (0, True)
    _, after, _ = step("show", "--no-headers")
    assert (after[:6], after.count("\n")) == ("in use", 1)
    assert after != before
    assert step("drop-root", "--force")[1] == "nothing to drop\n"
    for path in state.path.iterdir():
        assert not path.name.endswith("key.pem") or path.stat().st_mode & 0o777 == 0o600


def test_without_a_state_directory_it_says_what_to_check(call: Call, tmp_path: Path) -> None:
    for step in ("show", "add-root", "use-root", "drop-root"):
        status, _, error = call("ca", step, "--state-dir", str(tmp_path / "nowhere"))
        assert status == 2
        assert "Is --state-dir right" in error
    assert not (tmp_path / "nowhere").exists()


def test_what_is_shown_is_the_certificates_fingerprint(call: Call, state: StateDirectory) -> None:
    root = open_authority(state, "cluster.local", dt.datetime.now(dt.UTC)).roots[0]
    assert fingerprint(root) in call("ca", "show", "--state-dir", str(state.path))[1]


def test_a_serial_is_revoked_once(call: Call, state: StateDirectory) -> None:
    arguments = ("ca", "revoke", "16767b1a", "--state-dir", str(state.path))
    assert call(*arguments) == (0, f"revoked: see {state.path / 'ca-crl.pem'}\n", "")
    assert call(*arguments) == (0, "revoked already\n", "")
    status, _, error = call("ca", "revoke", "the web pod's", "--state-dir", str(state.path))
    assert (status, "is not a serial number" in error) == (2, True)
