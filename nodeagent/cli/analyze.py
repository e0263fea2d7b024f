# SPDX-License-Identifier: Apache-2.0
"""`nodeagent analyze`: what the control plane would say of a directory of YAML, without serving it."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.command import command
from nodeagent.cli.output import Output, Row, Table, shows
from nodeagent.errors import ConfigError, ProblemFound

if TYPE_CHECKING:
    from nodeagent.controlplane.finding import Finding
    from nodeagent.controlplane.suppress import Suppression

_SEVERITIES = ("error", "warning", "info")


def _place(row: Row) -> str:
    return f"{row['file']}:{row['line']}" if row["line"] else str(row["file"])


FINDINGS = Table(
    "findings",
    (
        ("PLACE", _place),
        ("SEVERITY", lambda row: row["severity"]),
        ("CODE", lambda row: row["code"]),
        ("OBJECT", lambda row: row["subject"]),
        ("FIELD", lambda row: row["field"]),
        ("MESSAGE", lambda row: row["message"]),
    ),
    name=lambda row: row["code"],
)


@command(
    examples=(
        "nodeagent analyze examples/mesh.d",
        "nodeagent analyze mesh.d --fail-on warning --suppress 'MN0204=AuthorizationPolicy shop/*'",
        "nodeagent analyze mesh.d -o json | jq '.findings[] | select(.severity == \"error\")'",
        "nodeagent analyze --explain MN0201",
    )
)
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option(
    "--fail-on",
    type=click.Choice([*_SEVERITIES, "never"]),
    default="error",
    show_default=True,
    help="The least severity that makes the exit status 1.",
)
@click.option(
    "--suppress",
    "suppressed",
    multiple=True,
    metavar="CODE[=KIND NAMESPACE/NAME]",
    help="Leave out findings with this code, of all objects or of one (wildcards are possible). May be given several "
    "times. On an object the annotation galley.istio.io/analyze-suppress does the same.",
)
@click.option(
    "--unknown-fields",
    type=click.Choice(["refuse", "warn"]),
    default="refuse",
    show_default=True,
    help="What a field means that an API does not have; of policies it is always refused.",
)
@click.option("--explain", metavar="CODE", help="Say what a code means, and what to do; no directory is read.")
@shows
def analyze(
    output: Output,
    *,
    directory: Path | None,
    fail_on: str,
    suppressed: tuple[str, ...],
    unknown_fields: str,
    explain: str | None,
) -> None:
    """Says what is wrong or doubtful in a directory of Kubernetes and Istio YAML, with file, line and field.

    It is what the control plane says of the same directory: nothing is served or changed. IST codes mean what they mean
    to istioctl; MN codes are explained in docs/codes.md. What is refused would not be in force, so no suppression hides
    it.

    Exit status: 0 nothing as severe as --fail-on, 1 something is, 2 wrong flag or unreadable directory.
    """
    from nodeagent.controlplane.catalog import Catalog, admit
    from nodeagent.controlplane.files import read_directory
    from nodeagent.controlplane.review import review
    from nodeagent.controlplane.translate import translate

    if explain is not None:
        click.echo(_explained(explain), nl=False)
        return
    if directory is None:
        raise click.UsageError("Missing argument 'DIRECTORY'.")
    contents = read_directory(directory, {}, None)
    catalog = admit(Catalog(), contents, refuses_unknown=unknown_fields == "refuse")
    objects = catalog.values
    findings = review(catalog, objects, translate(objects), [_suppression(text) for text in suppressed])
    is_failed = fail_on != "never" and any(
        _SEVERITIES.index(finding.severity) <= _SEVERITIES.index(fail_on) for finding in findings
    )
    _tell(output, findings, len(contents), len(catalog.objects), is_failed=is_failed)
    if is_failed:
        click.get_current_context().exit(ProblemFound.exit_code)


def _tell(output: Output, findings: "tuple[Finding, ...]", files: int, objects: int, *, is_failed: bool) -> None:
    import msgspec

    counts = Counter(str(finding.severity) for finding in findings)
    rows = [msgspec.to_builtins(finding) for finding in findings]
    if not output.is_table:
        output.show(
            {
                "schema": SCHEMA,
                "ok": not is_failed,
                "files": files,
                "objects": objects,
                "counts": {severity: counts[severity] for severity in _SEVERITIES},
                "findings": rows,
            },
            FINDINGS,
        )
        return
    if rows:
        output.show({"findings": rows}, FINDINGS)
    told = ", ".join(
        f"{counts[severity]} {severity}{'' if counts[severity] == 1 or severity == 'info' else 's'}"
        for severity in _SEVERITIES
        if counts[severity]
    )
    click.echo(f"{files} files, {objects} objects in force: {told or 'nothing to say'}")


def _suppression(text: str) -> "Suppression":
    from nodeagent.controlplane.suppress import Suppression

    try:
        return Suppression.parse(text)
    except ValueError as error:
        raise ConfigError(
            f"--suppress: {error}", check="Such as IST0118, or MN0204=AuthorizationPolicy shop/*."
        ) from error


def _explained(code: str) -> str:
    from nodeagent.controlplane.codes import page
    from nodeagent.controlplane.finding import CODES

    if code not in CODES:
        raise ConfigError(f"--explain: there is no code {code!r}", check="docs/codes.md lists them.")
    return page(code)
