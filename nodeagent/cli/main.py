# SPDX-License-Identifier: Apache-2.0
"""The command `nodeagent`: finds the subcommand, and turns whatever ends it into a message and an exit status."""

import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

import click

from nodeagent.cli.command import write_lines
from nodeagent.errors import Exit, NodeagentError

BUG, INTERRUPTED = Exit.BUG.value, Exit.INTERRUPTED.value
PIPE_CLOSED = Exit.PROBLEM.value
"""What click itself ends with when nobody reads on."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Of standard output, which may be a file."""

COMMANDS = {
    "demo": ("demo", "Builds a mesh of two nodes on this machine, and proves what it promises."),
    "status": ("queries", "Tells whether this node's agent is well."),
    "pods": ("queries", "Lists this node's pods: which are captured, and why the others are not."),
    "workloads": ("queries", "Lists the workloads that this node knows."),
    "services": ("queries", "Lists the Services that this node knows."),
    "policies": ("queries", "Lists the authorization policies, or reads one back in words."),
    "certs": ("queries", "Lists the certificates of this node's identities."),
    "connections": ("queries", "Lists the open connections of this node's pods."),
    "flows": ("flows", "Lists connections that ended or were refused; filters, and follows."),
    "edges": ("top", "Lists who talks to whom on this node, and how that is secured."),
    "top": ("top", "Tells who is busy: rates by workload, Service or edge."),
    "workers": ("workers", "Replaces this node's tunnel workers without cutting a connection."),
    "log": ("queries", "Tells the log level of the agent and its workers, or changes it while they run."),
    "explain": ("explain", "Says what would become of a connection, and which policy decides."),
    "probe": ("probe", "Tries whether this node's tunnels reach the other nodes, and how fast."),
    "trace": ("trace", "Follows real packets of a pod through the kernel programs and the proxy, hop by hop."),
    "bpf": ("bpf", "Shows the kernel programs and maps, with addresses and names where the kernel has numbers."),
    "check": ("check", "Checks whether this machine can run the agent."),
    "agent": ("agent", "Runs the agent of this node."),
    "prepare-node": ("agent", "Mounts what an agent without privilege could not: bpffs and the proxy namespace."),
    "cni": ("cni", "Keeps a CNI plugin on this node that holds pods of the mesh until its agent has them."),
    "cleanup": ("agent", "Removes what an agent left on this node: programs, workers, files."),
    "analyze": ("analyze", "Says what is wrong or doubtful in a directory of YAML."),
    "control-plane": ("control_plane", "Serves a mesh from a directory of YAML."),
    "translate": ("translate", "Prints what agents would be told of a directory of YAML."),
    "proxies": ("proxies", "Lists who is connected to the control plane, and whether they have what is in force."),
    "ca": ("ca", "Shows the authority of a state directory, and exchanges its root."),
    "token": ("control_plane", "Makes the bearer token by which a node's agent is known."),
    "lab": ("lab", "Lists what demos and tests have on this machine, runs commands in it, removes what they left."),
    "dump": ("queries", "Writes all that the agent knows at this moment as JSON, for -f of other commands."),
    "report": ("report", "Writes what somebody elsewhere needs to see of this node, as one archive."),
    "completion": ("completion", "Prints the completion script of a shell."),
    "version": ("queries", "Tells the versions of this command and of the agent."),
}
"""Module under nodeagent/cli and one line for each command, in the order of the help: known without importing any."""

_EXAMPLES = (
    "sudo nodeagent demo",
    "nodeagent status",
    "nodeagent explain shop/web shop/db:5432",
    "nodeagent pods --node node-a",
)
EXIT_STATUS = tuple(f"{status.value:<4}{status.words}" for status in Exit)
_COMPLETION = ('eval "$(nodeagent completion bash)"',)


class LazyGroup(click.Group):
    """Imports the module of a command when the command is asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"nodeagent.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_lines(formatter, "Examples", _EXAMPLES)
        write_lines(formatter, "Exit status", EXIT_STATUS)
        write_lines(formatter, "Shell completion", _COMPLETION)


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's shape
    if value and not ctx.resilient_parsing:
        from nodeagent.version import VERSION

        click.echo(f"nodeagent {VERSION}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error that nothing expected.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli(*, debug: bool) -> None:
    """One agent per node for Istio's ambient mode: steering by eBPF, mutual TLS, L4 policy."""
    del debug  # read by run(), which outlives the command


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command; whatever happens, what comes back is an exit status and what was said fits a person."""
    try:
        # NO_COLOR is for whatever a command says; without it, what is no terminal gets none.
        colour = False if os.environ.get("NO_COLOR") else None
        # As it was typed, for who runs it on another node.
        typed = tuple(arguments)
        status = cli.main(list(typed), prog_name="nodeagent", standalone_mode=False, color=colour, obj=typed)
        sys.stdout.flush()
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:  # `nodeagent workloads | head`: the reader has enough
        _write_no_more()
        return PIPE_CLOSED
    except BaseExceptionGroup as group:
        failures = list(_leaves(group))
        if all(isinstance(failure, KeyboardInterrupt) for failure in failures):
            return INTERRUPTED
        strangers = [failure for failure in failures if not isinstance(failure, NodeagentError)]
        return _fail(strangers[0] if strangers else failures[0], arguments)
    except Exception as error:  # noqa: BLE001 - the one place where a bug ends; it is told and logged
        return _fail(error, arguments)
    return status if isinstance(status, int) else 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for failure in group.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            yield from _leaves(failure)
        else:
            yield failure


def _fail(error: BaseException, arguments: Sequence[str]) -> int:
    is_debugging = "--debug" in arguments
    if is_debugging:
        traceback.print_exception(error)
    if isinstance(error, NodeagentError):
        _say(str(error), error.check)
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _FULL:
        _write_no_more()
        _say(f"what is said cannot be written: {error.strerror}", "Is there room where standard output goes?")
        return Exit.NOT_POSSIBLE
    if logging.getLogger().handlers:  # of a daemon: its log has to tell what ended it
        logging.getLogger("nodeagent").error("this is a bug", exc_info=error)
    words = traceback.format_exception_only(error)[-1].strip()
    _say(
        f"this is a bug of nodeagent: {words}",
        "Please report it." if is_debugging else "Please report it with what `nodeagent --debug ...` prints.",
    )
    return BUG


def _write_no_more() -> None:
    """What is left of standard output goes nowhere, so that the interpreter's end does not try again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, check: str) -> None:
    word = "error:" if os.environ.get("NO_COLOR") else click.style("error:", fg="red")  # click drops it in a pipe
    click.echo(f"{word} {message}", err=True)
    if check:
        click.echo(f"check: {check}", err=True)


if __name__ == "__main__":
    main()
