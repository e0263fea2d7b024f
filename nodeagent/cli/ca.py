# SPDX-License-Identifier: Apache-2.0
"""`nodeagent ca`: the authority of a state directory, and the three steps by which its root is exchanged."""

import datetime as dt
from pathlib import Path

import click

from nodeagent.admin.schema import SCHEMA
from nodeagent.cli.command import Command
from nodeagent.cli.control_plane import state_dir_option
from nodeagent.cli.output import Output, Table, shows

ROOTS = Table(
    "roots",
    (
        ("USE", lambda row: row["use"]),
        ("UNTIL", lambda row: row["not_after"].partition("T")[0]),
        ("SHA256", lambda row: row["fingerprint"]),
    ),
    name=lambda row: row["fingerprint"],
)
_FORCED = "Though certificates are in use that would not be trusted."
_force = click.option("--force", "is_forced", is_flag=True, help=_FORCED)


@click.group()
def ca() -> None:
    r"""Shows the authority of a state directory, and exchanges its root while everything goes on.

    \b
    1. add-root   another root is trusted and signs nothing; bring root-cert.pem to the nodes
    2. use-root   it signs; the former root's key is gone
    3. drop-root  the former root is trusted no more; bring root-cert.pem to the nodes

    A running control plane follows by itself. Steps 2 and 3 are refused while certificates are in use that they would
    cut off: wait, or have agents renew theirs by
    nodeagent certs --renew
    """


@ca.command("show", cls=Command, examples=("nodeagent ca show",))
@state_dir_option
@shows
def show(output: Output, *, state_dir: Path) -> None:
    """Lists the roots that are trusted: which is in use, and until when each is valid."""
    from nodeagent.controlplane.rotation import fingerprint, read_roots
    from nodeagent.controlplane.state import StateDirectory

    used, roots = read_roots(StateDirectory(state_dir, is_made=False))
    rows = [
        {
            "use": "in use" if root == used else "trusted",
            "not_after": root.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "fingerprint": fingerprint(root),
        }
        for root in roots
    ]
    output.show({"schema": SCHEMA, "roots": rows}, ROOTS)


@ca.command("add-root", cls=Command, examples=("nodeagent ca add-root",))
@state_dir_option
def add(*, state_dir: Path) -> None:
    """Makes another root, which is trusted and signs nothing yet."""
    from nodeagent.controlplane.rotation import add_root, fingerprint
    from nodeagent.controlplane.state import StateDirectory

    root = add_root(StateDirectory(state_dir, is_made=False), _now())
    click.echo(f"trusted: sha256 {fingerprint(root)}")
    click.echo(f"Bring {state_dir / 'root-cert.pem'} to every node, then: nodeagent ca use-root")


@ca.command("use-root", cls=Command, examples=("nodeagent ca use-root", "nodeagent ca use-root --force"))
@state_dir_option
@_force
def use(*, state_dir: Path, is_forced: bool) -> None:
    """Has the added root sign. The former root's key is removed."""
    from nodeagent.controlplane.rotation import fingerprint, use_root
    from nodeagent.controlplane.state import StateDirectory

    root = use_root(StateDirectory(state_dir, is_made=False), _now(), is_forced=is_forced)
    click.echo(f"in use: sha256 {fingerprint(root)}")


@ca.command("drop-root", cls=Command, examples=("nodeagent ca drop-root", "nodeagent ca drop-root --force"))
@state_dir_option
@_force
def drop(*, state_dir: Path, is_forced: bool) -> None:
    """Trusts the root in use alone."""
    from nodeagent.controlplane.rotation import drop_roots, fingerprint
    from nodeagent.controlplane.state import StateDirectory

    dropped = drop_roots(StateDirectory(state_dir, is_made=False), _now(), is_forced=is_forced)
    for root in dropped:
        click.echo(f"dropped: sha256 {fingerprint(root)}")
    click.echo(f"Bring {state_dir / 'root-cert.pem'} to every node." if dropped else "nothing to drop")


@ca.command("revoke", cls=Command, examples=("nodeagent ca revoke 16767b1ad5e0fb7159007e2820bcb73e41a302aa",))
@click.argument("serial")
@state_dir_option
def revoke(*, serial: str, state_dir: Path) -> None:
    """Puts a certificate on the list of those that must not be used, ca-crl.pem in the state directory.

    SERIAL stands in the audit line of its issuance. A running control plane makes the list within a second, and every
    day; agents are told what it lists. Bring it to whoever else verifies by it (CRL_PATH of a ztunnel).
    """
    from nodeagent.controlplane.revocation import CRL
    from nodeagent.controlplane.revocation import revoke as note
    from nodeagent.controlplane.state import StateDirectory

    is_news = note(StateDirectory(state_dir, is_made=False), serial, _now())
    click.echo(f"revoked: see {state_dir / CRL}" if is_news else "revoked already")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
