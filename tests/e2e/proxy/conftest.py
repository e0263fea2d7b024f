# SPDX-License-Identifier: Apache-2.0
"""Real workers without eBPF: two proxy namespaces joined by a link, a pod behind each, an outsider beside both.

What the kernel programs do on a node is done here by routing: everything that arrives in a proxy namespace is local
(nodeagent/kernel/proxy_namespace.py, step 4), and the outbound listener stands on the application's own port. The
namespaces have no names; they end with the test process, however it ends.
"""

import contextlib
import datetime as dt
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.hbone.connection import Connection
from nodeagent.hbone.events import Received
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Role
from nodeagent.kernel.netns import CLONE_NEWNET, OWN_NETNS, enter_netns, unshare
from nodeagent.lab.demo.versions import THIS_VERSION, Version
from nodeagent.model.address import Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.policy import Policy
from nodeagent.model.record import ConnectionRecord
from nodeagent.model.traffic import Extension
from nodeagent.model.workload import Service, ServicePort, TunnelProtocol, Vip, Workload
from nodeagent.proxy.framing import FrameReader, encode_frame
from nodeagent.proxy.handover import VERSION
from nodeagent.proxy.kernel_trial import KernelTls
from nodeagent.proxy.messages import (
    Applied,
    Apply,
    Certificate,
    Closed,
    Connections,
    Counters,
    FromWorker,
    HandedOver,
    HandOver,
    Hello,
    ListConnections,
    LocalPods,
    Opened,
    Ready,
    Report,
    Start,
    TakeOver,
    ToWorker,
    WorkerConfig,
)
from nodeagent.tls.certificate_name import name_of

UID = 54321
PORT = 8080
HBONE = 15008
CLIENT, SERVER = Identity("cluster.local", "apps", "client"), Identity("cluster.local", "apps", "server")
CONFIG = WorkerConfig(
    node="node",
    cluster="Kubernetes",
    network="",
    trust_domain="cluster.local",
    drain_seconds=5,
    policy_wait_seconds=1,
    pool_idle_seconds=300,
    pool_streams=100,
    connect_seconds=3,
    handshake_seconds=2,
    max_connections=50_000,
)


class Namespace:
    """A network namespace without a name."""

    def __init__(self) -> None:
        with enter_netns(OWN_NETNS):  # only to come back
            unshare(CLONE_NEWNET)
            self.fd = os.open(OWN_NETNS, os.O_RDONLY)
        self.ip("link", "set", "lo", "up")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def ip(self, *words: str) -> None:
        with enter_netns(self.fd):
            subprocess.run(["ip", *words], check=True)

    def tc(self, *words: str) -> None:
        with enter_netns(self.fd):
            subprocess.run(["tc", *words], check=True)

    def sysctl(self, name: str, value: str) -> None:
        with enter_netns(self.fd):
            Path("/proc/sys", *name.split("/")).write_text(value)

    def link(self, own: str, other: "Namespace", theirs: str, mac: str) -> None:
        """Both ends have one MAC address and no ARP: whatever is sent through arrives as meant for the other end."""
        self.ip(
            "link",
            "add",
            own,
            "address",
            mac,
            "type",
            "veth",
            "peer",
            "name",
            theirs,
            "address",
            mac,
            "netns",
            other.path,
        )
        for namespace, device in ((self, own), (other, theirs)):
            namespace.sysctl(f"net/ipv4/conf/{device}/rp_filter", "0")
            namespace.sysctl(f"net/ipv6/conf/{device}/accept_dad", "0")
            namespace.ip("link", "set", device, "arp", "off", "up")

    def make_socket(self, family: int = socket.AF_INET) -> socket.socket:
        with enter_netns(self.fd):
            return socket.socket(family, socket.SOCK_STREAM)

    def connect(self, address: str, port: int, source_port: int = 0) -> socket.socket:
        """A blocking client with a deadline."""
        sock = self.make_socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(10)
        if source_port:
            sock.bind(("::" if ":" in address else "0.0.0.0", source_port))  # noqa: S104 - a pod of our own
        try:
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock

    def is_refused(self, address: str, port: int = PORT) -> bool:
        """A connection there is reset, at once or after it was accepted, without a byte before."""
        try:
            with self.connect(address, port) as client:
                client.recv(1)
        except ConnectionResetError:
            return True
        return False

    def listen(self, port: int = PORT) -> socket.socket:
        sock = self.make_socket(socket.AF_INET6)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::", port))
        sock.listen(64)
        sock.settimeout(10)
        return sock


