# SPDX-License-Identifier: Apache-2.0
"""What both peers' tests ask of traffic."""

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import is_served
from nodeagent.lab.demo.stage import PORT, Stage
from nodeagent.lab.demo.under_load import Report

MARKER = b"what nobody on the wire may read"
MORE = 20
"""Connections to each place, between changes."""
WITHIN_SECONDS = 60.0


def becomes(stage: Stage, source: str, target: str, port: int = PORT, *, served: bool) -> None:
    """In both families."""
    for ip in stage.lab.pods[target].ips:
        words = f"{source} to {ip}:{port} is {'served' if served else 'refused'}"
        eventually(lambda ip=ip: is_served(stage.pod(source), ip, port) is served, WITHIN_SECONDS, words)  # type: ignore[misc]


def is_whole(report: Report) -> None:
    assert (report.failures, report.broken) == ((), ())
    assert report.whole == len(report.served), "each stream arrived unchanged"
