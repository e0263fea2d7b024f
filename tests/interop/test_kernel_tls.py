# SPDX-License-Identifier: Apache-2.0
"""Workers that were told of the kernel's TLS, and Envoy, which says nothing of its keys.

Its tunnels go into a kernel that could follow a KeyUpdate (Linux 6.14). Everywhere else they stay with the workers, and
are counted; what Envoy does not know in our SETTINGS it passes over.
"""

from collections.abc import Iterator

import pytest

from nodeagent.proxy.kernel_tls import load_module
from nodeagent.proxy.kernel_trial import KernelTls, try_kernel_tls
from nodeagent.tls.key_schedule import Cipher
from tests.interop.conftest import Peers, checked, start
from tests.interop.traffic import Echo, converse, exchange

pytestmark = [pytest.mark.interop, pytest.mark.vm]

SIZE = 2_000_000


@pytest.fixture(scope="module")
def kernel_tls() -> KernelTls:
    """Where there is none, workers are told of one before 6.14: they announce it, and have no use for it with Envoy."""
    load_module()
    found = try_kernel_tls()
    return found if found.works else KernelTls(frozenset(Cipher))


@pytest.fixture
def peers(tmp_path_factory: pytest.TempPathFactory, envoy: str, kernel_tls: KernelTls) -> Iterator[Peers]:
    with start(tmp_path_factory.mktemp, envoy, kernel_tls) as peers:
        yield peers
        checked(peers)


@pytest.mark.parametrize("envoy_is", ["client", "server"])
def test_both_directions_arrive_unchanged_and_over_a_replacement(
    peers: Peers, kernel_tls: KernelTls, envoy_is: str
) -> None:
    passage = peers.through_way("wide") if envoy_is == "client" else peers.through_gate("wide")
    name = "kernel_tls_tunnels" if kernel_tls.can_rekey else "kernel_tls_declined"
    with passage.listen() as listener:
        with passage.join(listener) as (client, application):
            exchange(client, application, SIZE)
        former = passage.worker
        former.eventually(lambda: former.counters.get(name) == 1)
        assert former.counters.get("kernel_tls_failed", 0) == 0
        with Echo(listener), passage.connect() as talk:
            converse(talk, size=SIZE)
            successor = peers.replace(former)
            converse(talk, rounds=3, size=SIZE)
            former.hear_out()
    assert former.handed_over
    assert passage.tunnels() == 1
    assert successor.counters.get("kernel_tls_tunnels", 0) == 0
