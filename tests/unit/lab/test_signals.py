# SPDX-License-Identifier: Apache-2.0
"""A signal waits for the end of a step, and is not lost; SIGTERM leaves `with` blocks."""

import signal
import threading
from collections.abc import Iterator

import pytest

from nodeagent.lab.signals import deferred, raised_as_exit


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Who runs the tests may ignore it, as a shell does for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_step_is_raised_after_it() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the order is what is tested
        with deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("finished")
        steps.append("not reached")
    assert steps == ["finished"]


def test_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with raised_as_exit(), deferred():
        pass
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_becomes_an_exit_with_the_shells_status(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # who runs the tests may ignore it, as nohup does
    try:
        with pytest.raises(SystemExit) as caught, raised_as_exit():
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert caught.value.code == 128 + number


def test_who_has_a_handler_keeps_it() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with raised_as_exit():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_another_thread_has_no_signals_to_defer() -> None:
    failures: list[BaseException] = []

    def body() -> None:
        try:
            with deferred(), raised_as_exit():
                pass
        except BaseException as failure:  # noqa: BLE001 - told to the main thread
            failures.append(failure)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert failures == []
