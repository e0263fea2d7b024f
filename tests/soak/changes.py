# SPDX-License-Identifier: Apache-2.0
"""What is done to the mesh while it carries the load. Each returns when the change is in force. Raises ClaimFalse."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import Echo, Fate, fate
from nodeagent.lab.demo.stage import NODES, PORT, Stage
from tests.soak.losses import IN_FLIGHT_SECONDS, RESET, Loss

_WITHIN_SECONDS = 60.0
_POLICY = "35-soak.yaml"


class Changes:
    CYCLE = ("policy", "replacement", "rotation", "policy", "replacement", "kill")

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.made: Counter[str] = Counter()
        self.handed_over = 0
        self.cut: list[str] = []
        """By a replacement, a line each: nobody was to be."""
        self.lost: list[Loss] = []
        """By kills."""
        self._kinds: Mapping[str, Callable[[str], None]] = {
            "policy": self._change_policy,
            "rotation": self._rotate,
            "replacement": self._replace,
            "kill": self._kill,
        }

    def make(self, node: str) -> str:
        """The next of the cycle, where it is one of a node on this one. Returns its name."""
        kind = self.CYCLE[self.made.total() % len(self.CYCLE)]
        self._kinds[kind](node)
        self.made[kind] += 1
        return kind

    def _change_policy(self, _node: str) -> None:
        """Backoffice may not any more, and what it has open is cut; then it may again. Nobody else notices."""
        batch, db = self._stage.pod("batch"), self._stage.pod("db")
        held = [Echo(batch, ip, PORT) for ip in db.ips]
        for echo in held:
            echo.exchange()
        deny = mesh.authorization("soak", "shop", "db", "DENY", [mesh.rule(namespaces=["backoffice"])])
        self._stage.write(_POLICY, [deny])
        for echo in held:
            demand(echo.seconds_until_cut(_WITHIN_SECONDS) is not None, "an open connection outlived its policy")
            echo.close()
        demand(
            all(fate(batch, ip, PORT, seconds=_WITHIN_SECONDS) is Fate.REFUSED for ip in db.ips),
            "a policy cut what is open, and no more",
        )
        self._stage.write(_POLICY, [])
        for ip in db.ips:
            eventually(lambda ip=ip: fate(batch, ip, PORT) is Fate.SERVED, _WITHIN_SECONDS, "the change back")  # type: ignore[misc]

    def _rotate(self, _node: str) -> None:
        before = self._serials()
        self._stage.renew_certificates()
        eventually(lambda: not before & self._serials(), _WITHIN_SECONDS, "all certificates are new ones")

    def _serials(self) -> set[str]:
        return {serial for node in NODES for serial in self._stage.certificate_serials(node)}

    def _replace(self, node: str) -> None:
        told = self._stage.replace_worker(node)
        self.handed_over += told["handed_over"]
        if told["cut"] or told["left"]:
            self.cut.append(f"worker of {node} replaced: {told['cut']} connections cut, {told['left']} left")

    def _kill(self, node: str) -> None:
        [former] = self._stage.worker_pids(node)
        began = time.monotonic()
        self._stage.kill_worker(former)
        self.lost.append(Loss(began, time.monotonic() + IN_FLIGHT_SECONDS, RESET))
        eventually(
            lambda: self._stage.worker_pids(node) not in ([], [former]), _WITHIN_SECONDS, f"{node} has another worker"
        )
