# SPDX-License-Identifier: Apache-2.0
"""Envoy twice on one node, as a mesh that has only proxies would: HBONE between them, mutual TLS 1.3.

A pod dials the first (nothing steers, which flatters Envoy); the second reaches the other pod. One thread each.
"""

import subprocess
import time
from pathlib import Path

from nodeagent.errors import NotPossible
from nodeagent.lab.namespaces import Node, Pod
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from tests.bench import load
from tests.bench.ground import envoy_binary
from tests.e2e.proxy.conftest import Authority
from tests.interop.configuration import HBONE, Credentials, Gate, Way, bootstrap

PORT = 7002
_START_SECONDS = 20.0
_CLIENT, _SERVER = (Identity("cluster.local", "shop", name) for name in ("web", "api"))


def start(node: Node, server: Pod) -> Ip:
    """Both processes, until the lab ends; where clients dial PORT. Raises NotPossible."""
    authority = Authority()
    client, of_server = (
        Credentials(pem=authority.issue(str(who)), roots=authority.roots) for who in (_CLIENT, _SERVER)
    )
    way = Way(
        name="bench",
        port=PORT,
        target=node.ipv4,
        target_port=load.PORT,
        own_ip=node.ipv4,
        credentials=client,
        expects=_SERVER,
        listen=node.ipv4,
    )
    gate = Gate(
        name="bench",
        addresses=(node.ipv4,),
        application=load.PORT,
        credentials=of_server,
        admits=_CLIENT,
        beside=server.ipv4,
    )
    for name, ways, gates in (("near", [way], []), ("far", [], [gate])):
        directory = Path("/run") / f"envoy-{name}"  # the node's own /run
        settings = bootstrap(ways, gates, str(directory / "admin.sock"), str(directory / "connects.json"))
        _start(node, directory, settings)
    for port in (PORT, HBONE):
        _await(node, port)
    return node.ipv4


def _start(node: Node, directory: Path, settings: bytes) -> None:
    configuration = directory / "envoy.json"
    node.call(directory.mkdir)
    node.call(lambda: configuration.write_bytes(settings))
    arguments = ["-c", str(configuration), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    node.spawn([envoy_binary().resolve(), *arguments], stdin=subprocess.DEVNULL)


def _await(node: Node, port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            node.connect(node.ipv4, port).close()
        except ConnectionRefusedError as error:
            if time.monotonic() > deadline:
                raise NotPossible(f"no Envoy listens on port {port}", check="Its own words are above.") from error
            time.sleep(0.05)
        else:
            return
