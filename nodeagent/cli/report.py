# SPDX-License-Identifier: Apache-2.0
"""`nodeagent report`: what somebody elsewhere needs to see of this node, as one archive with a manifest.

Each piece is the output of a command, of ours or of the system, or a file. One that fails is a line in the manifest and
stops nothing: a node that needs a report is a node where things fail. Everything passes nodeagent/cli/redact.py and, if
strangers are to read it, nodeagent/cli/pseudonyms.py.
"""

import contextlib
import dataclasses
import datetime as dt
import io
import itertools
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click

from nodeagent.admin.client import AdminClient
from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.columns import byte_count
from nodeagent.cli.command import command
from nodeagent.cli.flow_filter import parse_duration
from nodeagent.cli.output import Output, Table, is_terminal, node_option, run_elsewhere, shows, socket_option
from nodeagent.cli.pseudonyms import Pseudonyms
from nodeagent.cli.redact import redact
from nodeagent.errors import ConfigError, NodeagentError
from nodeagent.logs.escape import one_line

MOST_BYTES = 16 << 20
"""Of one piece, from its end: the latest lines of a log tell most."""
TIMEOUT_SECONDS = 30.0
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_STANDARD_OUTPUT = Path("-")
NOT_FOUND, TIMED_OUT = 127, 124
"""As shells tell it."""

OURS = (
    "status",
    "version",
    "pods -o wide",
    "workloads -o wide",
    "services -o wide",
    "policies -o wide",
    "certs",
    "connections -o wide",
    "edges -o wide",
    "log",
    "dump",
)
"""Of the agent, each with --socket; and its latest connections."""
LATEST_FLOWS = "--last 1000"
NAMED_BY: Mapping[str, Sequence[str]] = {
    "workloads": ("name", "namespace", "node", "cluster", "workload_name", "canonical_name", "dns_name", "network"),
    "services": ("name", "namespace", "hostname"),
    "policies": ("name", "namespace"),
    "pods": ("pod", "namespace"),
}
"""Lists of the agent, with the members that have names in them; identities have theirs."""
OURS_ALONE = ("check", "bpf progs", "bpf maps -o wide", "bpf attach", "bpf verify")
"""Of the machine; whoever uses other pins than the default has set it in the environment."""
SYSTEM = (
    "uname -a",
    "ip -details -statistics link show",
    "ip address show",
    "ip rule show",
    "ip route show table all",
    "ip -6 route show table all",
    "ss --tcp --listening --numeric --processes",
    "nft list ruleset",
    "bpftool prog show",
    "bpftool map show",
    "bpftool net show",
    "bpftool cgroup tree",
    "tc qdisc show",
)
FILES = ("/etc/os-release", "/proc/meminfo", "/proc/loadavg", "/proc/mounts", "/proc/self/cgroup")
RUN_FILES = ("loader.log",)
"""In the run directory. Not the state: `dump` has what is in it, in words."""


@dataclasses.dataclass(frozen=True)
class Piece:
    name: str
    command: str
    """As an operator would type it; of a file `cat`."""
    take: Callable[[], tuple[int, bytes]]
    """Exit status and output."""


@dataclasses.dataclass(frozen=True)
class Taken:
    name: str
    command: str
    exit_code: int
    size: int
    redactions: int
    is_cut: bool
    """Only its end is here."""


REPORT = Table(
    "files",
    (
        ("FILE", lambda row: row["name"]),
        ("COMMAND", lambda row: row["command"]),
        ("EXIT", lambda row: row["exit_code"]),
        ("SIZE", lambda row: byte_count(row["size"]) + (" (cut)" if row["is_cut"] else "")),
        ("REDACTED", lambda row: row["redactions"]),
    ),
    name=lambda row: row["name"],
)


