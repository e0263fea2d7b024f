# SPDX-License-Identifier: Apache-2.0
"""The table of verdicts in the kernel: swapped as one generation, so that no packet sees half of one.

Rows of the next generation are written beside those in force; then one number in the settings names them. A packet
reads that number once, and may still be on its way with the former one: what was in force is removed by the next swap,
before it writes. So is what is left of a writer that died, which has the number that comes next.

The workers judge by the same policies, and they know a change first. Were the kernel to go on with the former table
meanwhile, who is cut by a worker could dial again and be let in. So the table is suspended before the workers are told:
until the next swap what is new goes to them, and what is open goes on.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from nodeagent.kernel.codings import (
    NO_NUMBER,
    OPENED_BY_EITHER,
    Flow,
    FlowKey,
    VerdictBits,
    VerdictKey,
    generation_and_kind,
)
from nodeagent.kernel.maps import Maps
from nodeagent.model.address import Ip
from nodeagent.policy.verdict_table import OTHER_PORTS, VerdictRow

FLOW_ALLOWED = 1
"""enum flow_kind in bpf/flow.h."""


class Swap(NamedTuple):
    generation: int
    rows: int
    refused: int
    """Rows that did not fit. A destination whose last row is among them is the proxy's to answer for."""


class Revoked(NamedTuple):
    """A direct connection that the table in force does not allow."""

    client: Ip
    client_port: int
    server: Ip
    server_port: int


class Verdicts:
    """The caller sees to it that there is one swap at a time. Methods raise KernelError."""

    def __init__(self, maps: Maps, settings_lock: threading.Lock) -> None:
        self._maps, self._settings_lock = maps, settings_lock
        self.suspensions = 0
        """How often the table was suspended by this object."""

    def suspend(self) -> None:
        with self._settings_lock:
            self.suspensions += 1
            self._maps.settings.put(0, self._maps.read_settings()._replace(is_changing=1))

    def resume(self, suspensions: int) -> None:
        """Unless it was suspended again since there were so many."""
        with self._settings_lock:
            settings = self._maps.read_settings()
            if settings.is_changing and self.suspensions <= suspensions:
                self._maps.settings.put(0, settings._replace(is_changing=0))

    def swap(self, rows: Sequence[VerdictRow], suspensions: int) -> Swap:
        """`suspensions`: how many there were when the rows began to be made; after a later one they stay suspended."""
        table, current = self._maps.verdicts, self._maps.read_settings().generation
        table.remove_all([key for key in table.rows() if key.generation != current])
        generation = current % NO_NUMBER + 1  # never 0: no settings at all
        written = table.put_all(
            [
                (VerdictKey(generation, row.destination, row.port), VerdictBits(row.sources, int(row.is_pending)))
                for row in rows
            ]
        )
        with self._settings_lock:
            is_changing = int(self.suspensions > suspensions)
            settings = self._maps.read_settings()._replace(generation=generation, is_changing=is_changing)
            self._maps.settings.put(0, settings)
        return Swap(generation, written, len(rows) - written)

    def judged(self) -> frozenset[int]:
        """Numbers of the pods that the table in force speaks of."""
        current = self._maps.read_settings().generation
        rows = [(key, row.sources) for key, row in self._maps.verdicts.rows().items() if key.generation == current]
        return frozenset(key.destination for key, _ in rows) | frozenset(_numbers(bits for _, bits in rows))

    def in_force(self) -> frozenset[VerdictRow]:
        current = self._maps.read_settings().generation
        return frozenset(
            VerdictRow(key.destination, key.port, row.sources, bool(row.is_pending))
            for key, row in self._maps.verdicts.rows().items()
            if key.generation == current
        )

    def numbers(self) -> Mapping[Ip, int]:
        """Of the pods that are captured, as the kernel has them."""
        return {ip: row.number for ip, row in self._maps.pods.rows().items()}

    def revoked(self) -> list[Revoked]:
        current, numbers = self._maps.read_settings().generation, self.numbers()
        rows = {
            (key.destination, key.port): row.sources
            for key, row in self._maps.verdicts.rows().items()
            if key.generation == current
        }
        flows = self._maps.flows.rows_where(lambda packed: is_in_question(packed, current))
        return list(find_revoked(flows, numbers, rows))


def is_in_question(packed: bytes, current: int) -> bool:
    """Whether a flow, as it is packed, was allowed by another table than that of the current generation."""
    generation, kind = generation_and_kind(packed)
    return generation != current and kind == FLOW_ALLOWED


def find_revoked(
    flows: Mapping[FlowKey, Flow], numbers: Mapping[Ip, int], rows: Mapping[tuple[int, int], int]
) -> Iterator[Revoked]:
    """Of flows that are in question, those that `rows` (by destination and port) do not. As from_pod's row 9."""
    for key, flow in flows.items():
        ends = (key.first, key.first_port), (key.second, key.second_port)
        openers = (0, 1) if flow.from_second == OPENED_BY_EITHER else (flow.from_second,)
        for opener in openers:
            client, server = ends[opener], ends[1 - opener]
            if not _is_allowed(rows, numbers.get(client[0], NO_NUMBER), numbers.get(server[0], NO_NUMBER), server[1]):
                yield Revoked(*client, *server)
                break


def _is_allowed(rows: Mapping[tuple[int, int], int], source: int, destination: int, port: int) -> bool:
    if NO_NUMBER in {source, destination}:
        return False
    bits = rows.get((destination, port))
    if bits is None:
        bits = rows.get((destination, OTHER_PORTS), 0)
    return bool(bits >> source & 1)


def _numbers(bits: Iterable[int]) -> Iterator[int]:
    together = 0
    for some in bits:
        together |= some
    return (number for number in range(together.bit_length()) if together >> number & 1)
