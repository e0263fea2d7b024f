# SPDX-License-Identifier: Apache-2.0
"""`nodeagent bpf`: what the kernel has of ours, decoded; it asks the kernel and needs no agent."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.command import Command
from nodeagent.cli.output import Output, Table, node_option, run_elsewhere, shows
from nodeagent.config import Config
from nodeagent.errors import ProblemFound
from nodeagent.model.mark import Marks

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _field(name: str) -> Callable[[Mapping[str, Any]], object]:
    return lambda row: row[name]


def _yes(name: str) -> Callable[[Mapping[str, Any]], object]:
    return lambda row: "yes" if row[name] else "no"


def words(value: object) -> str:
    """A key or value in a cell: `10.0.0.1`, `device veth3 (7), address 10.0.0.1`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(one)}" for name, one in value.items())
    if isinstance(value, list):
        return f"[{' '.join(map(str, value))}]"
    return str(value)


PROGS = Table(
    "progs",
    (
        ("NAME", _field("name")),
        ("TYPE", _field("kind")),
        ("ID", _field("id")),
        ("TAG", _field("tag")),
        ("VERIFIED", _field("verified")),
        ("CURRENT", _yes("is_current")),
        ("PLACES", lambda row: len(row["attached_to"])),
        ("PIN", _field("pin")),
    ),
    more=(("ATTACHED-TO", lambda row: "; ".join(row["attached_to"])),),
    name=_field("name"),
)
MEASURED = dataclasses.replace(
    PROGS, columns=(*PROGS.columns, ("RUNS", _field("runs")), ("AVG-NS", _field("average_nanoseconds")))
)
MAPS = Table(
    "maps",
    (
        ("NAME", _field("name")),
        ("ID", _field("id")),
        ("KIND", _field("kind")),
        ("KEY", _field("key_bytes")),
        ("VALUE", _field("value_bytes")),
        ("ROWS", _field("rows")),
        ("MOST", _field("most")),
        ("CURRENT", _yes("is_current")),
    ),
    more=(("PIN", _field("pin")),),
    name=_field("name"),
)
ROWS = Table("rows", (("KEY", lambda row: words(row["key"])), ("VALUE", lambda row: words(row["value"]))))
ATTACHED = Table(
    "attached",
    (
        ("PLACE", _field("place")),
        ("HOOK", _field("hook")),
        ("ORDER", _field("order")),
        ("PROGRAM", _field("program")),
        ("ID", _field("id")),
        ("BY", _field("by")),
        ("OWNER", lambda row: "nodeagent" if row["is_ours"] else "other"),
    ),
    name=_field("program"),
)
VERIFIED = Table(
    "compared",
    (
        ("WHAT", _field("what")),
        ("SAME", _yes("is_same")),
        ("FOUND", _field("found")),
        ("THIS VERSION", _field("wanted")),
    ),
    name=_field("what"),
)


def _bits(text: str) -> int:
    return int(text, 0)


