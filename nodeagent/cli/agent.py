# SPDX-License-Identifier: Apache-2.0
"""`nodeagent agent`, `prepare-node` and `cleanup`. The flags are the fields of Config; a new field is a new flag."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nodeagent.cli.command import command
from nodeagent.config import Config, make_config
from nodeagent.errors import ConfigError

_ALIASES = {"pods_file": ("--pods",)}


def settings(function: Callable[..., None]) -> Callable[..., None]:
    """An option for each field of Config. All are text here: make_config parses, whatever the source was."""
    for field in reversed(dataclasses.fields(Config)):
        flag = "--" + field.name.replace("_", "-")
        default = f"default: {field.default}, " if field.default != "" else ""
        function = click.option(
            flag,
            *_ALIASES.get(field.name, ()),
            field.name,
            metavar=_metavar(field.default),
            help=f"{field.metadata['help']} [{default}env: {field.metadata['env']}]",
        )(function)
    return function


def _metavar(default: object) -> str:
    return "NUMBER" if isinstance(default, int | float) else "TEXT"


@command(
    examples=(
        "nodeagent agent --node node-a --pods pods.yaml --token /etc/nodeagent/token",
        "nodeagent agent --config /etc/nodeagent/agent.yaml --takeover",
        "XDS_ADDRESS=https://istiod.istio-system.svc:15012 NODE_NAME=node-a nodeagent agent",
    )
)
@click.option(
    "--config", "config_file", metavar="FILE", help="YAML file with settings, named as the flags with _ for -."
)
@click.option("--takeover", is_flag=True, help="Ask the agent that runs here to leave, and go on in its place.")
@settings
def agent(*, config_file: str | None, takeover: bool, **flags: str | None) -> None:
    """Runs the agent of this node.

    A setting is taken from its flag, else from its environment variable, else from the file of --config, else from its
    default. SIGTERM ends the agent and leaves programs, proxy namespace and workers to the next one.
    """
    config = make_config(flags, os.environ, read_settings(config_file) if config_file else {})
    from nodeagent.logs.process import set_up_logging

    set_up_logging(config.log_format, config.log_level)
    # After make_config, so that a wrong flag is told at once, and after logging is set up: this loads gRPC and more.
    from nodeagent.agent.run import run_agent

    run_agent(config, takeover=takeover)


@command(examples=("nodeagent cleanup", "nodeagent cleanup --run-dir /run/nodeagent --bpffs /sys/fs/bpf"))
@click.option("--run-dir", envvar="NODEAGENT_RUN_DIR", default=Config.run_dir, show_default=True, metavar="PATH")
@click.option("--bpffs", envvar="NODEAGENT_BPFFS", default=Config.bpffs, show_default=True, metavar="PATH")
def cleanup(*, run_dir: str, bpffs: str) -> None:
    """Removes what an agent left on this node: programs, workers, files.

    Captured connections end, and the pods talk in plain text from then on. It is refused while an agent runs.
    """
    from nodeagent.agent.cleanup import cleanup as clean

    done = clean(run_dir, bpffs)
    for words in done or ["nothing to remove"]:
        click.echo(words)


@command(name="prepare-node", examples=("nodeagent prepare-node", "nodeagent prepare-node --bpffs /sys/fs/bpf"))
@click.option("--run-dir", envvar="NODEAGENT_RUN_DIR", default=Config.run_dir, show_default=True, metavar="PATH")
@click.option("--bpffs", envvar="NODEAGENT_BPFFS", default=Config.bpffs, show_default=True, metavar="PATH")
def prepare_node(*, run_dir: str, bpffs: str) -> None:
    """Mounts what an agent without privilege could not: bpffs, and the proxy namespace with its sysctls.

    In a cluster the DaemonSet's init container runs it. An agent that has the README's privileges needs it not.
    """
    from nodeagent.kernel.preparation import prepare_node as prepare

    for words in prepare(run_dir, bpffs) or ["nothing to do"]:
        click.echo(words)


def read_settings(path: str) -> dict[str, Any]:
    """The file of --config. Raises ConfigError naming it."""
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"--config {path}: {words}", check="Is the path right and the file readable?") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path}: {' '.join(str(error).split())}", check="Is it YAML?") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"--config {path}: settings by name are expected", check="Such as `node: node-a`.")
    return found
