# SPDX-License-Identifier: Apache-2.0
"""`nodeagent control-plane` and `nodeagent token`: the embedded control plane, and the tokens that nodes show it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import click

from nodeagent.cli.command import command
from nodeagent.errors import ConfigError

_STATE_DIR = "/var/lib/nodeagent/control-plane"
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NODE = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)

ADMIN_SOCKET = "admin.sock"
"""In the state directory, where `nodeagent proxies` looks for it."""

_MAX_SOCKET_PATH = 96
"""unix(7) has room for 107 bytes; it is bound beside its place first, with the number of the process."""

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=_STATE_DIR,
    show_default=True,
    help="Keys, root certificate, findings.json and the last good objects.",
)


@command(
    "control-plane",
    examples=(
        "nodeagent control-plane --config-dir examples/mesh.d --state-dir /tmp/control-plane",
        "nodeagent token --node node-a --state-dir /tmp/control-plane --output node-a.token",
    ),
)
@click.option(
    "--config-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory of Kubernetes and Istio YAML; it is watched.",
)
@state_dir_option
@click.option("--listen", default="127.0.0.1:15012", show_default=True, help="HOST:PORT of xDS and CA, with TLS.")
@click.option(
    "--server-name",
    "server_names",
    multiple=True,
    help="Name or address for the serving certificate, besides localhost, istiod.istio-system.svc and the listening "
    "address. May be given several times.",
)
@click.option(
    "--enrolment",
    type=click.Choice(["label", "annotation"]),
    help="What enrols a pod: the label istio.io/dataplane-mode, or istio-cni's annotation. Goes before MeshConfig.",
)
@click.option(
    "--unknown-fields",
    type=click.Choice(["refuse", "warn"]),
    default="refuse",
    show_default=True,
    help="What a field means that an API does not have; of policies it is always refused.",
)
@click.option(
    "--ca-dir",
    type=click.Path(path_type=Path),
    help="Sign by the authority in this directory: ca-cert.pem, ca-key.pem, root-cert.pem and cert-chain.pem, as in "
    "Istio's Secret cacerts. Changed files are read again.  [default: an authority of its own in the state directory]",
)
@click.option(
    "--admin-socket",
    type=click.Path(path_type=Path),
    help="Where `nodeagent proxies` is answered.  [default: admin.sock in the state directory]",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def control_plane(  # noqa: PLR0913 - a flag each
    *,
    config_dir: Path,
    state_dir: Path,
    listen: str,
    server_names: tuple[str, ...],
    enrolment: str | None,
    unknown_fields: str,
    ca_dir: Path | None,
    admin_socket: Path | None,
    log_format: str,
    log_level: str,
) -> None:
    """Serves a mesh from a directory of YAML: delta xDS and certificates, to agents and ztunnels alike.

    An edit is in force a few milliseconds after the file is closed. An invalid object keeps its last good version; what
    is wrong is logged with file and line, and stands in findings.json of the state directory; `nodeagent analyze` says
    the same of a directory beforehand.

    Exit status: 0 stopped by a signal, 2 wrong flag, unreadable directory or damaged state, 4 missing privilege, 5 port
    in use.
    """
    import asyncio

    from nodeagent.logs.process import set_up_logging

    set_up_logging(log_format, log_level)
    # After logging is set up: this loads gRPC.
    from nodeagent.admin.server import AdminServer
    from nodeagent.controlplane.objects import Enrolment
    from nodeagent.controlplane.run import SERVER_NAMES, Admin, Route, Settings, run

    settings = Settings(
        config_dir=config_dir,
        state_dir=state_dir,
        listen=listen,
        server_names=(*SERVER_NAMES, *server_names),
        ca_dir=ca_dir,
        enrolment=Enrolment(enrolment) if enrolment else None,
        refuses_unknown=unknown_fields == "refuse",
    )

    def ready(address: str) -> None:
        click.echo(f"ready: xDS and CA on {address}, root certificate {(ca_dir or state_dir) / 'root-cert.pem'}")

    def open_admin(routes: Mapping[str, Route]) -> Admin:
        return AdminServer(str(admin_socket or state_dir / ADMIN_SOCKET), routes, whose="control plane")

    path = state_dir / ADMIN_SOCKET
    if admin_socket is None and len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        click.echo(f"warning: {path} is too long for a socket: `nodeagent proxies` needs --admin-socket", err=True)
        asyncio.run(run(settings, ready))
    else:
        asyncio.run(run(settings, ready, open_admin))


@command(examples=("nodeagent token --node node-a --output node-a.token", "nodeagent token --node node-a --ttl 90d"))
@click.option("--node", required=True, help="Name of the node, as pods carry it in spec.nodeName.")
@state_dir_option
@click.option("--ttl", default="24h", show_default=True, help="How long it is valid: 30m, 24h, 90d.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write it to, for its owner alone and without a newline: a ztunnel sends what stands there as it is.",
)
def token(*, node: str, state_dir: Path, ttl: str, output: Path | None) -> None:
    """Makes the bearer token by which a node's agent is known to the control plane of this state directory.

    Whoever has it can get the certificates of all pods that are placed on this node.
    """
    import time

    from nodeagent.controlplane import token as tokens
    from nodeagent.controlplane.run import open_token_key
    from nodeagent.controlplane.state import SECRET, StateDirectory

    if not _NODE.fullmatch(node):
        raise ConfigError(f"--node: {node!r} is not the name of a node", check="Lower case, digits, dots and dashes.")
    text = tokens.make_token(
        open_token_key(StateDirectory(state_dir)), node, now=time.time(), ttl_seconds=_seconds(ttl)
    )
    if output is None:
        click.echo(text)
    else:
        StateDirectory(output.absolute().parent).write(output.name, text.encode(), SECRET)


def _seconds(text: str) -> int:
    found = _DURATION.fullmatch(text)
    seconds = int(found.group(1)) * _SECONDS[found.group(2)] if found else 0
    if seconds <= 0:
        raise ConfigError(f"--ttl: {text!r} is not a duration", check="Such as 30m, 24h or 90d.")
    return seconds