def _of_kernel(
    command: Callable[Concatenate["Settings", _Parameters], _Result],
) -> Callable[_Parameters, _Result]:
    """Adds --node, and the settings of the agent that say where its pins are."""

    @node_option
    @click.option("--bpffs", envvar="NODEAGENT_BPFFS", default=Config.bpffs, show_default=True, metavar="PATH")
    @click.option("--run-dir", envvar="NODEAGENT_RUN_DIR", default=Config.run_dir, show_default=True, metavar="PATH")
    @click.option("--mark", envvar="NODEAGENT_MARK", type=_bits, default=hex(Config.mark), metavar="BITS")
    @click.option(
        "--mark-mask", envvar="NODEAGENT_MARK_MASK", type=_bits, default=hex(Config.mark_mask), metavar="BITS"
    )
    def with_settings(*arguments: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        run_elsewhere(options)
        bpffs, run_dir = Path(str(options.pop("bpffs"))), str(options.pop("run_dir"))
        mark, mask = options.pop("mark"), options.pop("mark_mask")
        assert isinstance(mark, int)
        assert isinstance(mask, int)
        return command(Settings(bpffs, run_dir, Marks(mark, mask)), *arguments, **options)

    with_settings.__doc__, with_settings.__name__ = command.__doc__, command.__name__
    return with_settings


@dataclasses.dataclass(frozen=True)
class Settings:
    bpffs: Path
    run_dir: str
    marks: Marks


@click.group()
def bpf() -> None:
    """Shows the kernel programs and maps, with addresses and names where the kernel has numbers."""


@bpf.command(
    "progs", cls=Command, examples=("sudo nodeagent bpf progs -o wide", "sudo nodeagent bpf progs --measure 5")
)
@click.option(
    "--measure",
    "seconds",
    type=click.FloatRange(min=0, max=3600),
    default=0.0,
    metavar="SECONDS",
    help="For so long, count how often each runs and how long that takes (Linux 5.8); it costs every program a little.",
)
@shows
@_of_kernel
def progs(settings: Settings, output: Output, *, seconds: float) -> None:
    """Lists the programs that are pinned.

    CURRENT are those that this version would load, PLACES how many hooks run a program; wide, which.
    """
    from nodeagent.kernel import pinned
    from nodeagent.kernel.pins import Pins

    pins = Pins(settings.bpffs, settings.marks)
    found = pinned.programs(pins, seconds)
    places: dict[int, list[str]] = {}
    for place in pinned.attachments(pins, settings.run_dir):
        places.setdefault(place.id, []).append(f"{place.place} {place.hook}")
    rows = [{**dataclasses.asdict(one), "attached_to": places.get(one.id, [])} for one in found]
    output.show({"schema": SCHEMA, "progs": rows}, MEASURED if seconds else PROGS)


@bpf.command(
    "maps",
    cls=Command,
    examples=("sudo nodeagent bpf maps", "sudo nodeagent bpf maps pods", "sudo nodeagent bpf maps flows -o jsonl"),
)
@click.argument("name", required=False)
@shows
@_of_kernel
def maps(settings: Settings, output: Output, *, name: str | None) -> None:
    """Lists the maps that are pinned, or the rows of one.

    Of an array rows of zeros are left out, of a map for each CPU sums are shown. The secret in the settings is not.
    """
    from nodeagent.kernel import pinned
    from nodeagent.kernel.pins import Pins

    pins = Pins(settings.bpffs, settings.marks)
    if name is None:
        output.show({"schema": SCHEMA, "maps": [dataclasses.asdict(one) for one in pinned.maps(pins)]}, MAPS)
        return
    rows = [{"key": key, "value": value} for key, value in pinned.rows(pins, name)]
    output.show({"schema": SCHEMA, "map": name, "rows": rows}, ROWS)


@bpf.command("attach", cls=Command, examples=("sudo nodeagent bpf attach",))
@shows
@_of_kernel
def attach(settings: Settings, output: Output) -> None:
    """Lists where our programs sit, and whose programs run before and behind them."""
    from nodeagent.kernel import pinned
    from nodeagent.kernel.pins import Pins

    found = pinned.attachments(Pins(settings.bpffs, settings.marks), settings.run_dir)
    output.show({"schema": SCHEMA, "attached": [dataclasses.asdict(one) for one in found]}, ATTACHED)


@bpf.command("verify", cls=Command, examples=("sudo nodeagent bpf verify", "sudo nodeagent bpf verify | grep ' no '"))
@shows
@_of_kernel
def verify(settings: Settings, output: Output) -> None:
    """Compares what is pinned and attached with what this version would load.

    The exit status is 1 when something differs, as after an upgrade until the new agent has started.
    """
    from nodeagent.kernel import pinned
    from nodeagent.kernel.pins import Pins

    found = pinned.verify(Pins(settings.bpffs, settings.marks), settings.run_dir)
    output.show({"schema": SCHEMA, "compared": [dataclasses.asdict(one) for one in found]}, VERIFIED)
    if not all(one.is_same for one in found):
        click.get_current_context().exit(ProblemFound.exit_code)
