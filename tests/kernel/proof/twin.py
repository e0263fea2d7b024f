# SPDX-License-Identifier: Apache-2.0
"""The model beside the kernel: one world in both, each packet through both, and a comparison that says all.

What the programs read is written to the product's maps and to the model's World by one method each, so the two never
differ but by what a packet changed.
"""

import socket
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from nodeagent.kernel import codings, syscall
from nodeagent.kernel.codings import NO_NUMBER, FlowKey, PodRow, Source, SourceRow, VerdictBits, VerdictKey, layouts
from nodeagent.kernel.listeners import ListenerKind
from nodeagent.kernel.maps import SLOTS
from nodeagent.kernel.netns import enter_netns
from nodeagent.kernel.reasons import reasons
from nodeagent.model.address import packed_ip, unpack_ip
from tests.kernel.conftest import Kernel
from tests.kernel.proof import model
from tests.kernel.proof.model import Outcome
from tests.kernel.proof.reading import Connection, End, Tcp, read
from tests.kernel.proof.recording import REFUSAL, Recorder, Seen
from tests.kernel.proof.world import DROP, EITHER, Block, Flow, Hairpin, Pod, Sender, Socket, Verdict, World

_FAR = 1 << 62
"""Nanoseconds: a window that stays open."""
_READ_BY_LOOKUPS = 1 << 6 | 1 << 32 + 7
"""Of the secret's bits those that are flags of IPv6 and IPv4 in the same place ("came from a VRF"). Linux 5.10 then
finds no socket that is bound to no device; it is an attacker who sends them, and his own connection that is not found.
"""
_TCP_REPAIR = 19
LISTENED_PORT = 8081
"""Some listener of the proxy namespace is there, at every address: never to be taken for a connection."""


class Arrival(NamedTuple):
    """A frame and how it comes to a program."""

    program: str
    frame: bytes
    device: int
    mark: int = 0
    ingress: int = 0
    flow_hash: int = 0
    refuses: bool = False
    is_signed: bool = False
    """With from_proxy's secret; a mark that needs it has else one that is nearly right."""


