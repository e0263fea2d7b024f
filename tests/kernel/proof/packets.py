# SPDX-License-Identifier: Apache-2.0
"""Random packets that mean something to the world at hand, well-formed and mutilated, from a seed.

Addresses and ports are few, and tuples are used again in both directions, so that packets meet the flows, hairpins,
sockets and verdicts that others left.
"""

import random
import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from tests.kernel.proof.model import LOCAL, OURS, OUT, OUT_NEW, PROXY, TAG
from tests.kernel.proof.reading import End, mapped
from tests.kernel.proof.recording import COOKIE
from tests.kernel.proof.twin import LISTENED_PORT, Arrival
from tests.kernel.proof.world import ALLOWED, HBONE_PORT, World

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
_FLAGS = (SYN, ACK, SYN | ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, 0, SYN | FIN, SYN | RST, SYN | ACK | RST)
_FLAG_WEIGHTS = (30, 25, 12, 8, 5, 5, 3, 1, 1, 1, 1)
_PORTS = (80, 81, 2049, HBONE_PORT, LISTENED_PORT, 40000, 40001)
_OTHERS_MARK = 0x4000
_MARKS = {
    "from_pod": (0, 0, 0, 0, _OTHERS_MARK, PROXY, PROXY | _OTHERS_MARK, LOCAL, OUT, OUT_NEW, 0x0003, 0x1000, 0x100F),
    "to_pod": (0, 0, 0, 0, _OTHERS_MARK, LOCAL, LOCAL | _OTHERS_MARK, PROXY, OUT, OUT_NEW, 0x0002, 0x1000, 0x100F),
    "from_proxy": (0, 0, 0, 0, _OTHERS_MARK, LOCAL, PROXY, OUT_NEW, 0x100F),
    "at_proxy": (0, 0, 0, OUT_NEW, OUT_NEW, OUT_NEW | _OTHERS_MARK, OUT, _OTHERS_MARK, LOCAL, 0x1000, 0x0005),
}
_TUPLES_KEPT = 20
SHORTEST = 15
"""Bytes: BPF_PROG_TEST_RUN refuses an Ethernet header alone, and in newer kernels an IP header that is cut short."""
_SHORTEST_IP = {b"\x08\x00": 14 + 20, b"\x86\xdd": 14 + 40}


class Cast(NamedTuple):
    """Addresses of one family."""

    pods: tuple[bytes, ...]
    """Addresses of this node's pods: on the first device, the second, the first, the second."""
    others: tuple[bytes, ...]
    is_ipv6: bool


class Aim(NamedTuple):
    source: End
    destination: End
    is_ipv6: bool


