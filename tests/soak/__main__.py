# SPDX-License-Identifier: Apache-2.0
"""`make soak`: a mesh under mixed load while everything about it changes, twenty handovers, a million verdicts.

A part ends with a line of figures, and a line for each promise that did not hold; then the exit status is 1.
"""

import argparse
import sys
from collections.abc import Mapping

from nodeagent.errors import NodeagentError
from tests.soak import handover, mixed, policies
from tests.soak.outcome import Options, Part

PARTS: Mapping[str, Part] = {"handover": handover.run, "mixed": mixed.run, "policies": policies.run}


def main(arguments: list[str]) -> int:
    """0: all promises held; 1: one did not; otherwise as the error says that kept it from running."""
    parsed = _parse(arguments)
    options = Options(seconds=parsed.seconds, replacements=parsed.replacements, cases=parsed.cases)
    is_kept = True
    for name in parsed.parts or PARTS:
        print(f"{name}:", flush=True)
        try:
            outcome = PARTS[name](options, lambda words: print(f"  {words}", flush=True))
        except NodeagentError as error:
            print(f"error: {error}\ncheck: {error.check}", file=sys.stderr)
            return error.exit_code
        print(f"{name}: {outcome.summary}")
        for words in outcome.broken:
            print(f"{name}: NOT KEPT: {words}")
        is_kept = is_kept and not outcome.broken
    print("every promise held" if is_kept else "promises were broken", flush=True)
    return 0 if is_kept else 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak SOAK=...", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all, if none is named")
    parser.add_argument("--seconds", type=seconds, default=Options.seconds, help="of mixed; %(default)g")
    parser.add_argument("--replacements", type=count, default=Options.replacements, help="of handover; %(default)d")
    parser.add_argument("--cases", type=count, default=Options.cases, help="of each kind, of policies; %(default)d")
    parsed = parser.parse_args(arguments)
    for name in parsed.parts:
        if name not in PARTS:
            parser.error(f"there is no part {name!r}; there are {', '.join(PARTS)}")
    return parsed


def seconds(text: str) -> float:
    return _positive(float(text))


def count(text: str) -> int:
    return int(_positive(int(text)))


def _positive(number: float) -> float:
    if not 0 < number < float("inf"):
        raise ValueError(number)  # argparse says what was expected
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
