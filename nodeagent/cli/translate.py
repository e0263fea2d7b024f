# SPDX-License-Identifier: Apache-2.0
"""`nodeagent translate`: what a directory of YAML means to the mesh's agents."""

import json
from pathlib import Path

import click

from nodeagent.cli.command import Command

_FILE = click.Path(path_type=Path)
_VALUED = frozenset({"--enrolment", "-o", "--output"})


class _Steps(Command):
    """Several files may stand behind one --step, as a shell's * puts them there."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        has_path = is_value = is_step = False
        for word in args:
            if is_value:
                is_value = False
            elif word.startswith("-"):
                is_step, is_value = word == "--step", word == "--step" or word in _VALUED
            elif is_step and has_path:
                spread.append("--step")
            else:
                has_path = True
            spread.append(word)
        return super().parse_args(ctx, spread)


@click.command(
    cls=_Steps,
    examples=(
        "nodeagent translate examples/mesh.d",
        "nodeagent translate mesh.yaml --step 01-new-pod.yaml --step 02-delete-service.yaml",
        "nodeagent translate mesh.yaml --step step-*.yaml",
        "nodeagent translate cluster.yaml --enrolment annotation -o jsonl > told.jsonl",
    ),
)
@click.argument("path", type=_FILE)
@click.option(
    "--step",
    "steps",
    type=_FILE,
    multiple=True,
    metavar="FILE...",
    help="Files whose objects are applied, or deleted if `delete` is in the file's name. May be given several times.",
)
@click.option(
    "--enrolment",
    type=click.Choice(["label", "annotation"]),
    help="What enrols a pod: the label istio.io/dataplane-mode, or istio-cni's annotation. Goes before MeshConfig.",
)
@click.option("--extensions", is_flag=True, help="Also what only this project's agents are told, as a type of its own.")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["jsonl"]),
    default="jsonl",
    show_default=True,
    help="One object a line.",
)
def translate(*, path: Path, steps: tuple[Path, ...], enrolment: str | None, extensions: bool, form: str) -> None:
    """Prints what agents would be told of the Kubernetes and Istio YAML at PATH, a file or a directory.

    One line for each resource: `type` (istio.workload.Address or istio.security.Authorization), `name`, and `json` as
    protojson. Then one line for each step: `step` (the name of its file), `changed` (resources that are new or differ,
    in the same form) and `removed` (names). docs/istiod.md compares that with istiod, which has no words for what
    --extensions adds.

    What the control plane would refuse or doubt is told on standard error, and left out.

    Exit status: 0 translated, 2 a wrong flag, or a file that cannot be read or is no YAML.
    """
    del form  # there is one
    from google.protobuf.json_format import MessageToDict

    from nodeagent.controlplane.encode import Resource
    from nodeagent.controlplane.objects import Enrolment
    from nodeagent.controlplane.rehearsal import rehearse
    from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, EXTENSION, MESSAGES

    def shown(type_url: str, resource: Resource) -> dict[str, object]:
        message = MESSAGES[type_url].FromString(resource.value)
        return {"type": message.DESCRIPTOR.full_name, "name": resource.name, "json": MessageToDict(message)}

    types = (ADDRESS, AUTHORIZATION, EXTENSION) if extensions else (ADDRESS, AUTHORIZATION)
    for number, change in enumerate(rehearse(path, steps, Enrolment(enrolment) if enrolment else None, types)):
        for finding in change.findings:
            click.echo(str(finding), err=True)
        changed = [shown(type_url, resource) for type_url, resource in change.changed]
        if number == 0:
            for one in changed:
                click.echo(json.dumps(one))
        else:
            click.echo(json.dumps({"step": change.name, "changed": changed, "removed": change.removed}))
