# SPDX-License-Identifier: Apache-2.0
"""Signals and a lab: building and cleaning are not interrupted, and SIGTERM ends a run as Ctrl-C does.

Python delivers signals to the main thread only, so a lab in another thread has nothing to do here.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred() -> Iterator[None]:
    """A signal that would end the program waits until the block is over. Blocks take a fraction of a second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    previous = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in previous.items():
        if handler is not None:  # None: set by something that is not Python, which we could not restore
            signal.signal(number, lambda received, _: waiting.append(received))
    try:
        yield
    finally:
        for number, handler in previous.items():
            if handler is not None:
                signal.signal(number, handler)
        for received in dict.fromkeys(waiting):
            signal.raise_signal(received)


@contextmanager
def raised_as_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP become SystemExit, so that `with` blocks are left; who has a handler already keeps it."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)  # as a shell reports a death by signal

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is leave:
                signal.signal(number, signal.SIG_DFL)