class Pod(Namespace):
    def __init__(self, v4: str, v6: str) -> None:
        super().__init__()
        self.v4, self.v6 = Ip(v4), Ip(v6)

    @property
    def addresses(self) -> tuple[Ip, Ip]:
        return self.v4, self.v6

    def plug(self, proxy: "Proxy", device: str, theirs: str, mac: str) -> None:
        self.link(device, proxy, theirs, mac)
        self.ip("address", "add", f"{self.v4}/32", "dev", device)
        self.ip("address", "add", f"{self.v6}/128", "dev", device, "nodad")
        for family in ("-4", "-6"):
            self.ip(family, "route", "add", "default", "dev", device)
        proxy.ip("route", "add", self.v4, "dev", theirs)
        proxy.ip("route", "add", self.v6, "dev", theirs)
        proxy.take_over(theirs)


class Proxy(Namespace):
    """As the proxy namespace of an agent, but with a device per pod."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in (
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/ip_nonlocal_bind", "1"),
            ("net/ipv6/ip_nonlocal_bind", "1"),
            ("net/ipv4/tcp_max_tw_buckets", "0"),
        ):
            self.sysctl(name, value)
        for family in ("-4", "-6"):
            self.ip(family, "rule", "add", "pref", "20", "lookup", "main")
            self.ip(family, "rule", "del", "pref", "0")
            self.ip(family, "route", "add", "local", "default", "dev", "lo", "table", "local")

    def take_over(self, device: str) -> None:
        """Whatever comes in here is for a socket of this namespace."""
        for family in ("-4", "-6"):
            self.ip(family, "rule", "add", "pref", "10", "iif", device, "lookup", "local")

    def listener(self, port: int) -> socket.socket:
        sock = self.listen_socket(port)
        sock.listen(1024)
        return sock

    def listen_socket(self, port: int) -> socket.socket:
        sock = self.make_socket(socket.AF_INET6)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT
        sock.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
        sock.bind(("::", port))
        return sock


class Wires:
    """client - near - far - server, and an outsider at both proxies."""

    def __init__(self) -> None:
        self.near, self.far = Proxy(), Proxy()
        self.client, self.server = Pod("10.1.0.2", "fd00:1::2"), Pod("10.2.0.2", "fd00:2::2")
        self.outsider = Pod("10.3.0.2", "fd00:3::2")
        self.client.plug(self.near, "eth0", "client", "02:00:00:00:00:01")
        self.server.plug(self.far, "eth0", "server", "02:00:00:00:00:02")
        self.near.link("far", self.far, "near", "02:00:00:00:00:03")
        self.near.take_over("far")
        self.far.take_over("near")
        for address in self.server.addresses:
            self.near.ip("route", "add", address, "dev", "far")
        for address in self.client.addresses:
            self.far.ip("route", "add", address, "dev", "near")
        self.outsider.plug(self.near, "eth0", "outsider", "02:00:00:00:00:04")
        self.outsider.link("eth1", self.far, "outsider", "02:00:00:00:00:05")
        self.far.take_over("outsider")
        for address in self.outsider.addresses:
            self.far.ip("route", "add", address, "dev", "outsider")
        for address in self.server.addresses:
            self.outsider.ip("route", "add", address, "dev", "eth1")


class Authority:
    """A certificate authority; its keys live as long as the test."""

    def __init__(self, name: str = "root") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.issued: list[bytes] = []
        """Names of all certificates so far, as lists of revoked ones have them."""
        self._certificate = (
            self._builder(self._name, self._key.public_key(), 3600)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def roots(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: str, seconds: int = 3600) -> bytes:
        """Key and chain, PEM, with these URI names."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(x509.Name([]), key.public_key(), seconds)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names]), critical=True
            )
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.issued.append(name_of(certificate.public_bytes(serialization.Encoding.DER)))
        return private + certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def own_name(self) -> bytes:
        return name_of(self._certificate.public_bytes(serialization.Encoding.DER))

    def _builder(self, subject: x509.Name, key: Any, seconds: int) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(seconds=60))
            .not_valid_after(now + dt.timedelta(seconds=seconds))
        )


def memfd(contents: bytes) -> int:
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    os.write(fd, contents)
    return fd


