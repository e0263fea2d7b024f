# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: malformed frames, records, requests, YAML and resources by the million; `make test` has a share of them.

The seed is printed first. The first input that fails ends the run and is written to a file, from which `--replay` makes
the same happen again; such a file belongs beside the test of the mended defect.
"""

import argparse
import secrets
import sys
import time
from pathlib import Path

from tests.fuzz.campaign import attempt, run, subjects
from tests.fuzz.subject import Input


def main() -> int:
    arguments = _arguments()
    chosen = [subject for subject in subjects() if arguments.only in subject.name]
    if arguments.replay is not None:
        given = Input.read(arguments.replay)
        words = attempt(next(subject for subject in subjects() if subject.name == given.subject), given)
        print(words or "it does not fail any more")
        return bool(words)
    print(f"{arguments.inputs:,} inputs for {', '.join(subject.name for subject in chosen)}; seed {arguments.seed}")
    started, told = time.monotonic(), 0.0

    def progress(done: int) -> None:
        nonlocal told
        seconds = time.monotonic() - started
        if seconds - told > 5 or done == arguments.inputs:
            told = seconds
            print(f"{done:>11,} of {arguments.inputs:,} in {seconds:.0f} s, {done / seconds:,.0f} a second", flush=True)

    failure = run(chosen, arguments.seed, arguments.inputs, progress)
    print(failure or "no exception escaped, nothing was left behind")
    return failure is not None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz FUZZ=...", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31), help="of a run that is to be repeated")
    parser.add_argument("--only", default="", help="subjects with this in their name")
    parser.add_argument("--replay", type=Path, help="a file that a run has kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
