# SPDX-License-Identifier: Apache-2.0
"""`nodeagent completion`, and what is offered for names: those that the agent knows, if it answers at once.

Completion must neither wait nor fail: an agent that is away or slow offers nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from nodeagent.cli.command import command

SHELLS = ("bash", "zsh", "fish")
PATIENCE_SECONDS = 0.5
VARIABLE = "_NODEAGENT_COMPLETE"

Names = Callable[[Mapping[str, Any]], Iterator[str]]
Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@command(
    examples=(
        "nodeagent completion bash > /etc/bash_completion.d/nodeagent",
        'eval "$(nodeagent completion zsh)"',
        "nodeagent completion fish > ~/.config/fish/completions/nodeagent.fish",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(*, shell: str) -> None:
    """Prints the completion script of a shell; names of pods, Services and policies are the agent's."""
    kind = get_completion_class(shell)
    assert kind is not None  # click has these three
    made = kind(click.Group("nodeagent"), {}, "nodeagent", VARIABLE)
    # Not made.source(), which asks the shell at hand for its version: the script may be for another machine.
    click.echo(made.source_template % made.source_vars())


def offer(*sources: tuple[str, Names]) -> Offer:
    """A `shell_complete` of names from the answers of these routes."""

    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from nodeagent.admin.client import AdminClient
        from nodeagent.cli.output import default_socket
        from nodeagent.errors import NodeagentError

        agent = AdminClient(ctx.params.get("socket_path") or default_socket(), PATIENCE_SECONDS)
        found: set[str] = set()
        for route, names in sources:
            try:
                found.update(names(agent.fetch(route)))
            except NodeagentError:
                continue
        return [CompletionItem(name) for name in sorted(found) if name.startswith(incomplete) and name.isprintable()]

    return complete


def _of(member: str, name: str = "name") -> Names:
    return lambda answer: (f"{row['namespace']}/{row[name]}" for row in answer[member])


def _ports(answer: Mapping[str, Any]) -> Iterator[str]:
    for row in answer["services"]:
        for port in row["ports"]:
            yield f"{row['namespace']}/{row['name']}:{port}"


WORKLOADS = offer(("/workloads", _of("workloads")))
PODS = offer(("/pods", _of("pods", "pod")))
POLICIES = offer(("/policies", _of("policies")))
SERVICES = offer(("/services", _of("services", "hostname")))
DESTINATIONS = offer(("/services", _ports))
CONNECTIONS = offer(("/connections", lambda answer: (row["id"] for row in answer["connections"])))