class Agent:
    """The other end of a worker's sockets. Reads only when it waits for something, so a test controls what it saw."""

    def __init__(self, control: socket.socket, report: socket.socket | None) -> None:
        self.control, self.report = control, report
        self.answers: list[FromWorker] = []
        self.opened: list[ConnectionRecord] = []
        self.closed: list[ConnectionRecord] = []
        self.counters: dict[str, int] = {}
        self.handed_over: list[tuple[int, int]] = []
        """To which worker, and the record's id."""
        self.descriptors: list[int] = []
        self.listeners: list[socket.socket] = []
        self._answers: FrameReader[FromWorker] = FrameReader(FromWorker)
        self._reports: FrameReader[Report] = FrameReader(Report)
        self.generation = 0
        self._ended: list[socket.socket] = []
        self._requests = 0

    def send(self, message: ToWorker, *descriptors: int) -> None:
        frame = encode_frame(message)
        sent = socket.send_fds(self.control, [frame], descriptors) if descriptors else 0
        self.control.sendall(frame[sent:])

    def certify(
        self, identity: Identity, authority: Authority, names: tuple[str, ...] = (), roots: bytes = b""
    ) -> None:
        """`names` instead of the identity's own; `roots` instead of the authority's."""
        pair = [memfd(authority.issue(*(names or (str(identity),)))), memfd(roots or authority.roots)]
        self.send(Certificate(identity, "1", time.time() + 3600), *pair)
        for fd in pair:
            os.close(fd)

    def apply(
        self,
        *,
        workloads: tuple[Workload, ...] = (),
        services: tuple[Service, ...] = (),
        policies: tuple[Policy, ...] = (),
        removed_policies: tuple[str, ...] = (),
        extensions: tuple[Extension, ...] = (),
        removed_extensions: tuple[str, ...] = (),
    ) -> None:
        """Returns when the worker has applied it."""
        self.generation += 1
        changes = Changes(
            policies=policies,
            extensions=extensions,
            services=services,
            workloads=workloads,
            removed_extensions=removed_extensions,
            removed_policies=removed_policies,
        )
        self.send(Apply(changes, self.generation, is_last=True))
        self.eventually(lambda: Applied(self.generation) in self.answers)

    def connections(self) -> list[ConnectionRecord]:
        self._requests += 1
        self.send(ListConnections(self._requests))
        parts: list[Connections] = []

        def arrived() -> bool:
            parts[:] = [one for one in self.answers if isinstance(one, Connections) and one.request == self._requests]
            return bool(parts) and parts[-1].is_last

        self.eventually(arrived)
        return [record for part in parts for record in part.records]

    def ended(self, count: int = 1) -> list[ConnectionRecord]:
        """The records of the first `count` connections that ended."""
        self.eventually(lambda: len(self.closed) >= count)
        return self.closed[:count]

    def adopt(self) -> Hello:
        """Waits for the worker's Hello and takes what it hands over."""
        self.eventually(lambda: bool(self.answers))
        hello = self.answers[0]
        assert isinstance(hello, Hello)
        *self.listeners, self.report = (socket.socket(fileno=fd) for fd in self.descriptors)
        return hello

    def close(self) -> None:
        for sock in (self.control, self.report, *self.listeners):
            if sock is not None:
                sock.close()

    def eventually(self, holds: Callable[[], bool], within_seconds: float = 10) -> None:
        deadline = time.monotonic() + within_seconds
        while not holds():
            left = deadline - time.monotonic()
            assert left > 0, f"not within {within_seconds} s; ended: {self.closed}; answers: {self.answers}"
            self.listen(left)

    def listen(self, seconds: float) -> None:
        """Reads what comes next, or waits."""
        socks = [sock for sock in (self.control, self.report) if sock is not None and sock not in self._ended]
        assert socks, "the worker is gone"
        for sock in select.select(socks, [], [], seconds)[0]:
            payload, descriptors, _, _ = socket.recv_fds(sock, 1 << 18, 16)
            if not payload:
                self._ended.append(sock)
            elif sock is self.control:
                for answer, owned in self._answers.received(payload, descriptors):
                    self.answers.append(answer)
                    self.descriptors += owned
            else:
                for report, _ in self._reports.received(payload):
                    self._take(report)

    def hear_out(self, within_seconds: float = 10) -> None:
        """Everything up to the worker's end."""
        deadline = time.monotonic() + within_seconds
        while self.report not in self._ended or self.control not in self._ended:
            left = deadline - time.monotonic()
            assert left > 0, f"it did not end within {within_seconds} s"
            self.listen(left)

    def _take(self, report: Report) -> None:
        match report:
            case Opened(record):
                self.opened.append(record)
            case Closed(record):
                self.closed.append(record)
            case Counters(totals):
                self.counters = totals
            case HandedOver(pid, ids):
                self.handed_over += [(pid, number) for number in ids]
            case _:
                raise AssertionError(report)


