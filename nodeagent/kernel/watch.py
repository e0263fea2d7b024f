# SPDX-License-Identifier: Apache-2.0
"""Tells the agent that something about devices or addresses of this node has changed, and not what: it looks itself.

Messages are drained unread, and a queue that ran over is news like any other, so nothing can be missed.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

_LINK, _IPV4_ADDRESS, _IPV6_ADDRESS = 0x1, 0x10, 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR of linux/rtnetlink.h."""
_QUIET_SECONDS = 0.05
"""A pod that comes or goes is a dozen messages; they are one piece of news."""


async def watch_network(changed: Callable[[], None]) -> None:
    """Calls `changed` after each burst of changes; ends only by cancellation."""
    loop = asyncio.get_running_loop()
    with open_watch() as watch:
        while True:
            await _drain(loop, watch)
            await asyncio.sleep(_QUIET_SECONDS)
            _drain_waiting(watch)
            changed()


def open_watch() -> socket.socket:
    """A socket that becomes readable when a device or address of the calling thread's namespace changes."""
    watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    watch.bind((0, _LINK | _IPV4_ADDRESS | _IPV6_ADDRESS))
    return watch


async def _drain(loop: asyncio.AbstractEventLoop, watch: socket.socket) -> None:
    try:
        await loop.sock_recv(watch, 65536)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise


def _drain_waiting(watch: socket.socket) -> None:
    while True:
        try:
            watch.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
