# SPDX-License-Identifier: Apache-2.0
"""The worker process: `python -m nodeagent.proxy.worker`, started by the agent and by nobody else.

Order matters: everything is imported before `main` runs; it enters the proxy namespace, gives up every privilege, and
only then reads the first message. No byte of traffic is ever handled as root.
"""

import gc
import logging
import os
import socket
import sys
from typing import NamedTuple

import nodeagent.proxy.lean  # noqa: F401 - before what imports msgspec
from nodeagent.errors import NodeagentError
from nodeagent.logs.process import set_up_logging
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.privileges import drop_privileges, enter_network_namespace, raise_descriptor_limit
from nodeagent.proxy.service import Service

_GC_THRESHOLD = 50_000
"""Connections break their reference circles when they close, so the collector finds next to nothing: it may be rare."""


def main(arguments: list[str] | None = None) -> int:
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    set_up_logging("text", "info", part=f"worker{options.slot}")  # until the agent says how
    logging.raiseExceptions = False  # a log that cannot be written must not end connections
    control = socket.socket(fileno=options.control_fd)
    report = socket.socket(fileno=options.report_fd)
    try:
        enter_network_namespace(options.netns_fd)
        raise_descriptor_limit()
        drop_privileges(options.uid)
    except NodeagentError as error:
        print(f"worker {options.slot}: {error}. {error.check}", file=sys.stderr)  # noqa: T201 - its only words
        return error.exit_code
    # Behind the drop: an open descriptor of a namespace is a way into it for who has the capability, which is gone.
    os.close(options.netns_fd)
    loop = Loop()
    service = Service(loop, control, report, slot=options.slot, reconnect=options.reconnect)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    loop.run()
    service.close()
    return 0


class _Options(NamedTuple):
    netns_fd: int
    """The proxy namespace."""
    control_fd: int
    report_fd: int
    """Stream sockets, see messages.py."""
    uid: int
    """Becomes this user, with nothing else."""
    slot: int = 0
    """Number of this worker."""
    reconnect: str = ""
    """Path of the rendezvous socket of later agents."""


def _parse(words: list[str]) -> _Options:
    """`--name value` pairs, which nobody writes but the agent: argparse would be half a megabyte of each worker."""
    pairs = zip(words[::2], words[1::2], strict=True)
    given = {name.removeprefix("--").replace("-", "_"): value for name, value in pairs}
    reconnect = given.pop("reconnect", "")
    return _Options(**{name: int(value) for name, value in given.items()}, reconnect=reconnect)


if __name__ == "__main__":
    sys.exit(main())
