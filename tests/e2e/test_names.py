# SPDX-License-Identifier: Apache-2.0
"""Names of endpoints with whole agents, the kernel's programs and a DNS server inside the lab."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from nodeagent.dns.memory import FILE_NAME
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Fate, fate
from nodeagent.lab.demo.mesh import Object
from nodeagent.lab.demo.stage import Stage, running
from nodeagent.lab.namespaces import RUN_DIR, Pod
from nodeagent.model.address import Ip
from tests.dns_server import DnsServer

pytestmark = pytest.mark.e2e

NODE = "node-a"
HOST = "api.outside.example"
PORT, OTHER_PORT, THIRD_PORT, TARGET_PORT = 443, 444, 445, 8443
"""Each test has one of its own, since the kernel may let go of what an entry meant a moment after the agent."""
UNLISTED_PORT = 4
WITHIN_SECONDS = 60.0
SIDECAR: Object = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "Sidecar",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"workloadSelector": {"labels": {"app": "web"}}, "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}},
}


def entry(port: int) -> Object:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "outside", "namespace": "shop"},
        "spec": {
            "hosts": [HOST],
            "ports": [{"number": port, "name": "tcp", "protocol": "TCP", "targetPort": TARGET_PORT}],
            "resolution": "DNS",
        },
    }


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        conf = f"nameserver {stage.lab.control.ipv4}\noptions timeout:1\n"
        stage.lab.nodes[NODE].call(lambda: (RUN_DIR / "resolv.conf").write_text(conf))
        stage.start_agent(NODE, resolv_conf=str(RUN_DIR / "resolv.conf"))
        yield stage


@contextmanager
def serving(stage: Stage) -> Iterator[DnsServer]:
    sock = stage.lab.control.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((stage.lab.control.ipv4, 53))
    with DnsServer(sock, {}, ttl=5) as server:
        yield server


@pytest.fixture
def dns_server(stage: Stage) -> Iterator[DnsServer]:
    """The lab's, which knows nothing yet."""
    with serving(stage) as server:
        yield server


def is_silent(client: Pod, ip: Ip) -> bool:
    return fate(client, ip, UNLISTED_PORT, seconds=0.5) is Fate.SILENT


@contextmanager
def joined(client: Pod, listener: socket.socket, ip: Ip) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection to the entry's port, both ends of it."""
    with client.connect(ip, OTHER_PORT) as near:
        listener.settimeout(WITHIN_SECONDS)
        with listener.accept()[0] as far:
            far.settimeout(WITHIN_SECONDS)
            yield near, far


