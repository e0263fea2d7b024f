# SPDX-License-Identifier: Apache-2.0
"""Which lines are chosen, and what a mistake says."""

import pytest

from nodeagent.errors import ConfigError
from vagrant import matrix
from vagrant.fetch import LINES


def test_all_lines_when_none_is_named_and_each_once() -> None:
    assert matrix._chosen([]) == list(LINES)
    assert [line.name for line in matrix._chosen(["6.1", "5.10", "6.1"])] == ["6.1", "5.10"]


def test_a_line_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"no such line of kernels: 4\.19") as caught:
        matrix._chosen(["4.19"])
    assert "5.10" in caught.value.check


def test_a_mistake_is_one_line_and_its_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["vagrant", "4.19"])
    assert matrix.main() == 2
    assert capsys.readouterr().err.splitlines() == [
        "test-kernels: no such line of kernels: 4.19",
        "There are 5.10, 6.1, 6.12, newest.",
    ]
