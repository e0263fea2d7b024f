# SPDX-License-Identifier: Apache-2.0
"""Programs that tell of packets: what they cost when nobody asks, what they tell, and that they leave as they came."""

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.errors import KernelError, NotPossible
from nodeagent.kernel import programs as programs_module
from nodeagent.kernel import tcx
from nodeagent.kernel.codings import layouts
from nodeagent.kernel.listeners import IP_TRANSPARENT
from nodeagent.kernel.loader import load_programs
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.sources import FILTERS, bpf_folder, program_text
from nodeagent.kernel.tracing import ANY_ADDRESS, ANY_PORT, Trace, WantedTrace
from nodeagent.lab.demo.claims import eventually
from nodeagent.model.address import Ip
from nodeagent.model.hop import TracedPacket
from nodeagent.policy.verdict_table import VerdictRow
from nodeagent.routing.route import Target
from tests.kernel.conftest import FAMILIES, PATIENCE_SECONDS, Node, Pod
from tests.kernel.namespaces import own_namespaces

pytestmark = pytest.mark.kernel

MOST_INSTRUCTIONS = {"from_pod": 80000, "to_pod": 30000, "from_proxy": 16000, "at_proxy": 28000}
"""As in test_loader.py: up to twice what is seen. Each outcome is told, so there is more to walk through than for a
packet's way alone; 1,000,000 is what any kernel since 5.2 allows."""
PORT = 8080
OUTSIDE = FAMILIES["IPv4"].outside
REMOTE = FAMILIES["IPv4"].remote


