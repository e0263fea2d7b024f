# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 - a script, not a package
"""Prints the pages of docs/ that are made from the code, and the JSON Schema; with --check, compares.

They have commands, settings, metrics, reasons, exit statuses; what each code of `nodeagent analyze` means; what
commands print of one recorded moment (tests/e2e/scene.py); the shapes of their JSON (nodeagent/admin/answers.py).
Everything is read where the program reads it, so the pages cannot say anything else. Nothing here is written by hand
but headings and one line below each; what needs more words belongs into the code.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from prometheus_client.parser import text_string_to_metric_families

from nodeagent.admin.answers import schema_of_answers
from nodeagent.cli import bpf
from nodeagent.cli.ca import ROOTS
from nodeagent.cli.check import tell as tell_checks
from nodeagent.cli.check_pages import overview as checks_overview
from nodeagent.cli.check_pages import page as check_page
from nodeagent.cli.flows import FLOWS
from nodeagent.cli.main import COMMANDS, EXIT_STATUS, PIPE_CLOSED, cli, run
from nodeagent.cli.output import Output, Table
from nodeagent.cli.probe import PROBES
from nodeagent.cli.proxies import PROXIES
from nodeagent.cli.top import TOP
from nodeagent.cli.trace import HOPS
from nodeagent.cli.tracked import TRACKED
from nodeagent.cli.workers import REPLACED
from nodeagent.config import Config
from nodeagent.controlplane.codes import page
from nodeagent.controlplane.finding import CODES
from nodeagent.controlplane.token import make_token
from nodeagent.kernel.reasons import reasons
from nodeagent.model.address import Ip
from nodeagent.model.pod import CaptureReason
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord, Direction, Party
from nodeagent.model.set_up import split_totals
from nodeagent.telemetry.labels import LOCALITY_LABELS, TRAFFIC_LABELS
from nodeagent.telemetry.metrics import Exposition, Readings
from nodeagent.telemetry.traffic import TrafficMetrics

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path("docs/reference.md")
CODES_PAGE = Path("docs/codes.md")
CHECKS_PAGE = Path("docs/checks.md")
EXAMPLES_PAGE = Path("docs/examples.md")
SCHEMA_FILE = Path("docs/nodeagent-v1.schema.json")
DUMP = Path("tests/data/dump.json")
EXAMPLES: Sequence[tuple[str, str]] = (
    ("status", "Whether this node's agent is well; the exit status says it, too."),
    ("status --brief", "One line, for a probe."),
    ("pods", "Which pods are captured, and why the others are not."),
    ("workloads", "Who is in the mesh, as this node knows it."),
    ("workloads -o wide", "`-o wide` has more columns of every list."),
    ("services", ""),
    ("policies", "What is in force, from where it came, and how often it decided here."),
    ("policies show shop/db-clients", "One of them, in sentences."),
    ("certs", ""),
    ("connections", "What is open; PATH says who carries it."),
    ("flows", "What is over or was refused, and by which policy."),
    ("flows --verdict denied --to shop/api -o wide --no-headers", "Filtered."),
    ("edges", "Who talks to whom, and how that is secured."),
    ("log", "`nodeagent log debug` changes it for ten minutes."),
    ("explain batch api:80", "What would become of a connection, and what to change."),
    ("pods -o name", "Names alone, as other commands take them."),
    ("pods -o jsonl", "A row a line; `-o json` and `-o yaml` give the whole answer."),
    (
        "completion bash | head -4",
        "For a shell's start-up file; names of workloads, Services and policies are the agent's.",
    ),
    ("report --dry-run --log /var/log/nodeagent.log", "What would be in the archive."),
    ("analyze examples/mesh.d", "What is wrong or doubtful in a directory of YAML."),
    ("translate examples/mesh.d | head -2", "What agents would be told of it, a resource a line."),
)
"""Command lines, and a sentence on top of each."""
ANSWERS = Path("tests/data/answers.json")
RECORDED: Sequence[tuple[str, Table, str]] = (
    ("connections --kill ID", dataclasses.replace(FLOWS, member="killed"), "The record of the end that was ordered."),
    ("top edges --times 1", TOP, "Who is busy; without --times until Ctrl-C, on a terminal as a live view."),
    ("proxies", PROXIES, "Who has what is in force, on the machine of a mesh's control plane."),
    ("ca show", ROOTS, "Whom a mesh trusts, on the machine of its control plane."),
    ("probe", PROBES, "An empty tunnel to each other node, by each family."),
    ("workers replace", REPLACED, "Open connections go on at the successor."),
    (
        "trace --pod batch --peer api -- curl -s http://10.244.1.3:8080",
        HOPS,
        "Real packets, hop by hop: a connection of the kernel or the proxy, and why it was denied.",
    ),
    (
        "connections --kernel",
        TRACKED,
        "The same and more by their ends alone, as the kernel's tables have them.",
    ),
    ("bpf attach", bpf.ATTACHED, "Where our programs sit, and in which order they run."),
    ("bpf progs", bpf.PROGS, ""),
    ("bpf maps", bpf.MAPS, ""),
    ("bpf maps pods", bpf.ROWS, "The rows of one map, with names for numbers."),
    ("bpf verify", bpf.VERIFIED, "Is it what this version would load?"),
)
"""Command lines whose answers were recorded, what shows them, and a sentence on top of each."""
SAID = Path("tests/data/said.json")
EXPLAINED = "check --explain pins"
TEXTS: Mapping[str, str] = {
    "agent": "What it says as it starts; then who asks its admin socket is answered.",
    "control-plane": "What it says as it starts; then a line for each change, node and certificate.",
    "cni": "A plugin that stays holds the pods of the mesh while there is no agent.",
    "cleanup": "Captured connections end with it.",
    "prepare-node": "Where the agent itself must not mount.",
    "lab": "What a demo or a test has on this machine.",
    "pods": "Of another node: of a lab here, else by kubectl in the pod of its agent.",
    "version": "Of this command and of the agent, and of the kernel programs of each.",
    "demo": "Each promise with its evidence.",
}
"""What precedes the lines that each of these commands said; recorded as they were."""
WIDTH = 100
_VERDICTS = {"UNSPEC": "pass", "OK": "pass", "SHOT": "drop", "REDIRECT": "redirect"}


def reference() -> str:
    return "\n".join(
        [
            "<!-- made by make proto from the code; do not edit -->",
            "# Reference",
            "",
            "Commands, settings, metrics, reasons and exit statuses, printed from the code of this release.",
            "",
            *_commands(),
            *_exit_statuses(),
            *_settings(),
            *_metrics(),
            *_proxy_reasons(),
            *_kernel_reasons(),
            *_capture_reasons(),
        ]
    )


def codes() -> str:
    return "\n".join(
        [
            "<!-- made by make proto from the code; do not edit -->",
            "# Codes",
            "",
            "What `nodeagent analyze` and the control plane say of a mesh directory. IST codes mean what they mean to",
            "istioctl, MN codes are ours. An object that is refused keeps its last good version; `nodeagent analyze",
            "--explain CODE` prints one of these pages.",
            "",
            "One code of istioctl is not said here: IST0143, since on which addresses a process listens is in no YAML.",
            "IST0133, what the webhook warns of, is said of entries; of other kinds such things have codes of our own.",
            "",
            *_table(("code", "meaning"), ((f"[{code}](#{code.lower()})", words) for code, words in CODES.items())),
            *(page(code) for code in CODES),
        ]
    )


def checks() -> str:
    found = list(checks_overview())
    return "\n".join(
        [
            "<!-- made by make proto from the code; do not edit -->",
            "# Checks",
            "",
            "What `nodeagent check` looks at, each with its id: the machine and, with --proxy, what its agent says",
            "of itself. `nodeagent check --explain ID` prints one of these pages; `-o wide` and `-o json` have the",
            "ids.",
            "",
            *_table(
                ("id", "name", "meaning"),
                ((f"[{number}](#{number})", f"`{name}`", title) for number, name, title in found),
            ),
            *(check_page(number) for number, _, _ in found),
        ]
    )


def examples() -> str:
    return "\n".join(
        [
            "<!-- made by make proto from the code; do not edit -->",
            "# Examples",
            "",
            "What commands print. Those that ask an agent ask the recording of one here, as `-f` has them do: that of",
            "node-a, with the pods `web` and `api` of the namespace `shop`, `batch` of `backoffice`, and `legacy2`,",
            "which is not in the mesh.",
            "",
            *_examples(),
        ]
    )


def _examples() -> Iterator[str]:
    """Those of one command together, in the order of the help."""
    recorded = json.loads((ROOT / ANSWERS).read_text(encoding="utf-8"))
    made = [(line, words, _printed(line)) for line, words in EXAMPLES]
    made += [(line, words, _shown(recorded[line], table)) for line, table, words in RECORDED]
    made += [
        (line, TEXTS[line.split()[0]], lines)
        for line, lines in json.loads((ROOT / SAID).read_text(encoding="utf-8")).items()
    ]
    made.append(("dump | head -5", "Everything, for `-f` of other commands.", _dumped(5)))
    made.append(("token --node node-a", "Who has it, is that node's agent; --output writes it to a file.", _token()))
    made.append(("check", "Whether a machine can run the agent, with evidence.", _checked(recorded["check"])))
    wide = _checked(recorded["check"], is_wide=True)[:6]
    made.append(("check -o wide | head -6", "With the place in docs/checks.md that explains each.", wide))
    made.append((EXPLAINED, "The same of one check, where there are no docs at hand.", _printed(EXPLAINED)))
    for command in COMMANDS:
        of_command = [example for example in made if example[0].split()[0] == command]
        yield from (f"## {command}", "") if of_command else ()
        for line, words, printed in of_command:
            yield from (words, "") if words else ()
            yield from ("```text", f"$ nodeagent {line}", *printed, "```", "")


def _dumped(lines: int) -> list[str]:
    return (ROOT / DUMP).read_text(encoding="utf-8").splitlines()[:lines]


def _token() -> list[str]:
    """The beginning of one whose key everybody knows; what follows it is the secret."""
    return [f"{make_token(bytes(64), 'node-a', now=0.0, ttl_seconds=1)[:40]}..."]


def _checked(answer: Mapping[str, Any], *, is_wide: bool = False) -> list[str]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        tell_checks(answer["checks"], is_wide=is_wide)
    return output.getvalue().rstrip().splitlines()


def _shown(answer: Mapping[str, Any], table: Table) -> list[str]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        Output("table").show(answer, table)
    return output.getvalue().rstrip().splitlines()


def _printed(line: str) -> list[str]:
    """What the command writes to standard output, from the recording where it asks an agent."""
    line, _, most = line.partition(" | head -")
    words = shlex.split(line)
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    if any("--file" in parameter.opts for parameter in command.params):
        words += ["--file", str(ROOT / DUMP)]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.chdir(ROOT):
        status = run(words)
    if status not in {0, 1}:  # 1: a problem was found, as `explain` finds a denial
        raise SystemExit(f"nodeagent {line}: exit status {status}")
    return output.getvalue().rstrip().splitlines()[: int(most) if most else None]


def schema() -> str:
    return json.dumps(schema_of_answers(), indent=1) + "\n"


def _commands() -> Iterator[str]:
    yield from ("## Commands", "", "What `--help` says of each.", "")
    context = click.Context(
        cli, info_name="nodeagent", terminal_width=WIDTH, max_content_width=WIDTH, **cli.context_settings
    )
    for inside in _walk(context):
        yield from (f"### {inside.command_path}", "", "```text")
        yield from (line.rstrip() for line in inside.get_help().splitlines())
        yield from ("```", "")


def _walk(context: click.Context) -> Iterator[click.Context]:
    """The command and those below it, in the order of the help."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from _walk(click.Context(command, parent=context, info_name=name, **command.context_settings))