class _Place(click.Path):
    """A directory, or standard output, which click's own knows for files only."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _STANDARD_OUTPUT if value == str(_STANDARD_OUTPUT) else super().convert(value, param, ctx)


@command(
    examples=(
        "sudo nodeagent report",
        "sudo nodeagent report --log /var/log/nodeagent.log --since 1h --to /tmp",
        "sudo nodeagent report --redact strict",
        "nodeagent report --node node-a --to - > report.tar.gz",
    )
)
@click.option(
    "--to",
    "directory",
    type=_Place(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    metavar="DIRECTORY",
    help="Where to write it; - is standard output, as --node needs it. [default: here]",
)
@click.option(
    "--log",
    "logs",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="A file to put in, such as the agent's log; its last 16 MiB. May be given several times.",
)
@click.option(
    "--since",
    metavar="DURATION",
    help="Connections that ended, and lines of logs, of this last while only, such as 1h. [default: the last 1000]",
)
@click.option(
    "--redact",
    "redaction",
    type=click.Choice(["secrets", "strict"]),
    default="secrets",
    show_default=True,
    help="What to take out: keys and tokens, or names and addresses as well.",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Only list what would be in it.")
@shows
@socket_option
@node_option
def report(
    output: Output,
    /,
    *,
    directory: Path,
    logs: tuple[Path, ...],
    since: str | None,
    redaction: str,
    is_dry: bool,
    **there: Any,
) -> None:
    """Writes what somebody elsewhere needs to see of this node, as one archive with a manifest.

    Answers of the agent as every command gives them, and a dump of it for -f; what the machine says of devices, routes,
    sockets and programs, and the files of --log. Private keys and tokens are taken out of all of it; names, addresses
    and identities stay. manifest.json lists each file with its command, exit status, size and redactions.

    With --redact strict names and addresses are replaced by others, the same ones everywhere: for a public issue. Names
    are those that the agent knows; words of ours that are a name of yours, too, change with them.
    """
    if there["node"] is not None and directory != _STANDARD_OUTPUT and not is_dry:
        raise click.UsageError("With --node the archive comes by standard output: --to - > report.tar.gz")
    run_elsewhere(there)
    socket_path = str(there["socket_path"])
    pieces = list(_pieces(socket_path, logs, since))
    wanted = {"redacted": redaction, "since": since or ""}
    if is_dry:
        output.show({"schema": SCHEMA, **_manifest([_planned(piece) for piece in pieces], "", wanted)}, REPORT)
        return
    pseudonyms = _pseudonyms(socket_path) if redaction == "strict" else None
    name = pseudonyms.hide(platform.node())[0] if pseudonyms else platform.node()
    stem = f"nodeagent-report-{_safe(name)}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}"
    if directory == _STANDARD_OUTPUT:
        if is_terminal():
            raise click.UsageError("--to -: an archive is nothing for a terminal. Expected: --to - > report.tar.gz")
        _write_to(sys.stdout.buffer, "", stem, pieces, wanted, pseudonyms)
        return
    path = directory / f"{stem}.tar.gz"
    manifest = write(path, stem, pieces, wanted, pseudonyms)
    output.show({"schema": SCHEMA, **manifest}, REPORT)
    if output.is_table:
        click.echo(f"written: {path}")


def _pseudonyms(socket_path: str) -> Pseudonyms:
    """With the names that the agent knows, and this machine's."""
    agent, names = AdminClient(socket_path), {platform.node()}
    try:
        for kind, members in NAMED_BY.items():
            names |= {str(row.get(member, "")) for row in agent.fetch(f"/{kind}")[kind] for member in members}
    except NodeagentError as error:
        words = "names that are in no identity are not known, and stay: look through it before it leaves"
        click.echo(f"warning: {one_line(str(error))}; {words}", err=True)
    return Pseudonyms(names)


