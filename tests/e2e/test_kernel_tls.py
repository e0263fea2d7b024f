# SPDX-License-Identifier: Apache-2.0
"""Whole agents that are asked for the kernel's TLS: the module, the steering's sockets, and what `status` says then.

Where the kernel has none, the same connections pass the workers' own records, and that is told.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.stage import NODES, PORT, Stage, running
from nodeagent.proxy.kernel_tls import load_module
from nodeagent.proxy.kernel_trial import try_kernel_tls

pytestmark = [pytest.mark.e2e, pytest.mark.vm]

WITHIN_SECONDS = 60.0


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node, kernel_tls="auto")
        yield stage


def test_both_ends_of_a_tunnel_do_what_their_kernel_can(stage: Stage) -> None:
    load_module()
    has_it = try_kernel_tls().works
    with stage.pod("web").connect(stage.pod("db").ipv4, PORT) as sock:
        sock.sendall(b"WHERE\n")
        assert stage.pod("db").ipv4.encode() in sock.makefile("rb").readline()
    words = "1 tunnels so far" if has_it else "the workers make the records of tunnels, the kernel's TLS does not work"
    for node in NODES:
        eventually(lambda node=node: words in _component(stage, node)["detail"], WITHIN_SECONDS, words)  # type: ignore[misc]
        assert _component(stage, node)["state"] == ("ok" if has_it else "degraded")


def test_check_tells_the_same(stage: Stage) -> None:
    load_module()
    [row] = [row for row in stage.ask(NODES[0], "check")["checks"] if row["name"] == "ktls"]
    assert row["ok"] is try_kernel_tls().works
    assert not row["is_needed"]


def _component(stage: Stage, node: str) -> dict[str, Any]:
    [found] = [row for row in stage.ask(node, "status")["components"] if row["component"] == "kernel-tls"]
    return dict(found)
