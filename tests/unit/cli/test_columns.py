# SPDX-License-Identifier: Apache-2.0
"""How a cell is said; whole tables are in test_queries.py."""

from typing import Any

import pytest

from nodeagent.cli.columns import byte_count, duration, end_of


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0s"), (0, "0s"), (7.9, "7s"), (60, "1m"), (725, "12m5s"), (3725, "1h2m"), (3600, "1h"), (273600, "3d4h")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 50, "1024.0 TiB"), (5 << 30, "5.0 GiB")]
)
def test_byte_count(count: int, words: str) -> None:
    assert byte_count(count) == words


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"namespace": "shop", "workload": "web-1", "address": "10.1.0.5:8080"}, "shop/web-1:8080"),
        ({"namespace": "", "workload": "", "address": "[fd00::5]:443"}, "[fd00::5]:443"),
    ],
)
def test_an_end_of_a_connection(end: dict[str, Any], words: str) -> None:
    assert end_of("source")({"source": end}) == words
