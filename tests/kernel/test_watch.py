# SPDX-License-Identifier: Apache-2.0
"""News about devices and addresses arrives, and a burst of it is one piece of news."""

import asyncio

import pytest

from nodeagent.kernel.watch import watch_network
from tests.kernel.namespaces import own_namespaces, run

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("ip link add v0 type veth peer name v1", id="a device"),
        pytest.param("ip addr add 192.0.2.1/32 dev lo", id="an IPv4 address"),
        pytest.param("ip addr add 2001:db8::1/128 dev lo nodad", id="an IPv6 address"),
    ],
)
def test_a_change_is_told(change: str) -> None:
    async def story() -> int:
        told = asyncio.Event()
        times = 0

        def changed() -> None:
            nonlocal times
            times += 1
            told.set()

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(watch_network(changed))
            await asyncio.sleep(0)
            run(change)
            await told.wait()
            watch.cancel()
        return times

    with own_namespaces():
        run("ip link set lo up")
        assert asyncio.run(story()) == 1
