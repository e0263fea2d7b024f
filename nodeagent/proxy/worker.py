# SPDX-License-Identifier: Apache-2.0
"""The worker process: `python -m nodeagent.proxy.worker`, started by the agent and by nobody else.

Order matters: everything is imported before `main` runs; it enters the proxy namespace, gives up every privilege, and
only then reads the first message. No byte of traffic is ever handled as root.
"""

import argparse
import gc
import logging
import os
import socket
import sys

import nodeagent.proxy.lean  # noqa: F401 - before what imports msgspec
from nodeagent.errors import NodeagentError
from nodeagent.logs.process import set_up_logging
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.privileges import drop_privileges, enter_network_namespace, raise_descriptor_limit
from nodeagent.proxy.service import Service

_GC_THRESHOLD = 50_000
"""Connections break their reference circles when they close, so the collector finds next to nothing: it may be rare."""


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
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


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nodeagent.proxy.worker", description="Started by the agent.")
    parser.add_argument("--netns-fd", type=int, required=True, help="proxy namespace")
    parser.add_argument("--control-fd", type=int, required=True, help="stream socket, see messages.py")
    parser.add_argument("--report-fd", type=int, required=True, help="stream socket, see messages.py")
    parser.add_argument("--uid", type=int, required=True, help="becomes this user, with nothing else")
    parser.add_argument("--slot", type=int, default=0, help="number of this worker")
    parser.add_argument("--reconnect", default="", help="path of the rendezvous socket of later agents")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
