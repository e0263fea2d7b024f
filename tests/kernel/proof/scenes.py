# SPDX-License-Identifier: Apache-2.0
"""What happens between packets, at random: policies and generations, windows, workers, pods that come and go."""

import random
from collections.abc import Callable

from nodeagent.kernel.codings import NO_NUMBER
from nodeagent.kernel.listeners import ListenerKind
from nodeagent.kernel.maps import SLOTS
from nodeagent.model.address import Ip, packed_ip
from tests.kernel.conftest import FAMILIES
from tests.kernel.proof.packets import Cast, Packets
from tests.kernel.proof.twin import LISTENED_PORT, Twin
from tests.kernel.proof.world import ADOPTED, ALLOWED, EITHER, EXCLUDED, HBONE_PORT, TAKEN, Pod, Sender, Socket, Verdict

_NUMBERS = (0, 1, 7, 8, 9, 63, 64, 511, 1022, 1023, 1024, NO_NUMBER)
_OTHER_DEVICE = 424242
"""That the kernel has not: redirects are recorded, not made."""
_FURTHER = {"IPv4": ("10.99.1.4", "10.99.1.5"), "IPv6": ("fd99:1::1:0:3", "fd99:1:0:7::2")}
"""Further addresses of pods a and b, which come and go; only the first is known to the mesh. In IPv6 each differs from
the other pod's own in one inner word.
"""


def make_cast(name: str) -> Cast:
    family = FAMILIES[name]
    pods = (family.pod, family.neighbour, *(Ip(ip) for ip in _FURTHER[name]))
    others = (family.remote, family.excluded, family.outside, family.node, family.registered, family.named)
    return Cast(tuple(map(packed_ip, pods)), tuple(map(packed_ip, others)), family.is_ipv6)


class Scenes:
    def __init__(self, dice: random.Random, twin: Twin) -> None:
        self._dice, self._twin = dice, twin
        self._casts = (make_cast("IPv4"), make_cast("IPv6"))
        kernel = twin.kernel
        pods, na0, eth0 = (kernel.a, kernel.b), (kernel.na0,) * 2, (kernel.eth0,) * 2
        devices = {"from_pod": pods, "to_pod": pods, "from_proxy": na0, "at_proxy": eth0}
        self.packets = Packets(dice, twin.world, self._casts, devices)
        for cast in self._casts:
            twin.put_known(cast.pods[2])
        for _ in range(20):
            self.packets.aims.append(self.packets.aim())
        for change in self._changes():
            change()

    def change(self) -> None:
        for change in self._dice.choices(self._changes(), k=2):
            change()

    def _changes(self) -> tuple[Callable[[], None], ...]:
        return (
            self._policies_change,
            self._policies_change,
            self._windows_change,
            self._connections_change,
            self._connections_change,
            self._workers_change,
            self._pods_change,
            self._flows_age,
            self._flows_age,
            self._settings_change,
            self._settings_change,
            self._all_is_forgotten,
        )

    def _policies_change(self) -> None:
        """A generation of verdicts, with left-overs of the one before and rows of the one that comes."""
        dice, twin = self._dice, self._twin
        generation = twin.world.generation + 1
        numbers = sorted({pod.number for pod in twin.world.pods.values()} | {0, 1023})
        rows = {}
        for number in numbers:
            for port in (0, 80, 81, 40000, HBONE_PORT):
                if dice.random() < 0.6:
                    of_generation = generation + dice.choice((0, 0, 0, 0, -1, 1))
                    sources = frozenset(number for number in numbers if number < 1024 and dice.random() < 0.6)
                    rows[of_generation, number, port] = Verdict(sources, is_pending=dice.random() < 0.2)
        twin.put_verdicts(rows)
        twin.put_settings(generation=generation, registry_only=twin.world.registry_only)

    def _windows_change(self) -> None:
        for (device, address), sender in list(self._twin.world.senders.items()):
            opened = self._dice.random() < 0.5
            self._twin.put_sender(device, address, sender._replace(is_window_open=opened))

    def _connections_change(self) -> None:
        """The proxy holds other connections: of packets that were seen, and others."""
        aims = [*self._dice.sample(list(self.packets.aims), 6), *(self.packets.aim() for _ in range(2))]
        self.packets.held = [
            aim for aim in aims if aim.source != aim.destination and aim.destination[1] != LISTENED_PORT
        ]
        self._twin.put_sockets(Socket(*aim) for aim in self.packets.held)

    def _workers_change(self) -> None:
        everywhere = [(kind, slot) for kind in ListenerKind for slot in range(SLOTS)]
        taken = [place for place in everywhere if self._dice.random() < 0.5]
        self._twin.put_listeners(self._dice.choice((0, 1, 2, 3, 4, 4)), taken)

    def _pods_change(self) -> None:
        """Numbers are given anew, also such as no verdict has a bit for; pods come and go."""
        dice, twin = self._dice, self._twin
        for cast in self._casts:
            for place, address in enumerate(cast.pods):
                number, device = dice.choice(_NUMBERS), (twin.kernel.a, twin.kernel.b)[place % 2]
                sender = Sender(number, dice.random() < 0.3, registry_only=dice.random() < 0.3)
                twin.put_sender(device, address, sender)
                is_gone = place >= 2 and dice.random() < 0.3
                if is_gone and dice.random() < 0.5:
                    twin.remove_sender(device, address)
                device = dice.choice((device, _OTHER_DEVICE))
                pod = Pod(device, dice.randbytes(6), dice.randbytes(6), number)
                twin.put_pod(address, None if is_gone else pod)

    def _flows_age(self) -> None:
        """Some flows are of another generation or kind, or were opened by the other end."""
        dice, world = self._dice, self._twin.world
        for connection, flow in dice.sample(list(world.flows.items()), min(12, len(world.flows))):
            self._twin.put_flow(
                connection,
                flow._replace(
                    generation=world.generation - dice.choice((0, 1, 1, 2)),
                    kind=dice.choice((ALLOWED, ALLOWED, EXCLUDED, ADOPTED, TAKEN)),
                    opener=dice.choice([*sorted(connection), EITHER]),
                    held=frozenset(end for end in sorted(connection) if dice.random() < 0.3),
                ),
            )

    def _settings_change(self) -> None:
        self._twin.put_settings(
            generation=self._twin.world.generation,
            registry_only=self._dice.random() < 0.5,
            is_settling=self._dice.random() < 0.3,
            is_changing=self._dice.random() < 0.2,
        )

    def _all_is_forgotten(self) -> None:
        self._twin.forget()
