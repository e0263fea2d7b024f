# SPDX-License-Identifier: Apache-2.0
"""Random policies and connections as plain dicts, and their way into the model: those of tests/differential/wire.py."""

import random
from collections.abc import Callable

import pytest

from nodeagent.model.policy import Policy
from nodeagent.policy.evaluate import ConnectionFacts
from tests.differential import wire
from tests.differential.comparison import Plain


@pytest.fixture(scope="session")
def make_case() -> Callable[[random.Random], tuple[list[Plain], list[str], Plain]]:
    """Policies, names of missing ones, facts: as plain dicts."""
    return wire.make_case


@pytest.fixture(scope="session")
def to_policy() -> Callable[[Plain], Policy]:
    """From {"action", "rules": rules of clauses of matches, "name"?, "scope"?, "dry_run"?}; fields as in Match."""
    return wire.to_policy


@pytest.fixture(scope="session")
def to_facts() -> Callable[[Plain], ConnectionFacts]:
    return wire.to_facts
