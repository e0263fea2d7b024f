# SPDX-License-Identifier: Apache-2.0
"""Results and exceptions come back from the thread. Entering namespaces is proven in tests/e2e/test_lab.py."""

import threading
from pathlib import Path

import pytest

from nodeagent.lab.inside import call_inside, in_thread


def test_the_result_comes_from_another_thread() -> None:
    assert in_thread(threading.current_thread) is not threading.current_thread()


@pytest.mark.parametrize("failure", [ValueError("as it was"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_is_the_callers(failure: BaseException) -> None:
    def fail() -> None:
        raise failure

    with pytest.raises(type(failure)) as caught:
        in_thread(fail)
    assert caught.value is failure


def test_without_its_namespace_the_function_is_not_called(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        call_inside(lambda: pytest.fail("it must not run"), net=tmp_path / "gone")
