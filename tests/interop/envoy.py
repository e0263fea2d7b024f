# SPDX-License-Identifier: Apache-2.0
"""The Envoy process of the tests: in which ways it is set up, how it is started, and how it is asked.

It stands in the outsider's namespace, from where it reaches both workers. One process has all ways and gates.
"""

import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodeagent.kernel.netns import enter_netns
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from tests.e2e.proxy.authority import Authority
from tests.e2e.proxy.mesh import CLIENT, SERVER
from tests.e2e.proxy.wires import PORT, Wires
from tests.interop.configuration import LARGE_FRAMES, NARROW, WIDE, Credentials, Gate, Way, bootstrap

ENVOY = Identity("cluster.local", "apps", "envoy")
DENIED = Identity("cluster.local", "apps", "denied")
STRANGER = Identity("elsewhere.example", "apps", "envoy")
NOBODY = Identity("cluster.local", "apps", "nobody")

BEHIND_GATES = 9000
"""Port on loopback of Envoy's namespace where the application behind the gates listens."""


def ways(wires: Wires, authority: Authority) -> list[Way]:
    """Everywhere the target is the server; what differs is how Envoy goes there."""
    made: list[Way] = []

    def add(name: str, *, family: int = 0, who: Identity = ENVOY, signer: Authority = authority, **more: Any) -> None:
        credentials = Credentials(pem=signer.issue(str(who)), roots=authority.roots)
        addresses = wires.server.addresses[family], wires.outsider.addresses[family]
        terms = {"expects": SERVER} | more
        made.append(
            Way(
                name=name,
                port=11000 + len(made),
                target=addresses[0],
                target_port=PORT,
                own_ip=addresses[1],
                credentials=credentials,
                **terms,
            )
        )

    add("wide")
    add("wide6", family=1)
    add("narrow", http2=NARROW)
    add("large-frames", http2=WIDE | LARGE_FRAMES)
    add("rotating", streams_per_tunnel=7)
    add("denied", who=DENIED)
    add("stranger", who=STRANGER)
    add("forger", signer=Authority("another root"))
    add("suspicious", expects=NOBODY)
    return made


def gates(wires: Wires, authority: Authority) -> list[Gate]:
    """One address each, the outsider's own first. Their workloads all claim Envoy's identity, but for `impostor`."""
    made: list[Gate] = []
    stranger = Authority("another root")

    def add(
        name: str, *more_addresses: Ip, signer: Authority = authority, admits: Identity = CLIENT, **more: Any
    ) -> None:
        made.append(
            Gate(
                name=name,
                addresses=(Ip(f"10.3.0.{2 + len(made)}"), *more_addresses),
                application=BEHIND_GATES,
                credentials=Credentials(pem=signer.issue(str(ENVOY)), roots=authority.roots),
                admits=admits,
                **more,
            )
        )

    add("wide", wires.outsider.v6)
    add("narrow", http2=NARROW)
    add("large-frames", http2=WIDE | LARGE_FRAMES)
    add("rotating", streams_per_tunnel=7)
    add("few", http2=WIDE | {"max_concurrent_streams": 10})
    add("refuses", answer=503)
    add("denies", answer=401)
    add("impostor")
    add("forger", signer=stranger)
    add("picky", admits=NOBODY)
    return made


class Envoy:
    """The process, and what it says of itself."""

    def __init__(self, binary: str, wires: Wires, authority: Authority, directory: Path) -> None:
        self.ways = {way.name: way for way in ways(wires, authority)}
        self.gates = {gate.name: gate for gate in gates(wires, authority)}
        self._admin, self._log = directory / "admin.sock", directory / "connects.json"
        configuration = directory / "envoy.json"
        settings = bootstrap([*self.ways.values()], [*self.gates.values()], str(self._admin), str(self._log))
        configuration.write_bytes(settings)
        arguments = ["-c", str(configuration), "--concurrency", "1", "--disable-hot-restart"]
        arguments += ["--log-level", "warning", "--file-flush-interval-msec", "20"]
        with enter_netns(wires.outsider.fd):
            self.process = subprocess.Popen([binary, *arguments])
        # As with the workers: whatever kills the tests must not leave it running.
        self._watchdog = subprocess.Popen(["sh", "-c", f"read _; kill -9 {self.process.pid}"], stdin=subprocess.PIPE)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, "Envoy ended; its words are in the captured output"
        return self._ask("/ready") == b"LIVE\n"

    def stats(self) -> Counter[str]:
        """Counters and gauges; 0 for what Envoy has not counted yet, which it does not list."""
        found = json.loads(self._ask("/stats?format=json"))["stats"]
        return Counter({stat["name"]: stat["value"] for stat in found if "value" in stat})

    def connects(self) -> list[dict[str, str]]:
        """Of the CONNECTs that ended at a gate, what it saw. Written a moment after the end."""
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def _ask(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("admin")
        with contextlib.closing(connection), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            connection.sock = sock
            try:
                sock.connect(str(self._admin))
                connection.request("GET", path)
                return connection.getresponse().read()
            except (FileNotFoundError, ConnectionError):  # not yet, or no more
                return b""

    def close(self) -> None:
        self._watchdog.kill()
        self._watchdog.communicate()
        self.process.kill()
        self.process.wait()


def wait_until(holds: Callable[[], bool], within_seconds: float = 60) -> None:
    """For what Envoy tells nobody: it has to be asked again and again."""
    deadline = time.monotonic() + within_seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_seconds} s"
        time.sleep(0.02)