class Twin:
    """`shows_decisions`: the recorder runs the test build. In the product's own programs SYN cookies are the kernel's,
    and it refuses every assignment here.
    """

    def __init__(self, kernel: Kernel, recorder: Recorder, *, shows_decisions: bool = True) -> None:
        self.kernel, self._recorder, self._shows_decisions = kernel, recorder, shows_decisions
        self._maps = kernel.maps
        self._numbers = {row.name: row.number for row in reasons()}
        self._flow_key, self._flow_row = layouts()["flow_key"].packing, codings.of_flow()
        self._flow_bytes = layouts()["flow"].size
        self._sockets: list[socket.socket] = []
        self._workers = [kernel.node.steering.make_listeners() for _ in range(SLOTS)]
        with enter_netns(Path(kernel.node.steering.netns_path())):
            self._listener = socket.create_server(("::", LISTENED_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        self.world = self._read_world()
        self.world.believes_cookies = shows_decisions
        self._secret = self._maps.read_settings().secret
        self._has_ingress = recorder.can_come_from_elsewhere(bytes(60), kernel.a)
        self._counted = self._count_all()
        self._pods_counted = self._count_pods()

    def close(self) -> None:
        for sock in (*self._sockets, *(sock for worker in self._workers for sock in worker.values())):
            sock.close()
        self._sockets.clear()
        self._listener.close()

    # ---- both worlds ---------------------------------------------------------------------------------------------

    def put_settings(
        self, *, generation: int, registry_only: bool, is_settling: bool = False, is_changing: bool = False
    ) -> None:
        self.world.generation, self.world.registry_only = generation, registry_only
        self.world.is_settling, self.world.is_changing = is_settling, is_changing
        self._write_settings()

    def put_sender(self, device: int, address: bytes, sender: Sender) -> None:
        self.world.senders[device, address] = sender
        row = SourceRow(_FAR if sender.is_window_open else 0, sender.number, int(sender.registry_only))
        self._maps.sources.put(Source(device, unpack_ip(address)), row)

    def remove_sender(self, device: int, address: bytes) -> None:
        """As the agent does it: see nodeagent/kernel/reconcile.py."""
        settings = self._maps.read_settings()
        self._maps.settings.put(0, settings._replace(sources=0))
        self.world.senders.pop((device, address), None)
        self._maps.sources.remove(Source(device, unpack_ip(address)))
        self._maps.settings.put(0, settings._replace(sources=settings.sources % NO_NUMBER + 1))

    def put_pod(self, address: bytes, pod: Pod | None) -> None:
        self._maps.pods.remove(unpack_ip(address))
        self.world.pods.pop(address, None)
        if pod is not None:
            self.world.pods[address] = pod
            self._maps.pods.put(unpack_ip(address), PodRow(*pod))

    def put_known(self, address: bytes) -> None:
        self.world.known.add(address)
        self._maps.known.put(unpack_ip(address), 1)

    def put_verdicts(self, verdicts: Mapping[tuple[int, int, int], Verdict]) -> None:
        for key in self._maps.verdicts.keys():  # noqa: SIM118 - it is no dict
            self._maps.verdicts.remove(key)
        for place, verdict in verdicts.items():
            bits = sum(1 << number for number in verdict.sources)
            self._maps.verdicts.put(VerdictKey(*place), VerdictBits(bits, int(verdict.is_pending)))
        self.world.verdicts = dict(verdicts)

    def put_listeners(self, slots: int, taken: Iterable[tuple[ListenerKind, int]]) -> None:
        """`slots`: how many of them the settings speak of."""
        self.world.slots, self.world.listeners = slots, {}
        for row in range(len(ListenerKind) * SLOTS):
            self._maps.listeners.remove(row)
        for kind, slot in taken:
            sock = self._workers[slot][kind]
            self._maps.listeners.put(kind * SLOTS + slot, sock.fileno())
            self.world.listeners[kind.name, slot] = sock.getsockname()[1]
        self._write_settings()

    def put_sockets(self, sockets: Iterable[Socket]) -> None:
        """The connections that the proxy holds, and no others."""
        for sock in self._sockets:
            sock.close()
        self.world.sockets = set(sockets)
        with enter_netns(Path(self.kernel.node.steering.netns_path())):
            self._sockets = [_connected(held) for held in sorted(self.world.sockets)]

    def put_flow(self, connection: Connection, flow: Flow) -> None:
        """In the place of the one that is there."""
        key, row = next((key, row) for key, row in self.kernel.flows().items() if _connection(key) == connection)
        opened_by_second = 2 if flow.opener == EITHER else flow.opener == _ends(key)[1] and len(connection) == 2
        self.kernel.put_flow(
            key,
            row._replace(
                generation=flow.generation,
                kind=flow.kind,
                from_second=int(opened_by_second),
                held=_held_bits(key, flow),
            ),
        )
        self.world.flows[connection] = flow

    def forget(self) -> None:
        """Flows and hairpins."""
        self.kernel.forget()
        self.world.flows, self.world.hairpins, self.world.inbound = {}, set(), set()

    # ---- a packet ------------------------------------------------------------------------------------------------

    def run(self, arrival: Arrival) -> Outcome:
        """Through both. Raises AssertionError when they differ. For at_proxy the thread is in its namespace."""
        if not self._shows_decisions:
            arrival = arrival._replace(refuses=True, ingress=arrival.ingress if self._has_ingress else 0)
        expected = _expect(self.world, arrival)
        secret = self._secret_of(arrival)
        flow_hash = arrival.flow_hash % REFUSAL | (REFUSAL if arrival.refuses else 0)
        seen = self._recorder.run(
            arrival.program,
            arrival.frame,
            arrival.device,
            ingress=arrival.ingress,
            mark=arrival.mark,
            flow_hash=flow_hash,
            secret=secret,
        )
        assert self._shown(seen) == self._told(expected), self.explain(arrival, expected)
        is_signed = model.leaves_signed(expected, is_signed=arrival.is_signed)
        assert seen.secret == (self._secret if is_signed else secret), self.explain(arrival, expected)
        number = self._numbers[expected.reason]
        counted = (self._maps.reason_counts.find(number) or 0) - self._counted[expected.reason]
        assert counted == self.world.reasons[expected.reason], self.explain(arrival, expected)
        packet = read(arrival.frame)
        if isinstance(packet, Tcp) and arrival.program != "at_proxy":
            assert self._has_tables_of(packet), self.explain(arrival, expected)
        return expected

    def check_tables(self) -> None:
        """All flows, hairpins and counters are as the model has them."""
        rows = self.kernel.flows()
        flows = {
            _connection(key): Flow(
                row.generation, row.kind, (*_ends(key), EITHER)[row.from_second], _holders(row.held, *_ends(key))
            )
            for key, row in rows.items()
        }
        assert len(flows) == len(rows), "a connection has two keys"
        assert flows == self.world.flows
        assert {_ends(key) for key in self._maps.inbound_flows.rows()} == self.world.inbound
        assert {_hairpin(key) for key in self._maps.hairpins.rows()} == self.world.hairpins
        counted = {name: count - self._counted[name] for name, count in self._count_all().items()}
        assert {name: count for name, count in counted.items() if count} == +self.world.reasons
        counted_pods = {key: count - self._pods_counted[key] for key, count in self._count_pods().items()}
        assert counted_pods == {key: self.world.pod_counts[key] for key in counted_pods}

    def explain(self, arrival: Arrival, expected: Outcome) -> str:
        """For the message of a failure: what came, what the model says, what it read."""
        total = self._count_all()
        moved = {
            name: total[name] - self._counted[name] - self.world.reasons[name]
            for name in total
            if total[name] - self._counted[name] != self.world.reasons[name]
        }
        packet = read(arrival.frame)
        return (
            f"world: {_shortened(self.world, packet)}\n{arrival._replace(frame=b'')}\nframe {arrival.frame.hex()}\n"
            f"read as {packet}\nthe model says {expected}\ncounters beyond the model's: {moved}"
        )

    def _secret_of(self, arrival: Arrival) -> int:
        if arrival.is_signed:
            return self._secret
        if arrival.mark & model.OURS != model.PROXY:
            return 0
        wrong = (self._secret ^ 1 << arrival.flow_hash % 64) & ~_READ_BY_LOOKUPS
        return wrong if wrong != self._secret else wrong ^ 1

    # ---- inside --------------------------------------------------------------------------------------------------

    def _shown(self, seen: Seen) -> tuple[object, ...]:
        if seen.verdict == DROP:
            return (seen.verdict,)
        decision = (seen.redirect, seen.is_for_host, seen.listener) if self._shows_decisions else ()
        return (seen.verdict, seen.mark, seen.frame, *decision)

    def _told(self, expected: Outcome) -> tuple[object, ...]:
        if expected.verdict == DROP:
            return (expected.verdict,)
        decision = (expected.redirect, expected.is_for_host, expected.listener) if self._shows_decisions else ()
        return (expected.verdict, expected.mark, expected.frame, *decision)

    def _has_tables_of(self, packet: Tcp) -> bool:
        """The flow of this connection, whichever end its key has first, and its hairpins, either way."""
        found: list[Flow] = []
        hairpins: set[Hairpin] = set()
        inbound: set[tuple[End, End]] = set()
        a, b = packet.source, packet.destination
        for first, second in {(a, b), (b, a)}:
            key = self._flow_key.pack(first[0], second[0], struct.pack("!H", first[1]), struct.pack("!H", second[1]))
            for table in (self._maps.flows, self._maps.kept_flows):
                packed = syscall.map_lookup(table.descriptor, key, self._flow_bytes)
                if packed is not None:
                    row = self._flow_row.decode(packed)
                    opener = (first, second, EITHER)[row.from_second]
                    found.append(Flow(row.generation, row.kind, opener, _holders(row.held, first, second)))
            inbound |= {(first, second)} if syscall.map_lookup(self._maps.inbound_flows.descriptor, key, 4) else set()
            if syscall.map_lookup(self._maps.hairpins.descriptor, key, 4) is not None:
                hairpins.add(Hairpin(client=second, server=first))
        flow = self.world.flows.get(packet.connection)
        possible = {Hairpin(a, b), Hairpin(b, a)}
        is_inbound_alike = inbound == {(a, b), (b, a)} & self.world.inbound
        return found == ([flow] if flow else []) and hairpins == possible & self.world.hairpins and is_inbound_alike

    def _read_world(self) -> World:
        maps, settings = self._maps, self._maps.read_settings()
        return World(
            proxy_device=settings.proxy_device,
            generation=settings.generation,
            slots=settings.slots,
            registry_only=bool(settings.registry_only),
            is_settling=bool(settings.is_settling),
            is_changing=bool(settings.is_changing),
            senders={
                (key.device, packed_ip(key.ip)): Sender(
                    row.number, row.adopt_until > time.monotonic_ns(), bool(row.registry_only)
                )
                for key, row in maps.sources.rows().items()
            },
            pods={packed_ip(ip): Pod(*row) for ip, row in maps.pods.rows().items()},
            known={packed_ip(ip) for ip in maps.known.keys()},  # noqa: SIM118
            node_addresses={packed_ip(ip) for ip in maps.node_addresses.keys()},  # noqa: SIM118
            known_blocks={
                Block(row.block.network, row.block.bits, row.port)
                for row in maps.known_blocks.keys()  # noqa: SIM118
            },
            excluded={Block(row.block.network, row.block.bits, row.port) for row in maps.excluded.keys()},  # noqa: SIM118
        )

    def _write_settings(self) -> None:
        world, settings = self.world, self._maps.read_settings()
        self._maps.settings.put(
            0,
            settings._replace(
                generation=world.generation,
                slots=world.slots,
                registry_only=int(world.registry_only),
                is_settling=int(world.is_settling),
                is_changing=int(world.is_changing),
            ),
        )

    def _count_all(self) -> dict[str, int]:
        return {name: self._maps.reason_counts.find(number) or 0 for name, number in self._numbers.items()}

    def _count_pods(self) -> dict[tuple[int, str], int]:
        counts: dict[tuple[int, str], int] = {}
        for device in (self.kernel.a, self.kernel.b):
            row = self._maps.pod_counts.find(device)
            assert row is not None
            counts |= {(device, name): count for name, count in row._asdict().items()}
        return counts


def _expect(world: World, arrival: Arrival) -> Outcome:
    program, frame, device, mark, ingress, flow_hash, refuses, is_signed = arrival
    if program == "from_pod":
        return model.from_pod(world, frame, device, mark, is_signed=is_signed)
    if program == "to_pod":
        return model.to_pod(world, frame, device, mark, ingress)
    if program == "from_proxy":
        return model.from_proxy(world, frame, mark)
    return model.at_proxy(world, frame, mark, flow_hash % REFUSAL, refuses=refuses)


def _ends(key: FlowKey) -> tuple[End, End]:
    return (packed_ip(key.first), key.first_port), (packed_ip(key.second), key.second_port)


def _hairpin(key: FlowKey) -> Hairpin:
    """Its key is that of its answers."""
    server, client = _ends(key)
    return Hairpin(client, server)


def _held_bits(key: FlowKey, flow: Flow) -> int:
    return sum(bit for bit, end in zip((1, 2), _ends(key), strict=True) if end in flow.held)


def _holders(bits: int, first: End, second: End) -> frozenset[End]:
    return frozenset(end for bit, end in ((1, first), (2, second)) if bits & bit)


def _connection(key: FlowKey) -> Connection:
    return frozenset(_ends(key))


def _connected(held: Socket) -> socket.socket:
    """A connection by declaration (TCP_REPAIR): no packet is sent."""
    made = socket.socket(socket.AF_INET6 if held.is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    made.bind((str(unpack_ip(held.destination[0])), held.destination[1]))
    made.connect((str(unpack_ip(held.source[0])), held.source[1]))
    return made


def _shortened(world: World, packet: object) -> dict[str, object]:
    shown = asdict(world)
    for name in ("reasons", "pod_counts", "flows", "hairpins"):
        del shown[name]
    if isinstance(packet, Tcp):
        shown["flow"] = world.flows.get(packet.connection)
        shown["hairpins"] = [hairpin for hairpin in world.hairpins if set(hairpin) == packet.connection]
    return shown