@pytest.fixture(params=["tcx", "clsact"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    """A node for one test, with a and b enrolled, of which a may connect to b."""
    if request.param == "tcx" and not tcx.is_supported():
        pytest.skip("this kernel has no TCX (Linux 6.6)")
    with own_namespaces():
        made = Node(tmp_path, request.param)
        try:
            _enrol(made)
            yield made
        finally:
            made.close()


@pytest.fixture
def enrolled(node: Node) -> Node:
    _enrol(node)
    return node


def _enrol(node: Node) -> None:
    node.enrol(node.a, node.b, known=(REMOTE,))
    node.steering.put_verdicts([VerdictRow(node.number(node.b), 0, 1 << node.number(node.a))])


@contextlib.contextmanager
def traced(node: Node, *peers: Target, is_every: bool = False) -> Iterator[Trace]:
    """Of pod a."""
    wanted = WantedTrace(node.ifindex(node.a), node.a.addresses, frozenset(peers), is_every)
    trace = node.steering.start_trace(wanted)
    try:
        yield trace
    finally:
        node.steering.stop_trace()
        trace.close()


def _told(trace: Trace, is_last: Callable[[TracedPacket], bool]) -> list[TracedPacket]:
    """All packets up to that one."""
    told: list[TracedPacket] = []

    def is_there() -> bool:
        told.extend(trace.read(1000))
        return any(map(is_last, told))

    eventually(is_there, PATIENCE_SECONDS, "the last packet is told")
    return told


def _exchange(node: Node, ip: Ip, port: int = PORT) -> int:
    """a connects to b, says a word, and both close; the client's port."""
    with node.b.listen(port) as listener, node.a.dial(ip, port) as client:
        taken, _ = listener.accept()
        with taken:
            client.sendall(b"hello")
            assert taken.recv(100) == b"hello"
            client.shutdown(socket.SHUT_WR)
            assert taken.recv(100) == b""
        assert client.recv(100) == b""
        return int(client.getsockname()[1])


# ---- what it costs ---------------------------------------------------------------------------------------------------

_HOOKED = re.compile(r"^\ttrace\(skb, HOOK_\w+, why\);$", re.MULTILINE)
_STUB = re.compile(r"^static __always_inline void trace\(.*?^\}$", re.MULTILINE | re.DOTALL)
_COMPILE = """
import ctypes, os, struct, sys
os.environ["BCC_KERNEL_SOURCE"] = sys.argv[1]
from nodeagent.kernel.loader import KINDS, import_bcc
from nodeagent.kernel.sources import PROGRAMS
module = import_bcc().BPF(text=sys.stdin.read(), cflags=['-DPIN_DIRECTORY=""', *sys.argv[2:]])
from bcc import lib
for name in PROGRAMS:
    start, size = (ask(module.module, name.encode()) for ask in (lib.bpf_function_start, lib.bpf_function_size))
    if start:
        print(name, ctypes.string_at(start, size).hex())
"""


def _instructions(text: str, *flags: str) -> dict[str, str]:
    """Of each program as bcc compiles it, in hexadecimal. In a child: bcc never gives its memory back."""
    child = subprocess.run(
        [sys.executable, "-c", _COMPILE, str(bpf_folder()), *flags],
        input=text.replace('":" PIN_DIRECTORY "/maps/" #name', '""'),
        text=True,
        capture_output=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return dict(line.split() for line in child.stdout.splitlines() if " " in line)


@pytest.mark.any_kernel
def test_without_a_trace_programs_have_not_one_instruction_more(node: Node) -> None:
    text = program_text()
    bare, calls = _HOOKED.subn("", text)
    bare, stubs = _STUB.subn("", bare, count=1)
    assert (calls, stubs) == (len(FILTERS), 1)

    assert _instructions(text) == _instructions(bare) != {}


@pytest.mark.any_kernel
def test_with_one_they_have(node: Node) -> None:
    """That the comparison above would tell."""
    usual = _instructions(program_text(FILTERS))
    tracing = _instructions(program_text(FILTERS), "-DTRACE", '-DTRACE_DIRECTORY=""')
    assert usual.keys() == tracing.keys() == set(FILTERS)
    assert all(len(usual[name]) < len(tracing[name]) for name in FILTERS)


def test_the_verifier_accepts_them_without_much_ado(node: Node, record_property: Callable[[str, object], None]) -> None:
    pins = Pins(node.bpffs)
    verified = load_programs(pins, is_trace=True)
    record_property("verified", verified)  # `make test-kernels` shows it for each kernel
    assert verified.keys() == set(FILTERS)
    assert all(0 < count < MOST_INSTRUCTIONS[name] for name, count in verified.items()), verified
    pins.remove_trace()


# ---- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["IPv4", "IPv6"])
def test_a_direct_connection_hop_by_hop(enrolled: Node, kind: str) -> None:
    client, server = (pod.addresses[kind == "IPv6"] for pod in (enrolled.a, enrolled.b))
    with traced(enrolled) as trace:
        port = _exchange(enrolled, server)
        there = (client, port, server, PORT)
        told = _told(trace, lambda hop: hop.packet == "FIN" and hop.source == server and hop.program == "to_pod")
    ours = [hop for hop in told if port in (hop.source_port, hop.destination_port)]
    back = (*there[2:], *there[:2])
    way = {"SYN": there, "data 5 B": there, "SYN-ACK": back}
    for packet, ends in way.items():
        seen = [hop for hop in ours if hop.packet == packet]
        assert [(hop.program, hop.device) for hop in seen] == (
            [("from_pod", "va"), ("to_pod", "vb")] if ends is there else [("from_pod", "vb"), ("to_pod", "va")]
        )
        assert {(hop.source, hop.source_port, hop.destination, hop.destination_port) for hop in seen} == {ends}
    syn = [(hop.reason, hop.verdict) for hop in ours if hop.packet == "SYN"]
    assert syn == [("LOCAL_ALLOWED", "UNSPEC"), ("LOCAL_DELIVERED", "UNSPEC")]
    assert next(hop.words for hop in ours) == "connection to a pod of this node, allowed by the verdict table"
    assert [hop.at for hop in ours] == sorted(hop.at for hop in ours)


@pytest.mark.any_kernel
def test_of_packets_that_are_alike_the_first_is_told_and_the_others_are_counted(enrolled: Node) -> None:
    def send(count: int) -> int:
        with enrolled.b.listen(PORT) as listener, enrolled.a.dial(enrolled.b.addresses[0], PORT) as client:
            taken, _ = listener.accept()
            with taken:
                for _ in range(count):
                    client.sendall(b"word")
                    assert taken.recv(100) == b"word"
            return int(client.getsockname()[1])

    def words(hops: list[TracedPacket], port: int) -> int:
        return sum(hop.packet == "data 4 B" for hop in hops if hop.source_port == port and hop.program == "from_pod")

    def is_end(hop: TracedPacket) -> bool:
        return "FIN" in hop.packet or hop.packet == "RST"

    with traced(enrolled) as trace:
        port = send(20)
        assert words(_told(trace, is_end), port) == 1
        assert trace.left().alike >= 2 * 19
        assert trace.left().lost == 0
    with traced(enrolled, is_every=True) as trace:
        port = send(20)
        assert words(_told(trace, is_end), port) == 20


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("peer", "is_told"),
    [
        (Target(FAMILIES["IPv4"].neighbour, ANY_PORT), True),
        (Target(FAMILIES["IPv4"].neighbour, PORT), True),
        (Target(FAMILIES["IPv4"].neighbour, PORT + 1), False),
        (Target(ANY_ADDRESS, PORT), True),
        (Target(ANY_ADDRESS, PORT + 1), False),
        (Target(OUTSIDE, ANY_PORT), False),
    ],
)
def test_of_whom(enrolled: Node, peer: Target, is_told: bool) -> None:  # noqa: FBT001 - a row of the table above
    with traced(enrolled, peer, Target(OUTSIDE, 99)) as trace:
        port = _exchange(enrolled, enrolled.b.addresses[0])
        _dial_in_vain(enrolled.a, OUTSIDE, 99)
        told = _told(trace, lambda hop: hop.destination_port == 99)
    assert any(port in {hop.source_port, hop.destination_port} for hop in told) is is_told


@pytest.mark.any_kernel
def test_others_are_not_told_of_and_a_tunnel_of_the_pod_always(enrolled: Node) -> None:
    with traced(enrolled, Target(OUTSIDE, 99)) as trace:
        _dial_in_vain(enrolled.x, enrolled.b.addresses[0], PORT)
        _dial_in_vain(enrolled.a, REMOTE, 15008)
        _dial_in_vain(enrolled.a, OUTSIDE, 99)
        told = _told(trace, lambda hop: hop.destination_port == 99)
    assert {hop.destination_port for hop in told} == {15008, 99}


def _dial_in_vain(pod: Pod, ip: Ip, port: int) -> None:
    """The SYN is sent before anybody waits for its answer."""
    with contextlib.suppress(OSError):
        pod.dial(ip, port, timeout=0.05).close()


@pytest.mark.any_kernel
def test_a_packet_that_is_dropped_is_told_with_its_reason(enrolled: Node) -> None:
    """No worker listens: what is steered ends at at_proxy. A source that is not the pod's is found by the device."""
    with traced(enrolled) as trace:
        _dial_in_vain(enrolled.a, REMOTE, 80)
        with enrolled.a.open_socket(socket.AF_INET) as forger:
            forger.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
            forger.bind(("198.51.100.7", 0))
            forger.settimeout(0.05)
            with contextlib.suppress(OSError):
                forger.connect((REMOTE, 81))
        told = _told(trace, lambda hop: hop.destination_port == 81)
    steered, dropped = [hop for hop in told if hop.destination_port == 80][:2]
    assert (steered.program, steered.device, steered.reason, steered.verdict) == (
        "from_pod", "va", "STEERED", "REDIRECT"
    )  # fmt: skip
    assert (dropped.program, dropped.device, dropped.reason, dropped.verdict) == (
        "at_proxy", "eth0", "PROXY_AWAY", "SHOT"
    )  # fmt: skip
    (forged,) = [hop for hop in told if hop.destination_port == 81]
    assert (forged.source, forged.reason) == (Ip("198.51.100.7"), "SPOOFED_SOURCE")


@pytest.mark.any_kernel
def test_what_is_no_tcp_is_told_when_everything_is_asked_for(enrolled: Node) -> None:
    def send_datagram() -> None:
        with enrolled.a.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x" * 10, (OUTSIDE, 53))

    with traced(enrolled) as trace:
        send_datagram()
        _dial_in_vain(enrolled.a, OUTSIDE, 99)
        assert {hop.protocol for hop in _told(trace, lambda hop: hop.destination_port == 99)} == {socket.IPPROTO_TCP}
    with traced(enrolled, is_every=True) as trace:
        send_datagram()
        told = _told(trace, lambda hop: hop.protocol == socket.IPPROTO_UDP)
    assert ("UDP 18 B", OUTSIDE, "NOT_TCP") in {(hop.packet, hop.destination, hop.reason) for hop in told}


# ---- it leaves as it came --------------------------------------------------------------------------------------------


def _everywhere(node: Node) -> dict[str, list[str]]:
    proxy = Path(node.steering.netns_path())
    return {device: node.programs(device) for device in ("va", "vb", "na0")} | {"eth0": node.programs("eth0", proxy)}


def _trace_pins(node: Node) -> list[str]:
    pins = Pins(node.bpffs)
    return [path.name for path in (pins.trace, pins.trace_programs) if path.exists()]


@pytest.mark.any_kernel
def test_all_programs_take_part_and_are_back_afterwards(own: Node) -> None:
    before = _everywhere(own)
    with traced(own) as trace:
        during = _everywhere(own)
        assert [[name.split(":")[0] for name in names] for names in during.values()] == [
            [name.split(":")[0] for name in names] for names in before.values()
        ]
        assert not {name for names in before.values() for name in names} & {
            name for names in during.values() for name in names
        }
        own.enrol(own.a, own.b, own.x, known=(REMOTE,))  # the agent goes on with its work
        assert _everywhere(own) == during
        assert len(own.programs("vx")) == 2
        _exchange(own, own.b.addresses[0])
        assert trace.read(1)
    assert _everywhere(own) == before
    assert _trace_pins(own) == []
    assert own.enrol(own.a, own.b, own.x, known=(REMOTE,)) == []


@pytest.mark.any_kernel
def test_there_is_one_at_a_time(enrolled: Node) -> None:
    with traced(enrolled):
        with pytest.raises(NotPossible, match="another trace runs"):
            enrolled.steering.start_trace(WantedTrace(1, ()))
        assert _trace_pins(enrolled)
    with traced(enrolled):
        pass
    enrolled.steering.stop_trace()  # none running is fine


@pytest.mark.any_kernel
def test_what_cannot_be_asked_leaves_nothing(enrolled: Node) -> None:
    before = _everywhere(enrolled)
    most = frozenset(Target(ANY_ADDRESS, port) for port in range(1, 3000))
    with pytest.raises(KernelError, match="do not fit"):
        enrolled.steering.start_trace(WantedTrace(1, (), most))
    assert (_everywhere(enrolled), _trace_pins(enrolled)) == (before, [])


@pytest.mark.any_kernel
def test_what_the_kernel_refuses_leaves_nothing(enrolled: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _everywhere(enrolled)

    def refuse(_pins: Pins, _log: Path, *, is_trace: bool, cancellation: None) -> dict[str, int]:
        assert is_trace
        raise KernelError("the kernel refused")

    monkeypatch.setattr(programs_module, "load_programs", refuse)
    with pytest.raises(KernelError, match="refused"):
        enrolled.steering.start_trace(WantedTrace(1, ()))
    assert (_everywhere(enrolled), _trace_pins(enrolled)) == (before, [])
    monkeypatch.undo()
    with traced(enrolled):
        pass


@pytest.mark.any_kernel
def test_a_successor_of_an_agent_that_died_meanwhile_puts_its_own_back(own: Node) -> None:
    before = _everywhere(own)
    own.steering.start_trace(WantedTrace(own.ifindex(own.a), own.a.addresses)).close()
    assert _everywhere(own) != before
    own.steering.close()

    own.steering = own.make_steering()
    with own.b.listen(PORT), own.a.dial(own.b.addresses[0], PORT):
        own.enrol(own.a, own.b, known=(REMOTE,))
    assert _everywhere(own) == before
    assert _trace_pins(own) == []


@pytest.mark.any_kernel
def test_traffic_notices_nothing(own: Node) -> None:
    """Each exchange of programs falls somewhere into a connection; none is refused, cut or kept waiting for long."""
    ended = threading.Event()
    faults: list[str] = []

    def talk() -> None:
        with own.b.listen(PORT) as listener:
            while not ended.is_set():
                try:
                    with own.a.dial(own.b.addresses[0], PORT) as client, listener.accept()[0] as taken:
                        for number in range(50):
                            client.sendall(bytes([number]))
                            assert taken.recv(1) == bytes([number])
                except OSError as error:
                    faults.append(str(error))

    before = own.counted("UNKNOWN_FLOW", "SPOOFED_SOURCE", "INBOUND_OTHER", "FORGED_FLOW")
    talking = threading.Thread(target=talk)
    talking.start()
    try:
        for _ in range(3):
            with traced(own):
                pass
    finally:
        ended.set()
        talking.join(PATIENCE_SECONDS)
    assert faults == []
    assert own.counted(*before) == before


@pytest.mark.any_kernel
def test_the_layouts_of_maps_are_those_without_traces() -> None:
    assert not [name for name in layouts() if name.startswith("trace")]
