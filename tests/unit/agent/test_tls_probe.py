# SPDX-License-Identifier: Apache-2.0
"""What `nodeagent check` says of the kernel's TLS: without the module, with it, and with one that does not work."""

from pathlib import Path

import pytest

from nodeagent.agent import tls_probe
from nodeagent.errors import KernelError
from nodeagent.proxy.kernel_tls import load_module
from nodeagent.proxy.kernel_trial import KernelTls
from nodeagent.tls.key_schedule import Cipher


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "tcp_available_ulp"
    monkeypatch.setattr(tls_probe, "_ULP", path)
    monkeypatch.setattr(tls_probe, "_MODULE", tmp_path / "module")
    return path


@pytest.mark.parametrize("known", ["mptcp\n", "mptls\n", None])
def test_a_module_that_is_not_there_is_not_loaded_for_a_trial(
    monkeypatch: pytest.MonkeyPatch, listed: Path, known: str | None
) -> None:
    monkeypatch.setattr(tls_probe, "try_kernel_tls", lambda: pytest.fail("it was tried"))
    if known is not None:
        listed.write_text(known)
    probe = tls_probe.kernel_tls()
    assert (probe.ok, probe.is_needed) == (False, False)
    assert probe.evidence == f"tcp_available_ulp: {(known or 'none').strip()}"
    assert "modprobe tls" in probe.advice


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("place", ["the list", "the modules"])
def test_a_module_that_is_there_is_tried(
    monkeypatch: pytest.MonkeyPatch, listed: Path, place: str, *, works: bool
) -> None:
    if place == "the list":
        listed.write_text("espintcp mptcp tls\n")
    else:
        listed.with_name("module").mkdir()
    found = KernelTls(frozenset(Cipher)) if works else KernelTls(why="what the kernel sealed is wrong")
    monkeypatch.setattr(tls_probe, "_try", lambda: found)
    probe = tls_probe.kernel_tls()
    assert (probe.ok, probe.is_needed) == (works, False)
    assert probe.evidence == str(found)


def test_what_cannot_be_tried_is_told(monkeypatch: pytest.MonkeyPatch, listed: Path) -> None:
    listed.write_text("tls\n")

    def refuse() -> KernelTls:
        raise KernelError("setting lo up: Operation not permitted")

    monkeypatch.setattr(tls_probe, "_try", refuse)
    probe = tls_probe.kernel_tls()
    assert not probe.ok
    assert "setting lo up" in probe.evidence


@pytest.mark.kernel
def test_the_trial_is_made_in_a_namespace_of_its_own() -> None:
    load_module()
    found = tls_probe.try_aside()
    assert found.works or "No such file or directory" in found.why  # not: unreachable
