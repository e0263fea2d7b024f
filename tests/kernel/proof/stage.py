# SPDX-License-Identifier: Apache-2.0
"""The world of one case of a truth table, and the words for what may become of a packet.

Every packet comes with a mark of somebody else, which stays.
"""

from collections.abc import Callable

from nodeagent.kernel.listeners import ListenerKind
from nodeagent.model.address import Ip, packed_ip
from tests.kernel.conftest import SYN, Family, Kernel, Packet
from tests.kernel.proof.model import PROXY, Outcome
from tests.kernel.proof.recording import COOKIE, Redirect
from tests.kernel.proof.twin import Arrival, Twin
from tests.kernel.proof.world import Pod, Socket, Verdict

OTHERS_MARK = 0x4000
SERVER = 80
"""The port that packets are for, unless told otherwise."""


class Stage:
    """A world in which cases are arranged. It starts with nothing but pods, known addresses and exclusions."""

    def __init__(self, kernel: Kernel, twin: Twin, family: Family) -> None:
        self.kernel, self.twin, self.family = kernel, twin, family

    def arrive(self, program: str, packet: Packet, *, mark: int = 0, ingress: int = 0) -> Arrival:
        device = {"from_proxy": self.kernel.na0, "at_proxy": self.kernel.eth0}.get(program, self.kernel.a)
        return Arrival(program, packet.frame(), device, mark | OTHERS_MARK, ingress)

    def packet(self, source: Ip, destination: Ip, flags: int = SYN, **change: object) -> Packet:
        return Packet(source, destination, flags, **change)  # type: ignore[arg-type]

    def from_pod(self, destination: Ip, flags: int = SYN, **change: object) -> Arrival:
        return self.arrive("from_pod", self.packet(self.family.pod, destination, flags, **change))

    def to_pod(self, source: Ip, flags: int = SYN, *, is_made_here: bool = False, **change: object) -> Arrival:
        packet = self.packet(source, self.family.pod, flags, **change)
        return self.arrive("to_pod", packet, ingress=0 if is_made_here else self.kernel.b)

    def hold(self, packet: Packet) -> None:
        """The proxy has the connection that this packet belongs to."""
        ends = [(packed_ip(Ip(ip)), port) for ip, port in (
            (packet.source, packet.source_port), (packet.destination, packet.destination_port)
        )]  # fmt: skip
        self.twin.put_sockets([Socket(ends[0], ends[1], self.family.is_ipv6)])

    def listen(self, kind: ListenerKind) -> int:
        """One listener, in the second slot of three; its port."""
        self.twin.put_listeners(3, [(kind, 1)])
        return self.twin.world.listeners[kind.name, 1]

    def open_window(self, *, is_open: bool = True) -> None:
        key = self.kernel.a, packed_ip(self.family.pod)
        self.twin.put_sender(*key, self.twin.world.senders[key]._replace(is_window_open=is_open))

    def allow(self, *, generation: int = 0, port: int = SERVER) -> None:
        """From pod a to pod b, and not back; in a generation that comes into force."""
        generation = generation or self.twin.world.generation + 1
        allowed = Verdict(frozenset({self.kernel.number_a}))
        self.twin.put_verdicts({(generation, self.kernel.number_b, port): allowed})
        self.twin.put_settings(generation=generation, registry_only=False)

    def forbid(self) -> None:
        self.twin.put_verdicts({})
        self.twin.put_settings(generation=self.twin.world.generation + 1, registry_only=False)

    def cookie(self, packet: Packet, port: int) -> bytes:
        """The frame, with the acknowledgement that this listener's cookie asks for."""
        frame, at = packet.frame(), 14 + (40 if self.family.is_ipv6 else 20) + 8
        return frame[:at] + (COOKIE + port).to_bytes(4, "big") + frame[at + 4 :]

    def pod_row(self, ip: Ip) -> Pod:
        return self.twin.world.pods[packed_ip(ip)]


# ---- what is expected ------------------------------------------------------------------------------------------------

Expect = Callable[[Stage, Arrival, Outcome], None]


def passes(ours: int | None = None) -> Expect:
    """Unchanged but for our mark; None: that too."""

    def expect(stage: Stage, arrival: Arrival, outcome: Outcome) -> None:
        mark = arrival.mark if ours is None else ours | OTHERS_MARK
        assert outcome[2:] == (-1, mark, arrival.frame, None, False, 0)

    return expect


def dropped(stage: Stage, arrival: Arrival, outcome: Outcome) -> None:
    assert outcome.verdict == 2


def to_proxy_from_pod(ours: int) -> Expect:
    def expect(stage: Stage, arrival: Arrival, outcome: Outcome) -> None:
        redirect = Redirect("redirect_peer", stage.kernel.na0, 0)
        assert outcome[2:] == (7, ours | OTHERS_MARK, arrival.frame, redirect, False, 0)

    return expect


def to_proxy(macs: bytes = b"") -> Expect:
    def expect(stage: Stage, arrival: Arrival, outcome: Outcome) -> None:
        frame = macs + arrival.frame[len(macs) :]
        assert outcome[2:] == (7, arrival.mark, frame, Redirect("redirect", stage.kernel.na0, 0), False, 0)

    return expect


def into_pod(stage: Stage, arrival: Arrival, outcome: Outcome) -> None:
    _is_into(stage.family.pod, stage, arrival, outcome)


def into_neighbour(stage: Stage, arrival: Arrival, outcome: Outcome) -> None:
    _is_into(stage.family.neighbour, stage, arrival, outcome)


def _is_into(ip: Ip, stage: Stage, arrival: Arrival, outcome: Outcome) -> None:
    pod = stage.pod_row(ip)
    frame = pod.pod_mac + pod.gateway_mac + arrival.frame[12:]
    redirect = Redirect("redirect_peer", pod.device, 0)
    assert outcome[2:] == (7, OTHERS_MARK, frame, redirect, True, 0)


def into_node(stage: Stage, arrival: Arrival, outcome: Outcome) -> None:
    pod = stage.pod_row(stage.family.pod)
    frame = pod.gateway_mac + pod.pod_mac + arrival.frame[12:]
    redirect = Redirect("redirect", stage.kernel.a, 1)
    assert outcome[2:] == (7, PROXY | OTHERS_MARK, frame, redirect, False, 0)


def to_stack(kind: ListenerKind | None = None) -> Expect:
    def expect(stage: Stage, arrival: Arrival, outcome: Outcome) -> None:
        port = stage.twin.world.listeners[kind.name, 1] if kind is not None else 0
        assert outcome[2:] == (0, OTHERS_MARK, arrival.frame, None, True, port)

    return expect
