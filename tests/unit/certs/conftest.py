# SPDX-License-Identifier: Apache-2.0
"""Waiting for what other tasks do."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Waits for a condition that other tasks make true; fails after a minute."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - what is awaited has no event, it is a plain attribute
                await asyncio.sleep(0.001)

    return wait
