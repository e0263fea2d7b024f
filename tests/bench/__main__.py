# SPDX-License-Identifier: Apache-2.0
"""`make bench`: what the product costs, as ratios within one run, on a lab of this machine.

Parts, of which BENCH names some (`make bench BENCH=same-node`); without names, all:
    same-node       pods of one node: fast path, steered, tunnel, against no program and against a pair of Envoys
    across          pods of two nodes, against no mesh; memory
    abuse           what a hostile peer costs the other connections of a worker
    tunnels         the same, and bare workers, against a pair of Envoys, and of ztunnels if ZTUNNEL names one
    verdicts        the table of verdicts of a full node
    cli             how long a person waits for `nodeagent --help` and `nodeagent status`

It measures several rounds, the subjects in turn, prints medians with their spread, and writes build/bench.json; of
the tunnels a picture, too. When the machine was busy with something else it says so and writes nothing.
"""

import argparse
import compileall
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from nodeagent.errors import NodeagentError
from nodeagent.lab.demo.stage import NODES
from tests.bench import abuse, across, cli, same_node, tunnels, verdicts
from tests.bench.ground import Ground, prepared
from tests.bench.report import Row, merge, table
from tests.bench.rounds import Busy, Harness, Settings

RESULTS = Path("build/bench.json")
PICTURE = Path("docs/tunnels.svg")
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
Part = Callable[[Ground, Harness, Settings], list[Row]]


def _verdicts(ground: Ground, harness: Harness, settings: Settings) -> list[Row]:
    return harness.undisturbed(lambda: verdicts.run(ground.stage.lab.nodes[NODES[1]], settings.rounds))


PARTS: Mapping[str, Part] = {
    "verdicts": _verdicts,
    "same-node": same_node.run,
    "across": across.run,
    "abuse": abuse.run,
    "tunnels": tunnels.run,
    "cli": cli.run,
}
"""In this order: the first two find the nodes without an agent, as they want them."""


def main() -> int:
    arguments = _arguments()
    settings = Settings(
        rounds=arguments.rounds or 7,
        seconds=arguments.seconds,
        is_busy_good_enough=arguments.even_busy,
        tunnel_rounds=arguments.rounds or 5,
        only=tuple(arguments.only),
        has_light_peers=arguments.light_peer,
    )
    cpus = len(os.sched_getaffinity(0))
    congestion = _CONGESTION.read_text(encoding="ascii").strip()  # what paces costs more
    machine = f"{platform.system()} {platform.release()}, {cpus} CPUs, TCP {congestion}"
    print(f"{machine}, Python {platform.python_version()}")
    _compile()
    rows: list[Row] = []
    try:
        with prepared() as ground:
            harness = Harness(ground.generator, ground.own_pids, cpus, settings)
            harness.await_quiet()
            for name in [part for part in PARTS if part in (arguments.parts or PARTS)]:
                print(f"{name}:", flush=True)
                made = PARTS[name](ground, harness, settings)
                print("\n".join(table(made)), flush=True)
                rows += made
            disturbed = harness.disturbed
    except Busy as busy:
        print(f"no report: the machine was busy with something else; {busy}", file=sys.stderr)
        return 1
    except NodeagentError as error:
        print(f"{error}. {error.check}", file=sys.stderr)
        return 1
    if settings.is_busy_good_enough and disturbed:
        print(f"nothing is written: in {disturbed} rounds the machine was busy with something else", file=sys.stderr)
        return 1
    write(rows)
    if picture := tunnels.picture(rows, machine):
        PICTURE.write_text(picture, encoding="utf-8")
    return 0


def _compile() -> None:
    """Bytecode beside the sources, as an installed package has it: what compiles its modules keeps 4 MB of that.

    An environment may forbid Python to write any by the way.
    """
    for name in ("nodeagent", "cryptography", "hpack", "msgspec"):
        found = importlib.util.find_spec(name)
        for place in (found.submodule_search_locations or ()) if found is not None else ():
            compileall.compile_dir(place, quiet=2)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench BENCH=...", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; without, all of them")
    parser.add_argument("--rounds", type=int, help="of which the medians are made, at least 5 (7; of `tunnels` 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each work in each round")
    parser.add_argument("--even-busy", action="store_true", help="print figures of a busy machine, which count nothing")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="of the parts `tunnels` and `abuse`, what has this in its name",
    )
    parser.add_argument(
        "--light-peer",
        action="store_true",
        help="of the part `abuse`: the peer gives way to the others of its core",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if arguments.light_peer and "abuse" not in (arguments.parts or PARTS):
        parser.error("--light-peer is of the part abuse")
    if arguments.rounds is not None and arguments.rounds < 5:
        parser.error("fewer than five rounds are no median")
    return arguments


def write(rows: list[Row]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    RESULTS.write_text(json.dumps(merge(kept, rows), indent=1) + "\n", encoding="utf-8")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    raise SystemExit(main())
