# SPDX-License-Identifier: Apache-2.0
"""A node of its own for each test module: network and mount namespaces that end with the block, or with the process.

`node` has two enrolled pods (a, b), a pod outside the mesh (x) and nothing else; `kernel` runs single packets through
the programs that the product loaded (BPF_PROG_TEST_RUN) and says which reason was counted.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest
from pyroute2 import IPRoute

from nodeagent.kernel import programs, syscall, tcx
from nodeagent.kernel.codings import Flow, FlowKey
from nodeagent.kernel.listing import list_programs
from nodeagent.kernel.maps import Maps
from nodeagent.kernel.netns import (
    MNT_DETACH,
    OWN_NETNS,
    enter_netns,
    mount,
    unmount,
)
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.reasons import reasons
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.wanted import Wanted, WantedPod
from nodeagent.model.address import Cidr, Ip, Port, parse_ip
from nodeagent.model.exclusion import Exclusion
from nodeagent.model.mark import Marks
from nodeagent.policy.verdict_table import VerdictRow
from tests.kernel import recorded
from tests.kernel.namespaces import ip, make_namespace, own_namespaces, run, sysctl

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
SYN_ACK = SYN | ACK
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
UNSPEC, OK, SHOT, REDIRECT = -1, 0, 2, 7
MARK_OUT, MARK_LOCAL, MARK_PROXY, MARK_OUT_NEW = map(Marks().value, ("OUT", "LOCAL", "PROXY", "OUT_NEW"))
TAG = bytes((2, *b"mesh", 1))
PATIENCE_SECONDS = 60.0
"""More than what works takes on the busiest machine; a SYN that was lost is sent again after 1, 3, 7, 15 and 31."""


def load_code(instructions: bytes) -> int:
    """A program of somebody else, for a device."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    count, addresses = len(instructions) // 8, (ctypes.addressof(code), ctypes.addressof(licence))
    attribute = struct.pack("=IIQQ", syscall.PROGRAM_SCHED_CLS, count, *addresses)
    descriptor, _ = syscall.bpf(syscall.PROGRAM_LOAD, attribute)
    return descriptor


def load_verdict(verdict: int) -> int:
    """One that says the same of all packets."""
    return load_code(struct.pack("=BBhiBBhi", 0xB7, 0, 0, verdict, 0x95, 0, 0, 0))


# ---- a node ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pod:
    name: str
    netns: Path
    addresses: tuple[Ip, ...]

    @property
    def device(self) -> str:
        return f"v{self.name}"

    @property
    def wanted(self) -> WantedPod:
        return WantedPod("default", self.name, str(self.netns), self.addresses)

    def open_socket(self, family: int = socket.AF_INET6, kind: int = socket.SOCK_STREAM) -> socket.socket:
        with enter_netns(self.netns):
            made = socket.socket(family, kind)
        made.settimeout(PATIENCE_SECONDS)
        return made

    def listen(self, port: int) -> socket.socket:
        """For both families."""
        with enter_netns(self.netns):
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def dial(self, ip: str, port: int, timeout: float = PATIENCE_SECONDS) -> socket.socket:
        """Connected, or raises OSError."""
        made = self.open_socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
        made.settimeout(timeout)
        try:
            made.connect((ip, port))
        except OSError:
            made.close()
            raise
        return made


def inside(pod: Pod) -> tuple[str, ...]:
    """What `ip` does in a pod that has its device."""
    ipv4, ipv6 = pod.addresses
    return (
        "link set lo up",
        f"addr add {ipv4}/32 dev eth0",
        f"addr add {ipv6}/128 dev eth0 nodad",
        "link set eth0 up",
        "route add 169.254.1.1 dev eth0",
        "route add default via 169.254.1.1",
        "route add default via fe80::ee dev eth0",
    )