class Greeter:
    """Says one thing to everybody, until the block ends."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._thread = threading.Thread(target=self._serve, name="greeter", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(WITHIN_SECONDS)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                served, _ = self._listener.accept()
            except OSError:
                return
            with served:
                served.sendall(b"welcome")


def service(stage: Stage) -> dict[str, object]:
    found = [row for row in stage.ask(NODE, "services")["services"] if row["hostname"] == HOST]
    return found[0] if found else {}


def means(stage: Stage, *addresses: Ip) -> bool:
    names = service(stage).get("names", {})
    return isinstance(names, dict) and set(names.get(HOST, ())) == set(addresses)


def test_a_host_of_the_dns_is_reached_as_long_as_it_has_addresses(stage: Stage, dns_server: DnsServer) -> None:
    web, outside = stage.pod("web"), stage.lab.control
    dns_server.records = {(HOST, "A"): (outside.ipv4,), (HOST, "AAAA"): (outside.ipv6,)}
    stage.write("60-entry.yaml", [entry(PORT)])
    eventually(lambda: means(stage, *outside.ips), WITHIN_SECONDS, "the agent has resolved the name")
    vips = [str(vip).partition("/")[2] for vip in service(stage)["vips"]]  # type: ignore[attr-defined]
    assert [vip.split(":")[0].split(".")[0] for vip in vips] == ["240", "2001"]

    with outside.listen(TARGET_PORT) as listener:
        listener.settimeout(WITHIN_SECONDS)
        for vip, ip in zip(vips, web.ips, strict=True):
            with web.connect(vip, PORT) as client, listener.accept()[0] as served:
                assert served.getpeername()[0].removeprefix("::ffff:") == ip
                served.sendall(b"welcome")
                assert client.recv(7) == b"welcome"
                source = client.getsockname()
            line = stage.access_line(NODE, source[0], source[1])
            assert line["dst.service"] == HOST

    verdict = stage.ask(NODE, "explain", "shop/web", f"{HOST}:{PORT}")
    assert verdict["verdict"] == "PASSES"

    dns_server.records = {}  # there is no such name any more
    eventually(lambda: means(stage), WITHIN_SECONDS, "the agent has forgotten what the name meant")
    assert fate(web, Ip(vips[0]), PORT, seconds=WITHIN_SECONDS) is Fate.REFUSED
    refused = stage.ask(NODE, "explain", "shop/web", f"{HOST}:{PORT}")
    assert (refused["verdict"], "there is no such name" in str(refused)) == ("REFUSED", True)
    (row,) = [row for row in stage.ask(NODE, "status")["components"] if row["component"] == "dns"]
    assert row["state"] == "degraded"
    stage.write("60-entry.yaml", [])
    eventually(lambda: not service(stage), WITHIN_SECONDS, "the entry has gone")


def is_led(client: Pod, ip: Ip) -> bool:
    """Whether a connection to the port of the entry comes out at its target port, where somebody listens."""
    try:
        with client.connect(ip, OTHER_PORT, seconds=5) as connection:
            return connection.recv(7) == b"welcome"
    except OSError:
        return False


def test_who_resolves_the_host_by_himself_is_led_too_and_loses_nothing_that_was_open(
    stage: Stage, dns_server: DnsServer
) -> None:
    web, outside = stage.pod("web"), stage.lab.control
    dns_server.records = {(HOST, "A"): (outside.ipv4,), (HOST, "AAAA"): (outside.ipv6,)}
    with ExitStack() as stack:
        listener = stack.enter_context(outside.listen(OTHER_PORT))
        before = [stack.enter_context(joined(web, listener, ip)) for ip in outside.ips]
        stack.enter_context(Greeter(outside.listen(TARGET_PORT)))
        stage.write("60-entry.yaml", [entry(OTHER_PORT)])
        for ip in outside.ips:
            eventually(lambda ip=ip: is_led(web, ip), WITHIN_SECONDS, f"{ip} is led by the entry")  # type: ignore[misc]
        for client, served in before:
            served.sendall(b"still here")
            assert client.recv(10) == b"still here"
            client.sendall(b"so am I")
            assert served.recv(7) == b"so am I"

        stage.write("61-sidecar.yaml", [SIDECAR])
        for ip in outside.ips:
            eventually(lambda ip=ip: is_silent(web, ip), WITHIN_SECONDS, f"{ip}: another port is out of reach")  # type: ignore[misc]
            eventually(lambda ip=ip: is_led(web, ip), WITHIN_SECONDS, f"{ip} is led by the entry")  # type: ignore[misc]
    stage.write("60-entry.yaml", [])
    stage.write("61-sidecar.yaml", [])
    eventually(lambda: not service(stage), WITHIN_SECONDS, "the entry has gone")


def is_on_disk(stage: Stage, ip: Ip) -> bool:
    path = RUN_DIR / FILE_NAME
    return stage.lab.nodes[NODE].call(lambda: path.exists() and ip.encode() in path.read_bytes())


def test_a_name_outlives_a_restart_of_the_agent_while_the_resolver_is_out(stage: Stage) -> None:
    web, outside = stage.pod("web"), stage.lab.control
    with serving(stage) as server:
        server.records = {(HOST, "A"): (outside.ipv4,), (HOST, "AAAA"): (outside.ipv6,)}
        stage.write("60-entry.yaml", [entry(THIRD_PORT)])
        eventually(lambda: means(stage, *outside.ips), WITHIN_SECONDS, "the agent has resolved the name")
        vip, _, _ = str(service(stage)["vips"][0]).partition("/")[2].partition(":")  # type: ignore[index]
        eventually(lambda: is_on_disk(stage, outside.ipv4), WITHIN_SECONDS, "it is on disk")

    stage.start_agent(NODE, takeover=True, resolv_conf=str(RUN_DIR / "resolv.conf"))
    eventually(lambda: means(stage, *outside.ips), WITHIN_SECONDS, "the name means what it meant")
    (row,) = [row for row in stage.ask(NODE, "status")["components"] if row["component"] == "dns"]
    assert (row["state"], "perhaps outdated" in row["detail"]) == ("degraded", True)
    with outside.listen(TARGET_PORT) as listener:
        listener.settimeout(WITHIN_SECONDS)
        with web.connect(vip, THIRD_PORT) as client, listener.accept()[0] as served:
            served.sendall(b"welcome")
            assert client.recv(7) == b"welcome"

    with serving(stage):
        eventually(lambda: means(stage), WITHIN_SECONDS, "the resolver is back, and says that there is no such name")
    stage.write("60-entry.yaml", [])
    eventually(lambda: not service(stage), WITHIN_SECONDS, "the entry has gone")
