# SPDX-License-Identifier: Apache-2.0
"""Our verdicts against those of naive evaluators, by the million; `make test` has 20,000 of each part.

Two parts: `wire` judges policies as they come by xDS, `mesh` whole meshes as YAML. The seed is printed first, and the
same seed makes the same cases. The first case that differs is made small, printed and kept in build/differential, from
where `--replay FILE` judges it again.
"""

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.differential.campaign import PARTS, run
from tests.differential.comparison import Comparison

KEPT = Path("build/differential")
_TOLD_EVERY_SECONDS = 5.0


def main(arguments: list[str] | None = None) -> int:
    """1 when a case differs."""
    asked = _arguments().parse_args(arguments)
    parts = asked.part or sorted(PARTS)
    if asked.replay is not None:
        return _replay(asked.replay)
    print(f"{asked.cases:,} cases for each of {', '.join(parts)}; seed {asked.seed}", flush=True)
    for name in parts:
        started = time.monotonic()
        outcome = run(PARTS[name], asked.seed, asked.cases, _progress(name, asked.cases))
        print(f"{name}: {outcome} in {time.monotonic() - started:.0f} s", flush=True)
        if outcome.difference is not None:
            _tell(name, asked.seed, outcome.difference)
            return 1
        print(f"{name}: 0 differences", flush=True)
    return 0


def _progress(name: str, cases: int) -> Callable[[int], None]:
    started = told = time.monotonic()

    def progress(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told > _TOLD_EVERY_SECONDS:
            told = now
            print(f"{name}: {done:>11,} of {cases:,}, {done / (now - started):,.0f} a second", flush=True)

    return progress


def _tell(name: str, seed: int, difference: Comparison) -> None:
    path = KEPT / f"{name}-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    case = json.dumps({"part": name, "case": difference.case}, indent=2)
    path.write_text(f"{case}\n", encoding="utf-8")
    print(f"{name}: this case differs\n{case}\n{difference}")
    print(f"again: python -m tests.differential --replay {path}")


def _replay(path: Path) -> int:
    kept = json.loads(path.read_text(encoding="utf-8"))
    comparison = PARTS[kept["part"]].replay(kept["case"])
    print(comparison)
    print("it does not differ any more" if comparison.agrees else "it differs")
    return not comparison.agrees


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="of each part")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31), help="of a run that is to be repeated")
    parser.add_argument("--part", action="append", choices=sorted(PARTS), help="one of the parts; may be repeated")
    parser.add_argument("--replay", type=Path, help="a file that a run has kept")
    return parser


if __name__ == "__main__":
    sys.exit(main())