class Running(Agent):
    """A worker process and its agent."""

    def __init__(
        self,
        proxy: Proxy,
        listeners: list[socket.socket],
        config: WorkerConfig,
        rendezvous: str,
        version: Version = THIS_VERSION,
        kernel_tls: KernelTls | None = None,
    ) -> None:
        control, theirs = socket.socketpair()
        report, theirs_too = socket.socketpair()
        super().__init__(control, report)
        arguments = ["--netns-fd", str(proxy.fd), "--control-fd", str(theirs.fileno())]
        arguments += ["--report-fd", str(theirs_too.fileno()), "--uid", str(UID), "--slot", "1"]
        arguments += ["--reconnect", rendezvous]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nodeagent.proxy.worker", *arguments],
            pass_fds=(proxy.fd, theirs.fileno(), theirs_too.fileno()),
            env=version.environment,
            start_new_session=True,  # as the agent does it; the scheduler's automatic groups are sessions, too
        )
        theirs.close()
        theirs_too.close()
        # A worker outlives its agent, so one that a killed test leaves behind must be killed by somebody else.
        self._watchdog = subprocess.Popen(["sh", "-c", f"read _; kill -9 {self.process.pid}"], stdin=subprocess.PIPE)
        self.send(Start(config, kernel_tls=kernel_tls), *(listener.fileno() for listener in listeners))
        self.eventually(lambda: any(isinstance(answer, Ready) for answer in self.answers))
        [ready] = [answer for answer in self.answers if isinstance(answer, Ready)]
        assert ready.pid == self.process.pid
        assert (ready.handover == VERSION) == (version is THIS_VERSION)

    def leave(self) -> None:
        """As an agent that dies: the worker hears it."""
        super().close()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self._watchdog.kill()
        self._watchdog.communicate()
        if self.process.poll() is None:
            self.kill()
        super().close()


def workload(name: str, pod: Pod, identity: Identity, **more: Any) -> Workload:
    return msgspec.structs.replace(
        Workload(
            uid=f"Kubernetes//Pod/{identity.namespace}/{name}",
            name=name,
            namespace=identity.namespace,
            addresses=pod.addresses,
            protocol=TunnelProtocol.HBONE,
            trust_domain=identity.trust_domain,
            service_account=identity.service_account,
            workload_name=name,
        ),
        **more,
    )


class Mesh:
    """The wires with a worker at each side, both knowing client and server."""

    def __init__(
        self, wires: Wires, config: WorkerConfig, directory: Path, kernel_tls: KernelTls | None = None
    ) -> None:
        self.wires, self.config, self._directory = wires, config, directory
        self._kernel_tls = kernel_tls
        self.authority = Authority()
        self.client, self.server = workload("client", wires.client, CLIENT), workload("server", wires.server, SERVER)
        self.vip = Ip("10.9.0.1")
        self.web = Service(
            name="web",
            namespace="apps",
            hostname="web.apps.svc.cluster.local",
            vips=(Vip("", self.vip),),
            ports=(ServicePort(Port(PORT), PORT),),
        )
        self.listeners = {
            wires.near: [wires.near.listener(PORT), wires.near.listener(HBONE), wires.near.listener(81)],
            wires.far: [wires.far.listener(82), wires.far.listener(HBONE), wires.far.listener(PORT)],
        }
        self.workers: list[Running] = []
        self.near = self.start(wires.near, wires.client, CLIENT)
        self.far = self.start(wires.far, wires.server, SERVER)

    def start(
        self, proxy: Proxy, pod: Pod, identity: Identity, *, certified: bool = True, version: Version = THIS_VERSION
    ) -> Running:
        rendezvous = str(self._directory / f"workers-{len(self.workers)}.sock")
        worker = Running(proxy, self.listeners[proxy], self.config, rendezvous, version, self._kernel_tls)
        self.workers.append(worker)
        if certified:
            worker.certify(identity, self.authority)
        worker.apply(workloads=(self.client, self.server))
        worker.send(LocalPods(frozenset(pod.addresses)))
        return worker

    def replace(self, former: Running, tell: Callable[[Running], None] = Running.apply) -> Running:
        """A successor at the same listeners, to which `former` hands over what it has open.

        `tell` gives it the rest of what it has to know, and returns when it does.
        """
        is_near = former is self.near
        place = (self.wires.near, self.wires.client, CLIENT) if is_near else (self.wires.far, self.wires.server, SERVER)
        successor = self.start(*place)
        tell(successor)  # behind the pods: now it serves
        self.hand_over(former, successor)
        if is_near:
            self.near = successor
        else:
            self.far = successor
        return successor

    def hand_over(self, former: Running, successor: Running) -> None:
        one, other = socket.socketpair()
        with one, other:
            successor.send(TakeOver(), other.fileno())
            former.send(HandOver(self.config.drain_seconds), one.fileno())

    def publish_service(self) -> None:
        """`web` at its address, with the server as its endpoint."""
        endpoint = msgspec.structs.replace(self.server, services={self.web.key: self.web.ports})
        for worker in (self.near, self.far):
            worker.apply(services=(self.web,), workloads=(endpoint,))

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        for listeners in self.listeners.values():
            for listener in listeners:
                listener.close()