def write(
    path: Path, stem: str, pieces: Sequence[Piece], wanted: Mapping[str, str], pseudonyms: Pseudonyms | None
) -> dict[str, object]:
    """The manifest, which is in the archive, too, there with pseudonyms. For its owner alone. Raises ConfigError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            return _write_to(file, str(path), stem, pieces, wanted, pseudonyms)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", check="Choose another place with --to.") from error


def _write_to(
    file: BinaryIO,
    path: str,
    stem: str,
    pieces: Sequence[Piece],
    wanted: Mapping[str, str],
    pseudonyms: Pseudonyms | None,
) -> dict[str, object]:
    """`file` may be a pipe; `path` is only told."""
    taken = []
    with tarfile.open(fileobj=file, mode="w|gz") as archive:
        for piece in pieces:
            made, content = _take(piece, pseudonyms)
            taken.append(made)
            _add(archive, f"{stem}/{made.name}", content)
        manifest = _manifest(taken, path, wanted)
        text = json.dumps({"schema": SCHEMA, **manifest}, indent=1)
        if pseudonyms is not None:
            text, _ = pseudonyms.hide(text)
        _add(archive, f"{stem}/manifest.json", text.encode())
    return manifest


def _manifest(taken: Sequence[Taken], path: str, wanted: Mapping[str, str]) -> dict[str, object]:
    from nodeagent.version import VERSION

    return {
        "kind": "report",
        "path": path,
        "node": platform.node(),
        "taken": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "version": VERSION,
        **wanted,
        "files": [dataclasses.asdict(one) for one in taken],
    }


def _planned(piece: Piece) -> Taken:
    return Taken(piece.name, piece.command, 0, 0, 0, is_cut=False)


def _take(piece: Piece, pseudonyms: Pseudonyms | None) -> tuple[Taken, bytes]:
    status, output = piece.take()
    text, redactions = redact(output[-MOST_BYTES:].decode("utf-8", "replace"))
    name = piece.name
    if pseudonyms is not None:
        text, hidden = pseudonyms.hide(text)
        redactions += hidden
        name, _ = pseudonyms.hide(name)
    content = text.encode()
    is_cut = len(output) > MOST_BYTES
    return Taken(name, piece.command, status, len(content), redactions, is_cut), content


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o600, int(dt.datetime.now(dt.UTC).timestamp())
    archive.addfile(member, io.BytesIO(content))


# ---- the pieces ----------------------------------------------------------------------------------------------------


def _pieces(socket_path: str, logs: Sequence[Path], since: str | None = None) -> "list[Piece]":
    """Raises ConfigError for a `since` that is no duration."""
    run_dir = Path(socket_path).parent
    moment = _moment_before(since)
    flows = f"flows {f'--since {since}' if since else LATEST_FLOWS} -o jsonl"
    return [
        *(_of_ours(line, "--socket", socket_path) for line in (*OURS, flows)),
        *(_of_ours(line) for line in OURS_ALONE),
        *(_of_system(line) for line in SYSTEM),
        *(_of_file(Path(name)) for name in FILES),
        *(_of_file(run_dir / name) for name in RUN_FILES),
        _of_system(f"ls -l -a {shlex.quote(str(run_dir))}"),
        *(_of_file(log, f"logs/{number}-{_safe(log.name)}", moment) for number, log in enumerate(logs)),
    ]


def _moment_before(since: str | None) -> bytes:
    """As lines of logs begin, to the second; empty: all of them. Raises ConfigError."""
    if not since:
        return b""
    now = dt.datetime.now(dt.UTC)
    seconds = min(parse_duration(since), now.timestamp())
    return (now - dt.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").encode()


def lines_since(content: bytes, moment: bytes) -> bytes:
    """From the first line that tells a moment that is not earlier; all, if none tells one. Logs go forward in time."""
    start, tells = 0, False
    for line in content.splitlines(keepends=True):
        found = _STAMP.search(line)
        if found is not None:
            tells = True
            if found[0] >= moment:
                return content[start:]
        start += len(line)
    return b"" if tells else content


def _of_ours(line: str, *more: str) -> Piece:
    words = [*line.split(), *more]

    def take() -> tuple[int, bytes]:
        from nodeagent.cli.main import run

        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = run(words)
        return status, (output.getvalue() + errors.getvalue()).encode()

    kind = "json" if line == "dump" else "jsonl" if "jsonl" in line else "txt"
    stem = "-".join(itertools.takewhile(lambda word: not word.startswith("-"), line.split()))
    return Piece(f"nodeagent/{stem}.{kind}", f"nodeagent {shlex.join(words)}", take)


def _of_system(line: str) -> Piece:
    def take() -> tuple[int, bytes]:
        try:
            done = subprocess.run(
                shlex.split(line),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            return NOT_FOUND, b"this program is not installed\n"
        except subprocess.TimeoutExpired as error:
            return TIMED_OUT, (error.stdout or b"") + f"ended after {TIMEOUT_SECONDS:g} s\n".encode()
        return done.returncode, done.stdout

    return Piece(f"system/{_safe(line)}.txt", line, take)


def _of_file(path: Path, name: str = "", since: bytes = b"") -> Piece:
    def take() -> tuple[int, bytes]:
        try:
            with path.open("rb") as file:
                with contextlib.suppress(OSError):  # of what has no size, such as a pipe or a file of proc
                    file.seek(-MOST_BYTES - 1, os.SEEK_END)
                return 0, lines_since(file.read(), since) if since else file.read()
        except OSError as error:
            return 1, f"{error.strerror}\n".encode()

    return Piece(name or f"files/{_safe(str(path))}.txt", f"cat {shlex.quote(str(path))}", take)


def _safe(text: str) -> str:
    """As a name of a file."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "unnamed"
