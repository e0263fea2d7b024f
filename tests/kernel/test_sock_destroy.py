# SPDX-License-Identifier: Apache-2.0
"""SOCK_DESTROY in a pod's namespace ends exactly the connection that is named, whatever kind of socket holds it."""

import pytest

from nodeagent.kernel.sock_destroy import End, destroy_sockets
from nodeagent.model.address import Ip
from tests.kernel.conftest import Family, Node

pytestmark = pytest.mark.kernel


def test_the_named_end_is_reset_and_no_other(node: Node, family: Family) -> None:
    with node.x.listen(7001) as listener:  # for both families in one socket
        address = node.x.addresses[family.is_ipv6]
        dialled = [node.x.dial(address, 7001) for _ in range(2)]
        accepted = {}
        for _ in dialled:
            sock, peer = listener.accept()
            accepted[peer[1]] = sock
        ended, spared = dialled
        port, other = ended.getsockname()[1], spared.getsockname()[1]
        name = End(Ip(address), port, Ip(address), 7001)
        assert destroy_sockets(str(node.x.netns), [name]) == 1
        assert destroy_sockets(str(node.x.netns), [name, name]) == 0, "it is gone"
        with pytest.raises(ConnectionAbortedError):
            ended.recv(1)
        assert destroy_sockets(str(node.x.netns), [End(Ip(address), 7001, Ip(address), other)]) == 1
        with pytest.raises(ConnectionAbortedError):
            accepted[other].recv(1)
        for sock in (*dialled, *accepted.values()):
            sock.close()


def test_the_listener_of_a_connection_that_is_gone_stays(node: Node, family: Family) -> None:
    """The kernel takes a listener for the answer when there is no connection."""
    with node.x.listen(7002) as listener:
        address = node.x.addresses[family.is_ipv6]
        name = End(Ip(address), 7002, Ip(address), 40000)
        assert destroy_sockets(str(node.x.netns), [name]) == 0
        with node.x.dial(address, 7002) as dialled:
            accepted, _ = listener.accept()
            accepted.sendall(b"served")
            accepted.close()
            assert dialled.recv(16) == b"served"