@pytest.fixture(scope="session")
def wires() -> Wires:
    return Wires()


@pytest.fixture
def config() -> WorkerConfig:
    return CONFIG


@pytest.fixture
def kernel_tls() -> KernelTls | None:
    """What the workers are told of it: that it is not asked for."""
    return None


@pytest.fixture
def mesh(wires: Wires, config: WorkerConfig, kernel_tls: KernelTls | None) -> Iterator[Mesh]:
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.closing(Mesh(wires, config, Path(directory), kernel_tls)) as made,
    ):
        Path(directory).chmod(0o755)  # unlike pytest's own, it lets the workers in
        yield made
        for worker in made.workers:
            if worker.process.poll() is None:
                assert worker.counters.get("bugs", 0) == 0


class HbonePeer:
    """A client that speaks HBONE by hand from the outsider's namespace, so that it can also misbehave."""

    def __init__(self, wires: Wires, authority: Authority, *names: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        fd = memfd(authority.issue(*names))
        context.load_cert_chain(f"/proc/self/fd/{fd}")
        os.close(fd)
        self.wires = wires
        self.tls = context.wrap_socket(wires.outsider.connect(wires.server.v4, HBONE))
        self.connection = Connection(Role.CLIENT)
        self.events: list[Received] = []

    def open(self, authority: str, **headers: str) -> int:
        stream_id = self.connection.open(ConnectRequest(authority, **headers))
        assert stream_id is not None
        self.flush()
        return stream_id

    def flush(self) -> None:
        while pending := self.connection.pending():
            self.tls.sendall(pending)
            self.connection.taken(len(pending))

    def send(self, stream_id: int, payload: bytes) -> None:
        for view in self.connection.reserve(stream_id, len(payload)):
            view[:] = payload
        self.connection.commit(stream_id, len(payload))
        self.flush()

    def receive(self) -> Received:
        """The next events; raises what the socket raises."""
        payload = self.tls.recv(1 << 16)
        assert payload, "the worker closed the tunnel"
        received = self.connection.received(memoryview(payload))
        self.flush()
        return received

    def status(self, stream_id: int) -> int:
        while True:
            for response in self.receive().responded:
                if response.stream_id == stream_id:
                    return response.status

    def payload(self, stream_id: int, size: int) -> bytes:
        got = b""
        while len(got) < size:
            got += b"".join(self.receive().data.get(stream_id, ()))
        return got

    def ends(self) -> str:
        """How the worker ended the tunnel: `reset` or `closed`."""
        try:
            while self.tls.recv(1 << 16):
                pass
        except ConnectionResetError:
            return "reset"
        except ssl.SSLError as error:
            return error.reason or str(error)
        return "closed"

    def close(self) -> None:
        self.tls.close()


@pytest.fixture
def peer(mesh: Mesh) -> Iterator[Callable[..., HbonePeer]]:
    """Makes peers that the server's worker accepts, unless the names say otherwise."""
    peers: list[HbonePeer] = []

    def connect(*names: str, authority: Authority | None = None) -> HbonePeer:
        peers.append(HbonePeer(mesh.wires, authority or mesh.authority, *(names or (str(CLIENT),))))
        return peers[-1]

    yield connect
    for made in peers:
        made.close()


@pytest.fixture
def app(mesh: Mesh) -> Iterator[socket.socket]:
    """The server's application: a listening socket."""
    with mesh.wires.server.listen() as sock:
        yield sock


@pytest.fixture
def authority_of() -> Callable[[str], Authority]:
    """Makes further authorities by name."""
    return Authority


@pytest.fixture
def agent_of() -> Callable[[socket.socket], Agent]:
    """An agent behind a control socket, for now without a report socket."""
    return lambda control: Agent(control, None)


@pytest.fixture
def workload_of() -> Callable[[str, Pod, Identity], Workload]:
    """A pod as the mesh knows it."""
    return workload