class Node:
    """Routed pods, as Calico has them: a /32 and a /128 route to each pod's device, and a gateway address on it."""

    ADDRESSES = (Ip("192.0.2.1"), Ip("2001:db8::1"))

    def __init__(self, run_dir: Path, attach: str = "auto") -> None:
        self.run_dir, self.attach = run_dir, attach
        self.cgroup = "na-none"
        """A kubelet's on the machine that runs the tests is not ours to attach to."""
        self.draws_services = False
        self.bpffs = run_dir / "bpf"
        self.bpffs.mkdir()
        mount("bpf", self.bpffs, "bpf")
        sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        sysctl(ipv4__conf__all__rp_filter=1, ipv4__conf__default__rp_filter=1)  # the strict reverse-path check
        ip("link set lo up", *(f"addr add {address} dev lo" for address in self.ADDRESSES))
        self.a, self.b, self.x = self.pod("a", 2), self.pod("b", 3), self.pod("x", 9)
        self.steering = self.make_steering()

    def make_steering(self, attach: str = "") -> Steering:
        """An agent's kernel part, as it starts: it makes everything, or adopts what a predecessor left."""
        self.attach = attach or self.attach
        steering = Steering(
            bpffs=str(self.bpffs),
            run_dir=str(self.run_dir),
            attach=self.attach,
            cgroup=self.cgroup,
            draws_services=self.draws_services,
        )
        steering.start()
        return steering

    def pod(self, name: str, number: int) -> Pod:
        ipv4, ipv6 = f"10.99.1.{number}", f"fd99:1::{number:x}"
        pod = Pod(name, make_namespace(self.run_dir / f"na-t-{name}"), (parse_ip(ipv4), parse_ip(ipv6)))
        ip(
            f"link add {pod.device} type veth peer name eth0 netns {pod.netns}",
            f"addr add fe80::ee/64 dev {pod.device} nodad",
            f"addr add 169.254.1.1/32 dev {pod.device}",
            f"link set {pod.device} up",
            f"route add {ipv4} dev {pod.device}",
            f"route add {ipv6} dev {pod.device}",
        )
        ip(*inside(pod), netns=pod.netns)
        return pod

    def programs(self, device: str, netns: Path | None = None) -> list[str]:
        """What is attached to a device, both directions, ours as `nodeagent/<name>:<id>`."""
        with enter_netns(netns or OWN_NETNS), IPRoute() as link:
            index = socket.if_nametoindex(device)
            return [
                program.words
                for is_egress in (False, True)
                for program in list_programs(link, index, is_egress=is_egress)
            ]

    def detach(self) -> None:
        """Somebody takes all our programs from all devices."""
        links = Pins(self.bpffs).links
        for pin in links.iterdir() if links.is_dir() else ():
            tcx.remove(pin)
        run("for device in va vb vx na0; do tc qdisc del dev $device clsact 2>/dev/null || true; done")
        run("tc qdisc del dev eth0 clsact 2>/dev/null || true", Path(self.steering.netns_path()))

    def ifindex(self, pod: Pod) -> int:
        return socket.if_nametoindex(pod.device)

    def enrol(
        self,
        *pods: Pod,
        known: tuple[str, ...] = (),
        adoption_seconds: int = 0,
        excluded: frozenset[Exclusion] = frozenset(),
        blocks: frozenset[Cidr] = frozenset(),
        named: frozenset[Exclusion] = frozenset(),
    ) -> list[str]:
        """These pods and no others, from here on."""
        addresses = {ip for pod in pods for ip in pod.addresses} | {parse_ip(ip) for ip in known}
        wanted = Wanted(
            pods=tuple(pod.wanted for pod in pods),
            known=frozenset(addresses),
            adoption_seconds=adoption_seconds,
            excluded=excluded,
            known_blocks=blocks,
            named=named,
        )
        return self.steering.reconcile(wanted)

    def number(self, pod: Pod) -> int:
        """Its bit in the table of verdicts."""
        return next(state.number for state in self.steering.pods() if state.name == pod.name)

    def counted(self, *names: str) -> dict[str, int]:
        counters = self.steering.counters()
        return {name: counters[name] for name in names}

    def close(self) -> None:
        self.steering.remove()
        for pod in (self.a, self.b, self.x):
            with contextlib.suppress(OSError):  # a test may have taken it away
                unmount(pod.netns, MNT_DETACH)
        unmount(self.bpffs, MNT_DETACH)


