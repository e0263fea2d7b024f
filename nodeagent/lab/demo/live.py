# SPDX-License-Identifier: Apache-2.0
"""The live view after the tour: who reaches whom, told whenever it changes, until Ctrl-C."""

import os
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from nodeagent.lab.demo.client import is_served
from nodeagent.lab.demo.stage import PORT, Stage

LOOK_SECONDS = 0.25
PAIRS = (("web", "db"), ("web", "api"), ("batch", "db"), ("legacy", "db"))


def guide(stage: Stage, page: str) -> str:
    """What a visitor may try."""
    dialled = f"exec 3<>/dev/tcp/{stage.pod('db').ipv4}/{PORT};"
    return "\n".join(
        (
            "Try, in another terminal, as root:",
            f"  alias lab='{stage.shell_words}'",
            f"  lab batch bash -c '{dialled} echo WHO >&3; head -1 <&3'      (a connection: refused)",
            f"  lab node-b nodeagent explain backoffice/batch shop/db:{PORT}          (why, and what would change it)",
            f"  edit {stage.mesh_directory}/30-policy.yaml",
            "    (to ask first: copy mesh.d to /tmp/new.d, edit there; ... explain ... --policy-dir /tmp/new.d)",
            "  lab node-b nodeagent flows --from backoffice/batch     (what became of each, by which policy)",
            "  lab node-b nodeagent --help                            (status, pods, policies, certs, ...)",
            f"  lab web bash -c '{dialled} echo HOW >&3; cat <&3' &     (one that stays open)",
            "  lab node-b nodeagent connections                       (there it is, from web to db)",
            f"  {page}                                 (who connects to whom, in a browser)",
            "It refuses backoffice now. Let it refuse shop: web's connection is cut. Below is told whatever changes.",
            f"Logs: {stage.directory}/*.log. Ctrl-C ends and removes everything.",
        )
    )


def watch(stage: Stage, show: Callable[[str], None]) -> None:
    """Ends by KeyboardInterrupt."""

    def tell(words: str) -> None:
        show(f"  {time.strftime('%H:%M:%S')}  {words}")

    known: dict[tuple[str, str], bool] = {}
    with (stage.directory / "control-plane.log").open(encoding="utf-8", errors="replace") as log:
        log.seek(0, os.SEEK_END)
        while True:
            for message in news(log):
                tell(f"control plane: {message.replace(f'{stage.mesh_directory}/', '')}")
            for pair in PAIRS:
                source, target = pair
                served = is_served(stage.pod(source), stage.pod(target).ipv4, PORT, seconds=1.0)
                if known.get(pair) is not served:
                    known[pair] = served
                    tell(f"{source} to {target}:{PORT} is {'served' if served else 'refused'}")
            time.sleep(LOOK_SECONDS)


def news(log: TextIO) -> Iterator[str]:
    """What the control plane has said about its directory since the last call; a line being written waits for it."""
    while True:
        begin = log.tell()
        line = log.readline()
        if not line.endswith("\n"):
            log.seek(begin)
            return
        _time, _level, scope, message = (*line.rstrip("\n").split("\t", 3), "", "", "")[:4]
        if scope == "controlplane.run":
            yield message