def _exit_statuses() -> Iterator[str]:
    yield from ("## Exit statuses", "", "Of every command.", "")
    yield from _table(("status", "meaning"), (line.split(maxsplit=1) for line in EXIT_STATUS))
    yield from (f"Besides: {PIPE_CLOSED} when nobody reads the output any more.", "")


def _settings() -> Iterator[str]:
    yield from ("## Settings of the agent", "")
    yield "From the flag, else from the environment variable, else from the file of `--config`, else the default."
    yield from ("In the file a setting is named as the flag, with `_` for `-` and without the leading dashes.", "")
    yield from _table(
        ("flag", "environment", "default", "meaning"),
        (
            (
                f"`--{field.name.replace('_', '-')}`",
                f"`{field.metadata['env']}`",
                f"`{field.default}`" if field.default != "" else "",
                field.metadata["help"],
            )
            for field in dataclasses.fields(Config)
        ),
    )


def _metrics() -> Iterator[str]:
    yield from ("## Metrics", "", "At `/metrics` of `--stats-address`, in Prometheus' text format or OpenMetrics.", "")
    connection = {*TRAFFIC_LABELS, *LOCALITY_LABELS}
    yield from _table(
        ("name", "type", "labels", "meaning"),
        (
            (f"`{name}`", kind, "those of a connection" if set(labels) == connection else _code(labels), words)
            for name, kind, labels, words in _exposed()
        ),
    )
    yield f"Labels of a connection: {_code(TRAFFIC_LABELS)};"
    yield from (f"and where a locality is known {_code(LOCALITY_LABELS)}.", "")


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _exposed() -> Iterator[tuple[str, str, Sequence[str], str]]:
    """Name, type, labels and help of each metric, as they are seen in a scrape with one value of everything."""
    one = {"x": 1}
    readings = Readings(
        version="",
        kernel_packets=one,
        xds_terminations=one,
        xds_messages=one,
        xds_message_bytes=one,
        worker_totals=one,
        mesh_resources=one,
        workers=one,
        spans=one,
        set_up=split_totals(one)[1],
        certificate_expiry={"x": 1.0},
        certificate_issued={"x": 1.0},
    )
    traffic = TrafficMetrics()
    record = ConnectionRecord(
        id=1,
        direction=Direction.OUTBOUND,
        started=0.0,
        source_ip=Ip("192.0.2.1"),
        source_port=1,
        original_ip=Ip("192.0.2.2"),
        original_port=2,
        source=Party(region="x"),
        reason=Reason.CLOSED.value,
        dry_run="allowed",
    )
    traffic.opened(record)
    traffic.closed(record)
    text, _ = Exposition(traffic, lambda: readings).render("text/plain")
    for family in text_string_to_metric_families(text.decode()):
        sample = family.samples[0]
        name = family.name if family.type == "histogram" else sample.name
        yield name, family.type, [label for label in sample.labels if label != "le"], family.documentation


