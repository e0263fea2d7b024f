# SPDX-License-Identifier: Apache-2.0
"""What goes out by a tunnel: through full windows and blocked sockets, by our records and by the kernel's."""

from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.hbone.frames import ErrorCode
from nodeagent.model.reason import Reason
from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.tls.channel import RecordChannel
from tests.unit.proxy.joined import EMULATED, Issue, Joined

pytestmark = pytest.mark.usefixtures("hot_path")


def test_many_megabytes_cross_windows_and_blocked_sockets(joined: Joined) -> None:
    joined.establish()
    near, far = joined.stream()
    block, blocks = bytes(range(256)) * 128, 512  # 16 MiB: the windows are 4 and 16
    sent = 0
    while sent < blocks or len(far.received) < blocks * len(block):
        connection = joined.client.connection
        while sent < blocks and not joined.client.is_blocked and connection.room(near.id) >= len(block):
            views = connection.reserve(near.id, len(block))
            if sum(map(len, views)) < len(block):
                joined.client.flush()
                continue
            at = 0
            for view in views:
                view[:] = block[at : at + len(view)]
                at += len(view)
            connection.commit(near.id, len(block))
            joined.client.flush_later()
            sent += 1
        joined.loop.turn(0.01)
    assert far.received == block * blocks


@pytest.mark.parametrize("who", ["the peer", "its user"])
def test_a_blocked_tunnel_forgets_streams_that_are_gone(joined: Joined, who: str) -> None:
    """A peer that does not read may still open and reset streams."""
    joined.establish()
    near, far = joined.stream()
    joined.server.is_blocked = True
    joined.server.stall(far)
    if who == "the peer":
        joined.client.reset(near.id, ErrorCode.CANCEL)
        joined.until(lambda: far.heard == [ErrorCode.CANCEL])
    else:
        joined.server.release(far.id)
    assert not joined.server._stalled
    joined.server.is_blocked = False


def test_records_move_into_the_kernel_where_it_can(joined: Joined, request: pytest.FixtureRequest) -> None:
    joined.establish()
    joined.stream()
    is_kernel = "kernel" in request.node.callspec.params["joined"]
    assert [tunnel._kernel is not None for tunnel in (joined.client, joined.server)] == [is_kernel] * 2
    assert joined.counters == ({"kernel_tls_tunnels": 2} if is_kernel else {})


@pytest.mark.parametrize("refuses", [31, 1, 2], ids=["no module", "no key to send with", "no key to receive with"])
def test_a_kernel_that_refuses_at_last(
    authority: Callable[[], Issue], clock: Any, emulation: Callable[[], None], refuses: int
) -> None:
    """It had passed its trial. With one key of two the socket is lost, and that is told; else the tunnel goes on."""
    emulation()
    pipe = SecretsPipe()
    joined = Joined(authority(), clock, pipe, EMULATED)
    joined.near._refuses = refuses  # type: ignore[attr-defined]
    joined.establish()
    if refuses == 2:
        joined.until(lambda: joined.client_owner.end is not None)
        reason, words = joined.client_owner.end or (None, "")
        assert reason is Reason.TLS_FAILED
        assert "one key of two" in words
    else:
        near, far = joined.stream()
        for _ in range(3):
            joined.send(near, b"question")
            joined.send(far, b"answer")
            joined.until(lambda: bytes(far.received) == b"question" and bytes(near.received) == b"answer")
            near.received.clear()
            far.received.clear()
        assert joined.client._kernel is None
        assert isinstance(joined.client._channel, RecordChannel)
    assert joined.counters["kernel_tls_failed"] == 1
    for tunnel in (joined.client, joined.server):
        tunnel.fail(Reason.DRAINED, "")
    pipe.close()