@pytest.fixture(scope="session", autouse=True)
def _compile_once() -> Iterator[None]:
    """Where the environment says so: see tests/kernel/recorded.py."""
    with pytest.MonkeyPatch.context() as patch:
        if recorded.COMPILE_ONCE in os.environ:
            patch.setattr(programs, "load_programs", recorded.load_programs)
        yield


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with own_namespaces():
        made = Node(tmp_path_factory.mktemp("node"))
        try:
            yield made
        finally:
            made.close()


# ---- packets ---------------------------------------------------------------------------------------------------------


NAMED_PORT = Port(81)


class Family(NamedTuple):
    """The cast, in one address family."""

    pod: Ip
    """Of pod a."""
    neighbour: Ip
    """Of pod b, on the same node."""
    remote: Ip
    """A pod of another node."""
    outside: Ip
    """Unknown to the mesh."""
    node: Ip
    registered: Ip
    """Within a block that a Service has."""
    named: Ip
    """What the name of an endpoint means, of which NAMED_PORT is the mesh's."""
    excluded: Ip
    """A mesh address in an excluded block."""
    is_ipv6: bool

    @property
    def sockets(self) -> socket.AddressFamily:
        return socket.AF_INET6 if self.is_ipv6 else socket.AF_INET


FAMILIES = {
    "IPv4": Family(
        is_ipv6=False,
        pod=Ip("10.99.1.2"),
        neighbour=Ip("10.99.1.3"),
        remote=Ip("10.99.2.2"),
        outside=Ip("203.0.113.9"),
        node=Ip("192.0.2.1"),
        registered=Ip("198.18.7.9"),
        named=Ip("203.0.113.80"),
        excluded=Ip("10.97.0.7"),
    ),
    "IPv6": Family(
        is_ipv6=True,
        pod=Ip("fd99:1::2"),
        neighbour=Ip("fd99:1::3"),
        remote=Ip("fd99:2::2"),
        outside=Ip("fd66::9"),
        node=Ip("2001:db8::1"),
        registered=Ip("2001:db8:7::9"),
        named=Ip("fd66::80"),
        excluded=Ip("fd97::7"),
    ),
}


