# SPDX-License-Identifier: Apache-2.0
"""Verdicts on random meshes and policies against those of naive evaluators: tests/differential, by the million."""

import secrets
import time

from tests.differential.campaign import PARTS
from tests.differential.campaign import run as judge
from tests.soak.outcome import Options, Outcome, Tell

_TOLD_EVERY_SECONDS = 10.0


def run(options: Options, tell: Tell) -> Outcome:
    seed, told, broken = secrets.randbelow(1 << 31), time.monotonic(), list[str]()

    def progress(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > _TOLD_EVERY_SECONDS:
            told = time.monotonic()
            tell(f"{name}: {done:,} of {options.cases:,}")

    for name in sorted(PARTS):
        difference = judge(PARTS[name], seed, options.cases, progress).difference
        if difference is not None:
            again = f"python -m tests.differential --part {name} --cases {options.cases} --seed {seed}"
            broken.append(f"a case of {name} differs; again: {again}")
    cases = f"{options.cases:,} cases for each of {', '.join(sorted(PARTS))}"
    return Outcome(f"{cases}, seed {seed}; {len(broken)} differ", tuple(broken))
