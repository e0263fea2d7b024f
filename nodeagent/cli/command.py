# SPDX-License-Identifier: Apache-2.0
"""A click command whose help ends with examples, line by line as they would be typed."""

from collections.abc import Callable, Sequence
from typing import Any

import click


class Command(click.Command):
    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        write_lines(formatter, "Examples", self.examples)


def command(name: str | None = None, *, examples: Sequence[str]) -> Callable[[Callable[..., Any]], Command]:
    """As click.command; `examples` are whole lines."""
    return click.command(name, cls=Command, examples=examples)


def write_lines(formatter: click.HelpFormatter, heading: str, lines: Sequence[str]) -> None:
    """A section that is not wrapped."""
    if lines:
        with formatter.section(heading):
            for line in lines:
                formatter.write(f"{' ' * formatter.current_indent}{line}\n")
