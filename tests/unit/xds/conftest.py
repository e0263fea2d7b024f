# SPDX-License-Identifier: Apache-2.0
"""Recordings of a real istiod, and a control plane that runs in the test."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

Recording = list[dict[str, Any]]
DATA = Path(__file__).parents[2] / "data" / "istiod"
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Waits for a condition that other tasks make true; fails after ten seconds."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is awaited has no event, it is a plain attribute
                await asyncio.sleep(0.001)

    return wait


@pytest.fixture(scope="session")
def recording() -> Callable[[str, str], Recording]:
    """`recording("basic", "address")`: the messages of one file, `raw` being the bytes of the message."""

    def read(folder: str, kind: str) -> Recording:
        lines = (DATA / folder / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
        messages: Recording = [json.loads(line) for line in lines]
        for message in messages:
            message["raw"] = base64.b64decode(message["raw_b64"])
        return messages

    return read