@pytest.fixture(scope="module", params=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@dataclass(frozen=True)
class Packet:
    """An Ethernet frame with TCP, unless told otherwise. Checksums are zero: no program looks at them."""

    source: str
    destination: str
    flags: int = SYN
    source_port: int = 40000
    destination_port: int = 80
    protocol: int = TCP
    ethertype: int = 0
    """0: by the addresses."""
    first_byte: int = 0
    """IPv4: version and header length; 0: 0x45."""
    fragment: int = 0
    """IPv4: flags and offset."""
    extensions: tuple[int, ...] = ()
    """IPv6: extension headers in front of `protocol`."""
    payload: bytes | None = None
    """In place of a TCP header."""
    macs: bytes = b"\x02" * 6 + b"\x04" * 6
    cut: int = 0
    """Bytes taken from the end."""

    def reply(self, flags: int) -> "Packet":
        return replace(
            self,
            source=self.destination,
            destination=self.source,
            source_port=self.destination_port,
            destination_port=self.source_port,
            flags=flags,
        )

    @property
    def transport(self) -> bytes:
        ports = struct.pack("!HH", self.source_port, self.destination_port)
        return ports + struct.pack("!IIBBHHH", 1, 1, 0x50, self.flags, 65535, 0, 0)

    @property
    def network(self) -> bytes:
        """The IP packet."""
        body = self.transport if self.payload is None else self.payload
        source, destination = ip_address(self.source).packed, ip_address(self.destination).packed
        if len(source) == 4:
            first = self.first_byte or 0x45
            length = 20 + len(body)
            return struct.pack("!BBHHHBBH", first, 0, length, 0, self.fragment, 64, self.protocol, 0) + (
                source + destination + body
            )
        following = (*self.extensions, self.protocol)
        chain = b"".join(struct.pack("!BB6x", next_header, 0) for next_header in following[1:])
        return struct.pack("!IHBB", 0x60000000, len(chain + body), following[0], 64) + (
            source + destination + chain + body
        )

    def frame(self) -> bytes:
        ethertype = self.ethertype or (0x86DD if ":" in self.source else 0x0800)
        whole = self.macs + struct.pack("!H", ethertype) + self.network
        return whole[: len(whole) - self.cut]


def icmp_error(about: Packet, source: str) -> Packet:
    """What a router at `source` sends to the sender of `about` when that is too big."""
    is_ipv6 = ":" in about.source
    kind = 2 if is_ipv6 else 3
    body = struct.pack("!BBHI", kind, 4 if not is_ipv6 else 0, 0, 1280) + about.network
    return Packet(source, about.source, protocol=ICMPV6 if is_ipv6 else ICMP, payload=body)


# ---- the programs ----------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    reason: str
    verdict: int
    mark: int
    frame: bytes


KEPT_KINDS = {2, 3}
"""FLOW_EXCLUDED and FLOW_ADOPTED of bpf/flow.h, which have a table of their own."""
_MARK, _INGRESS, _IFINDEX, _SECRET, _CONTEXT_BYTES = 8, 36, 40, 56, 192
"""Offsets in struct __sk_buff."""


class Kernel:
    def __init__(self, node: Node) -> None:
        self.node = node
        pins = Pins(node.bpffs)
        self.maps = Maps(pins.maps)
        self._programs = {path.name: syscall.open_pinned(str(path)) for path in pins.programs.iterdir()}
        self._proxy = Path(node.steering.netns_path())
        self._words = {row.number: row.name for row in reasons()}
        self.a, self.b = node.ifindex(node.a), node.ifindex(node.b)
        self.number_a, self.number_b = (node.number(pod) for pod in (node.a, node.b))
        self.na0 = socket.if_nametoindex("na0")
        with enter_netns(self._proxy):
            self.eth0 = socket.if_nametoindex("eth0")

    def from_pod(self, packet: Packet, *, device: int = 0, mark: int = 0, is_signed: bool = False) -> Outcome:
        """`is_signed`: it carries from_proxy's secret."""
        return self._run("from_pod", packet, device or self.a, mark=mark, is_signed=is_signed)

    def to_pod(self, packet: Packet, *, is_made_here: bool = False, mark: int = 0) -> Outcome:
        ingress = 0 if is_made_here else self.b
        return self._run("to_pod", packet, self.a, mark=mark, ingress=ingress)

    def from_proxy(self, packet: Packet) -> Outcome:
        return self._run("from_proxy", packet, self.na0)

    def at_proxy(self, packet: Packet, *, mark: int = 0) -> Outcome:
        with enter_netns(self._proxy):
            return self._run("at_proxy", packet, self.eth0, mark=mark)

    @contextlib.contextmanager
    def proxy_socket(self, packet: Packet) -> Iterator[None]:
        """The proxy holds the connection to which `packet`, coming from outside, belongs. Made without a packet."""
        with enter_netns(self._proxy):
            made = socket.socket(socket.AF_INET6 if ":" in packet.source else socket.AF_INET, socket.SOCK_STREAM)
        with made:
            made.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR: connected by declaration
            made.bind((packet.destination, packet.destination_port))
            made.connect((packet.source, packet.source_port))
            yield

    @contextlib.contextmanager
    def proxy_listener(self, packet: Packet) -> Iterator[None]:
        """Some listener of the proxy namespace at the address that `packet` is sent to: never to be found."""
        with enter_netns(self._proxy):
            made = socket.socket(socket.AF_INET6 if ":" in packet.source else socket.AF_INET, socket.SOCK_STREAM)
        with made:
            made.bind((packet.destination, packet.destination_port))
            made.listen()
            yield

    @contextlib.contextmanager
    def verdicts(self, allowed: Mapping[tuple[int, int], Iterable[int]], *, is_pending: bool = False) -> Iterator[None]:
        """In this block the table, by (destination, port), allows these sources; afterwards nothing."""
        steering = self.node.steering
        # A destination's row for all other ports comes last, as verdict_table() has it.
        rows = [
            VerdictRow(*key, sum(1 << n for n in set(allowed[key])), is_pending)
            for key in sorted(allowed, key=lambda key: -key[1])
        ]
        steering.put_verdicts(rows)
        try:
            yield
        finally:
            steering.put_verdicts([])

    def close(self) -> None:
        self.maps.close()
        for descriptor in self._programs.values():
            os.close(descriptor)

    def flows(self) -> dict[FlowKey, Flow]:
        """Of both tables."""
        flows, kept = self.maps.flows.rows(), self.maps.kept_flows.rows()
        assert flows.keys().isdisjoint(kept), "a connection is in both"
        assert {flow.kind for flow in kept.values()} <= {*KEPT_KINDS, 4}, "what the proxy has taken, in the window"
        return flows | kept

    def put_flow(self, key: FlowKey, flow: Flow) -> None:
        """In the place of the one that is there."""
        for table in (self.maps.flows, self.maps.kept_flows):
            table.remove(key)
        (self.maps.kept_flows if flow.kind in KEPT_KINDS else self.maps.flows).put(key, flow)

    def forget(self) -> None:
        """Flows and hairpins of the test before."""
        for table in (self.maps.flows, self.maps.kept_flows, self.maps.inbound_flows, self.maps.hairpins):
            table.remove_all(list(table.keys()))

    def _run(
        self, program: str, packet: Packet, device: int, *, mark: int = 0, ingress: int = 0, is_signed: bool = False
    ) -> Outcome:
        context = bytearray(_CONTEXT_BYTES)
        if is_signed:
            struct.pack_into("=Q", context, _SECRET, self.maps.read_settings().secret)
        struct.pack_into("=I", context, _MARK, mark)
        struct.pack_into("=II", context, _INGRESS, ingress, device)
        before = self._counts()
        try:
            verdict, frame, left = syscall.run_program(self._programs[program], packet.frame(), bytes(context))
        except OSError as error:
            if ingress and error.errno == errno.EINVAL:  # the truth tables' own cases give it another way
                self._run(program, packet, device, mark=mark, is_signed=is_signed)  # any other cause fails here, too
                pytest.skip("BPF_PROG_TEST_RUN of this kernel takes no ingress_ifindex")
            raise
        counted = [name for name, packets in self._counts().items() if packets != before[name]]
        assert len(counted) == 1, f"one packet has one reason, not {counted}"
        return Outcome(counted[0], verdict, struct.unpack_from("=I", left, _MARK)[0], frame)

    def _counts(self) -> dict[str, int]:
        return {name: self.maps.reason_counts.find(number) or 0 for number, name in self._words.items()}


@pytest.fixture(scope="module")
def prepared(node: Node) -> Iterator[Kernel]:
    """Pods a and b enrolled, `remote` and `excluded` known, one block excluded."""
    everyone = [address for family in FAMILIES.values() for address in (family.remote, family.excluded)]
    excluded = frozenset(
        Exclusion(Cidr.parse(block), Port(port))
        for block, port in (("10.97.0.0/16", 0), ("fd97::/16", 0), ("0.0.0.0/0", 2049), ("::/0", 2049))
    )
    blocks = frozenset(map(Cidr.parse, ("198.18.0.0/15", "2001:db8:7::/48")))
    hosts = {family.named: 128 if family.is_ipv6 else 32 for family in FAMILIES.values()}
    named = frozenset(Exclusion(Cidr.parse(f"{ip}/{bits}"), NAMED_PORT) for ip, bits in hosts.items())
    node.enrol(node.a, node.b, known=tuple(everyone), excluded=excluded, blocks=blocks, named=named)
    # Programs are run by hand from here on: the stacks' own packets (ARP, MLD) must not be counted in between.
    node.detach()
    made = Kernel(node)
    yield made
    made.close()


@pytest.fixture
def kernel(prepared: Kernel) -> Kernel:
    prepared.forget()
    return prepared


@pytest.fixture
def packet() -> type[Packet]:
    return Packet


@pytest.fixture
def icmp() -> Callable[[Packet, str], Packet]:
    return icmp_error
