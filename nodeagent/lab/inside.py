# SPDX-License-Identifier: Apache-2.0
"""Running something inside a namespace, from a process that stays where it is.

Each call has a thread of its own that enters, works and ends: nothing has to be left again, so nothing can be left
halfway, and an event loop in the calling thread does not notice. What a child process or a socket inherits from that
thread (its namespaces) stays with it.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nodeagent.kernel.netns import CLONE_FS, CLONE_NEWNET, CLONE_NEWNS, setns, unshare

Result = TypeVar("Result")


def in_thread(function: Callable[[], Result]) -> Result:
    """The function's result, or its exception, from a thread that did nothing before and will do nothing after."""
    results: list[Result] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as failure:  # noqa: BLE001 - raised again below, in the caller's thread
            failures.append(failure)

    thread = threading.Thread(target=body, name="lab-inside", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def call_inside(function: Callable[[], Result], *, net: Path | None = None, mounts: Path | None = None) -> Result:
    """`function()` in these namespaces (paths of their pins). Its thread's root and cwd are the mount namespace's."""

    def body() -> Result:
        # Both are opened first: behind the second setns the paths mean something else.
        descriptors = [
            (os.open(pin, os.O_RDONLY | os.O_CLOEXEC), kind)
            for pin, kind in ((net, CLONE_NEWNET), (mounts, CLONE_NEWNS))
            if pin is not None
        ]
        try:
            unshare(CLONE_FS)  # a thread that shares root and cwd with others may not change its mount namespace
            for descriptor, kind in descriptors:
                setns(descriptor, kind)
        finally:
            for descriptor, _ in descriptors:
                os.close(descriptor)
        return function()

    return in_thread(body)