class Packets:
    def __init__(
        self, dice: random.Random, world: World, casts: tuple[Cast, Cast], devices: dict[str, tuple[int, int]]
    ) -> None:
        self._dice, self._world, self._casts, self._devices = dice, world, casts, devices
        self.aims: deque[Aim] = deque(maxlen=_TUPLES_KEPT)
        self.held: list[Aim] = []
        """Of the proxy's connections, as packets to them have it."""

    def draw(self, program: str) -> Arrival:
        dice = self._dice
        aim = self._aim(program)
        frame = self._frame(aim)
        if dice.random() < 0.35:
            frame = dice.choice(_INJURIES)(dice, frame, aim)
            frame = frame.ljust(_SHORTEST_IP.get(frame[12:14], SHORTEST), b"\0")
        device, mark = self._device(program, aim), dice.choice(_MARKS[program])
        return Arrival(
            program,
            frame,
            device,
            mark=mark,
            ingress=dice.choice((0, device)) if program == "to_pod" else 0,
            flow_hash=dice.getrandbits(31),
            refuses=dice.random() < 0.1,
            is_signed=program == "from_pod" and mark & OURS == PROXY and dice.random() < 0.5,
        )

    def aim(self) -> Aim:
        """Two ends of one family, one of them a pod of this node more often than not."""
        dice = self._dice
        cast = dice.choice(self._casts)
        everyone = (*cast.pods, *cast.others)
        source, destination = dice.choice(cast.pods), dice.choice(everyone)
        if dice.random() < 0.3:
            source, destination = destination, source
        if dice.random() < 0.05:
            source = dice.choice(everyone)
        port = dice.choice(_PORTS)
        return Aim((source, port), (destination, dice.choice((port, *_PORTS))), cast.is_ipv6)

    def _aim(self, program: str) -> Aim:
        aim = self._known_aim(program)
        is_own = aim.source[0] in self._casts[aim.is_ipv6].pods
        turns = 0.8 if program == "from_pod" and not is_own else 0.25
        return Aim(aim.destination, aim.source, aim.is_ipv6) if self._dice.random() < turns else aim

    def _known_aim(self, program: str) -> Aim:
        """Mostly one that the world knows already."""
        dice, luck = self._dice, self._dice.random()
        if luck < 0.2:
            connections = self._tabled(program)
            if connections:
                return dice.choice(connections)
        elif luck < 0.4:
            return dice.choice(self.held)
        elif luck < 0.85:
            return dice.choice(self.aims)
        aim = self.aim()
        self.aims.append(aim)
        return aim

    def _tabled(self, program: str) -> list[Aim]:
        """Flows or hairpins, whichever the program asks for. Sorted: a set has another order in each process."""
        world = self._world
        allowed = {connection for connection, flow in world.flows.items() if flow.kind == ALLOWED}
        arriving = allowed | set(map(frozenset, world.inbound))
        tables = {"from_pod": world.flows.keys(), "to_pod": arriving, "from_proxy": world.hairpins}
        table = tables.get(program, set())
        both = sorted(sorted(connection) for connection in table if len(connection) == 2)
        return [Aim(first, second, first[0][:12] != mapped(b"")) for first, second in both]

    def _device(self, program: str, aim: Aim) -> int:
        if program in {"from_proxy", "at_proxy"}:
            return 0
        """That of the pod whose packet it is, with rare mistakes."""
        address = aim.source[0] if program == "from_pod" else aim.destination[0]
        is_second = address in self._casts[aim.is_ipv6].pods[1::2]
        return self._devices[program][is_second != (self._dice.random() < 0.03)]

    def _frame(self, aim: Aim) -> bytes:
        dice = self._dice
        flags = dice.choices(_FLAGS, _FLAG_WEIGHTS)[0] if dice.random() < 0.97 else dice.getrandbits(8)
        macs = (TAG if dice.random() < 0.3 else b"\x02" * 6) + b"\x04" * 6
        tcp = struct.pack(
            "!HHIIBBHHH", aim.source[1], aim.destination[1], 1, self._acknowledgement(), 0x50, flags, 65535, 0, 0
        )
        return macs + _ip(aim, 6, tcp + bytes(dice.choice((0, 0, 0, 1, 40))))

    def _acknowledgement(self) -> int:
        """Often some listener's cookie, or nearly."""
        dice, listeners = self._dice, self._world.listeners
        if not listeners or dice.random() < 0.4:
            return 1
        kind = dice.choice(("OUTBOUND", "OUTBOUND", "HBONE", "PLAINTEXT"))
        ports = [port for (of_kind, _), port in listeners.items() if of_kind == kind]
        return COOKIE + dice.choice(ports or [1]) + (dice.random() < 0.05)


def _ip(aim: Aim, protocol: int, body: bytes) -> bytes:
    """With the ethertype in front."""
    if aim.is_ipv6:
        header = struct.pack("!IHBB", 0x60000000, len(body), protocol, 64)
        return b"\x86\xdd" + header + aim.source[0] + aim.destination[0] + body
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol, 0)
    return b"\x08\x00" + header + aim.source[0][12:] + aim.destination[0][12:] + body


# ---- injuries --------------------------------------------------------------------------------------------------------

Injury = Callable[[random.Random, bytes, Aim], bytes]


def _flip(dice: random.Random, frame: bytes, _aim: Aim) -> bytes:
    flipped = bytearray(frame)
    for _ in range(dice.randint(1, 3)):
        flipped[dice.randrange(len(frame))] ^= 1 << dice.randrange(8)
    return bytes(flipped)


