# SPDX-License-Identifier: Apache-2.0
"""The live view after the tour: who reaches whom, told whenever it changes, until Ctrl-C."""

import time
from collections.abc import Callable
from pathlib import Path

from nodeagent.lab.demo.client import is_served
from nodeagent.lab.demo.stage import PORT, Stage

LOOK_SECONDS = 0.25
PAIRS = (("web", "db"), ("web", "api"), ("batch", "db"), ("legacy", "db"))


def guide(stage: Stage) -> str:
    """What a visitor may try."""
    return "\n".join(
        (
            f"The mesh lives in {stage.mesh_directory}. Try, in another terminal:",
            f"  edit {stage.mesh_directory}/30-policy.yaml      and see below what changes (a first one is there)",
            "  ip netns exec na-web ping -c1 " + stage.pod("db").ipv4 + "          the pods are ordinary namespaces",
            f"  {stage.shell_words('node-a')} explain shop/web shop/db:{PORT}",
            f"  {stage.shell_words('node-b')} connections",
            f"Logs: {stage.directory}/*.log. Ctrl-C ends and removes everything.",
        )
    )


def watch(stage: Stage, show: Callable[[str], None]) -> None:
    """Ends by KeyboardInterrupt."""
    known: dict[tuple[str, str], bool] = {}
    seen_log = _size(stage.directory / "control-plane.log")
    while True:
        for line in _news(stage.directory / "control-plane.log", seen_log):
            show(f"  control plane  {line}")
        seen_log = _size(stage.directory / "control-plane.log")
        for pair in PAIRS:
            source, target = pair
            served = is_served(stage.pod(source), stage.pod(target).ipv4, PORT, seconds=1.0)
            if known.get(pair) is not served:
                known[pair] = served
                show(f"  {time.strftime('%H:%M:%S')}  {source} to {target}:{PORT}  {'served' if served else 'refused'}")
        time.sleep(LOOK_SECONDS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _news(path: Path, since: int) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as log:
        log.seek(since)
        return [line.strip() for line in log if "mesh.d" in line or "generation" in line]
