# SPDX-License-Identifier: Apache-2.0
"""`nodeagent cni`: the plugin that holds pods of the mesh until this node's agent has them."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodeagent.cli.command import Command
from nodeagent.config import Config, make_config

if TYPE_CHECKING:
    from nodeagent.kubernetes.api import ApiServer
    from nodeagent.kubernetes.cni import CniPlugin

log = logging.getLogger(__name__)

_EXCLUDED = "istio-system,kube-system,nodeagent-system"
"""What an agent needs to be of use, so it must start without one."""


def _places(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--bin-dir", default="/opt/cni/bin", show_default=True, help="Where the runtime has its plugins."),
        click.option("--net-dir", default="/etc/cni/net.d", show_default=True, help="Where it has lists of plugins."),
        click.option(
            "--program",
            default="/usr/local/bin/nodeagent-cni",
            show_default=True,
            help="The plugin, which is copied: daemonset/cni.c, compiled.",
        ),
        click.option(
            "--run-dir",
            envvar="NODEAGENT_RUN_DIR",
            default=Config.run_dir,
            show_default=True,
            help="Where the agent has its sockets on the node.",
        ),
        click.option(
            "--exclude-namespaces",
            envvar="NODEAGENT_CNI_EXCLUDE_NAMESPACES",
            default=_EXCLUDED,
            show_default=True,
            help="Whose pods start also without an agent, with commas.",
        ),
    ):
        function = option(function)
    return function


@click.group()
def cni() -> None:
    """Keeps a CNI plugin on this node that holds pods of the mesh until its agent has them."""


@cni.command(
    cls=Command,
    examples=(
        "nodeagent cni install --daemonset nodeagent-system/nodeagent-cni",
        "nodeagent cni install --net-dir /etc/cni/net.d --bin-dir /usr/lib/cni",
    ),
)
@_places
@click.option(
    "--daemonset", metavar="NAMESPACE/NAME", help="When told to stop, ask whether it is removed; uninstall then."
)
@click.option("--log-format", envvar="LOG_FORMAT", default=Config.log_format, show_default=True)
def install(*, daemonset: str | None, log_format: str, **places: str) -> None:
    """Installs the plugin, and again whenever another one writes the node's list anew, until it is told to stop.

    It stays then, so that no pod starts unasked during an upgrade, unless the DaemonSet of --daemonset is removed.
    """
    from nodeagent.logs.process import set_up_logging

    set_up_logging(log_format, "info")
    asyncio.run(_install(_plugin(**places), daemonset))


@cni.command(cls=Command, examples=("nodeagent cni uninstall", "nodeagent cni uninstall --all"))
@_places
@click.option("--all", "is_whole", is_flag=True, help="The program, too: when no pod is left that it was asked about.")
def uninstall(*, is_whole: bool, **places: str) -> None:
    """Takes the plugin out of the node's lists. Pods that start afterwards are not held.

    The program stays: CRI-O runs it once more for each pod that has started meanwhile, and could not remove it else.
    """
    for words in _plugin(**places).uninstall(is_whole=is_whole) or ["nothing to remove"]:
        click.echo(words)


@cni.command(cls=Command, examples=("nodeagent cni check",))
@_places
def check(**places: str) -> None:
    """Tells whether the plugin is in force on this node: of this release, and in the list that is read."""
    _plugin(**places).check()
    click.echo("in force")


def _plugin(*, program: str, run_dir: str, exclude_namespaces: str, net_dir: str, bin_dir: str) -> "CniPlugin":
    from nodeagent.kubernetes.cni import CniPlugin
    from nodeagent.kubernetes.conflist import make_entry

    excluded = {name for name in map(str.strip, exclude_namespaces.split(",")) if name}
    entry = make_entry(Config(run_dir=run_dir).admin_socket, excluded)
    return CniPlugin(Path(program), entry, Path(net_dir), Path(bin_dir))


def _api() -> "ApiServer":
    from nodeagent.kubernetes.api import ApiServer

    config = make_config({"kubernetes": "on", "node": "this one"}, os.environ, {})
    return ApiServer(config.kubernetes_host, config.kubernetes_port, config.kubernetes_ca, config.kubernetes_token)


async def _install(plugin: "CniPlugin", daemon_set: str | None) -> None:
    from nodeagent.kubernetes.api import ApiRefused
    from nodeagent.kubernetes.cni import confirm, is_removed, parse_name

    main = asyncio.current_task()
    assert main is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, main.cancel)
    if daemon_set:
        parse_name(daemon_set)
    api = _api() if daemon_set else None
    try:
        async with asyncio.TaskGroup() as tasks:
            # At once: the node's CNI may have written its list anew at boot, and the API be reached by Services later.
            keeping = tasks.create_task(plugin.keep(), name="cni plugin")
            if api is not None and daemon_set is not None:
                try:
                    await confirm(api, daemon_set)
                except ApiRefused:
                    keeping.cancel()
                    for words in plugin.uninstall():
                        log.info(words)
                    raise
    except asyncio.CancelledError:
        main.uncancel()
    if api is not None and daemon_set is not None and await is_removed(api, daemon_set):
        for words in plugin.uninstall():
            log.info(words)
    else:
        log.info("stopped; the plugin stays, and holds pods of the mesh while there is no agent")