def _cut(dice: random.Random, frame: bytes, _aim: Aim) -> bytes:
    return frame[: dice.randrange(SHORTEST, len(frame))]


def _retype(dice: random.Random, frame: bytes, _aim: Aim) -> bytes:
    ethertype = dice.choice((0x0806, 0x8100, 0x88A8, 0x88CC, 0x0040, 0x0800, 0x86DD))
    return frame[:12] + struct.pack("!H", ethertype) + frame[14:]


def _change_header(dice: random.Random, frame: bytes, aim: Aim) -> bytes:
    """IPv4: the length of the header, fragments, the protocol. IPv6: the protocol, and headers in between."""
    if aim.is_ipv6:
        return _extend(dice, frame, aim)
    changed = bytearray(frame)
    what = dice.randrange(3)
    if what == 0:
        changed[14] = dice.choice((0x44, 0x46, 0x4F, 0x40, 0x65))
    elif what == 1:
        changed[20:22] = struct.pack("!H", dice.choice((0x2000, 0x2001, 0x0001, 0x1FFF, 0x6000, 0x8000, 0xC000)))
    if what == 2 or dice.random() < 0.2:
        changed[23] = dice.choice((0, 1, 2, 17, 41, 51, 58, 132))
    return bytes(changed)


def _extend(dice: random.Random, frame: bytes, aim: Aim) -> bytes:
    kinds = [dice.choice((0, 43, 60, 60, 44, 51, 59)) for _ in range(dice.randint(1, 6))]
    last = dice.choice((6, 6, 6, 17, 58, 0))
    body = b""
    for following in (*kinds[1:], last):
        words = dice.choice((0, 0, 0, 1, 3, 255))
        body += bytes((following, words)) + bytes(6 + 8 * (words % 4))
    whole = frame[:12] + _ip(aim, kinds[0], body + frame[54:])
    return whole[: dice.randrange(SHORTEST, len(whole))] if dice.random() < 0.3 else whole


def _quote(dice: random.Random, frame: bytes, aim: Aim) -> bytes:
    """An ICMP error about a packet of this connection, back to its sender; it is not always a good one."""
    back = Aim(aim.destination, aim.source, aim.is_ipv6)
    sent, back = dice.choice(((aim, back), (back, aim)))
    ports = struct.pack("!HH", sent.source[1], sent.destination[1])
    quoted = bytearray(_ip(sent, 6, ports + bytes(16))[2:])
    if dice.random() < 0.15:
        quoted[6 if aim.is_ipv6 else 9] = dice.choice((17, 58, 1, 44))
    if dice.random() < 0.1:
        quoted[0] = dice.choice((0x46, 0x44))
    kind = dice.choice((1, 2, 3, 4, 1, 2, 3, 4, 5, 128, 0) if aim.is_ipv6 else (3, 3, 11, 11, 12, 12, 4, 5, 8, 0))
    body = struct.pack("!BBHI", kind, 4, 0, 1280) + bytes(quoted)
    whole = frame[:12] + _ip(back, 58 if aim.is_ipv6 else 1, body)
    if dice.random() < 0.1:
        return whole[: dice.randrange(SHORTEST, len(whole))]
    return _change_header(dice, whole, back) if dice.random() < 0.1 and not aim.is_ipv6 else whole


def _map(dice: random.Random, frame: bytes, aim: Aim) -> bytes:
    """IPv4 addresses in IPv6's clothes: both, or one."""
    if aim.is_ipv6:
        stranger = mapped(b"\x0a\x63\x01\x02"), 80
        ends = (stranger, aim.destination) if dice.random() < 0.5 else (aim.source, stranger)
        disguised = Aim(*ends, is_ipv6=True)
    else:
        disguised = aim._replace(is_ipv6=True)
    return frame[:12] + _ip(disguised, 6, struct.pack("!HHIIBBHHH", 80, 80, 1, 1, 0x50, SYN, 65535, 0, 0))


_INJURIES: tuple[Injury, ...] = (
    _flip, _flip, _cut, _retype, _change_header, _change_header, _change_header, _quote, _quote, _quote, _quote, _map,
)  # fmt: skip