def _proxy_reasons() -> Iterator[str]:
    yield from ("## Reasons of the proxy", "")
    yield "How a connection ended, or why it was refused: `reason` of metrics and of the access log, with the"
    yield from ("`response_flags` of Istio's metrics.", "")
    yield from _table(
        ("reason", "flag", "what to look at"),
        ((f"`{reason.value}`", f"`{reason.flag}`", reason.check) for reason in Reason),
    )


def _kernel_reasons() -> Iterator[str]:
    yield from ("## Reasons of the kernel programs", "")
    yield "What became of a packet: `reason` of `nodeagent_kernel_packets_total`, and `nodeagent status -o json`."
    yield "A packet that is redirected goes to the proxy, into a pod or into the node's stack, as the words say; one"
    yield from ("that passes goes on as if there were no mesh.", "")
    yield from _table(
        ("reason", "verdict", "meaning"),
        ((f"`{reason.name}`", _VERDICTS[reason.verdict], reason.words) for reason in reasons()),
    )


def _capture_reasons() -> Iterator[str]:
    yield from ("## Reasons of pods", "", "Why a pod is not captured, or not wholly: `reason` of `nodeagent pods`.", "")
    yield from _table(("reason", "what to look at"), ((f"`{reason.value}`", reason.check) for reason in CaptureReason))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _row(headings)
    yield _row(["---"] * len(headings))
    for row in rows:
        yield _row([cell.replace("|", "\\|") for cell in row])
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    is_checking, status = parser.parse_args().check, 0
    pages = (
        (REFERENCE, reference()),
        (CODES_PAGE, codes()),
        (CHECKS_PAGE, checks()),
        (EXAMPLES_PAGE, examples()),
        (SCHEMA_FILE, schema()),
    )
    for path, made in pages:
        written = ROOT / path
        if not is_checking:
            written.parent.mkdir(exist_ok=True)
            written.write_text(made, encoding="utf-8")
        elif not written.is_file() or written.read_text(encoding="utf-8") != made:
            sys.stderr.write(f"{path} does not say what the code says: run make proto\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
