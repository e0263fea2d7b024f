# SPDX-License-Identifier: Apache-2.0
"""The thin skin around reconcile.py: looks what the kernel has, does the planned steps, says what was done.

Decides nothing. A step for one pod that fails is noted and the others go on; only the crossing itself must succeed.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import cast

from nodeagent.errors import KernelError
from nodeagent.kernel import codings
from nodeagent.kernel.attach import Attacher, Hook
from nodeagent.kernel.codings import Settings
from nodeagent.kernel.maps import Maps, Table
from nodeagent.kernel.netlink import Device, NotCapturable
from nodeagent.kernel.reconcile import (
    PRESENT,
    Attach,
    Detach,
    Forget,
    Found,
    Put,
    PutKnown,
    Remove,
    Step,
    TableName,
)
from nodeagent.model.address import Ip, packed_ip
from nodeagent.model.pod import CaptureReason

log = logging.getLogger(__name__)

_CROSSING = {"at_proxy", "from_proxy"}
_ROWS_AT_ONCE = 256
"""Of one call. While they are packed they take 200 bytes each, much of which would stay with the process."""


class Hands:
    """For one reconcile: the open maps and what attaches."""

    def __init__(self, maps: Maps, attacher: Attacher, put_settings: Callable[[Settings], None]) -> None:
        self._maps, self._attacher, self._put_settings = maps, attacher, put_settings
        self.refused: dict[int, NotCapturable] = {}
        """By device: why its pod is not captured."""
        self.overflow: set[Put] = set()
        """Rows for which a map had no room."""
        self.undetached: set[Hook] = set()
        self.unattached: set[Hook] = set()
        self.forgotten = 0
        """Connections of addresses that were given up."""

    def find(self, hooks: Iterable[Hook], in_question: Collection[Ip] | None = None) -> Found:
        """`in_question`: of the map `known`, whose rows are looked at; None: all, which takes a second for 100,000."""
        maps = self._maps
        known = maps.known.keys() if in_question is None else filter(maps.known.has, in_question)
        filters = {hook: self._attacher.find(hook) for hook in hooks}
        return Found(
            settings=maps.read_settings(),
            sources=maps.sources.rows(),
            pods=maps.pods.rows(),
            counted=frozenset(maps.pod_counts.keys()),
            known=frozenset(known),
            known_blocks=frozenset(maps.known_blocks.keys()),
            node_addresses=frozenset(maps.node_addresses.keys()),
            excluded=frozenset(maps.excluded.keys()),
            filters={hook: ours for hook, ours in filters.items() if ours},
        )

    def apply(self, steps: Iterable[Step]) -> None:
        """Raises KernelError when the crossing cannot be had."""
        for step in steps:
            match step:
                case Put():
                    self._put(step)
                case PutKnown(addresses):
                    self._put_known(addresses)
                case Remove():
                    self._table(step.table).remove(step.key)
                case Attach():
                    self._attach(step)
                case Detach():
                    self._detach(step)
                case Forget():
                    self._forget(step)

    def _put_known(self, addresses: Sequence[Ip]) -> None:
        """Many with one call, which takes half as long as one call for each."""
        for begin in range(0, len(addresses), _ROWS_AT_ONCE):
            some = addresses[begin : begin + _ROWS_AT_ONCE]
            done = self._maps.known.put_all([(ip, PRESENT) for ip in some])
            for ip in some[done:]:  # the map was full there; among the rest may be what it has already
                self._put(Put("known", ip, PRESENT))

    def _put(self, step: Put) -> None:
        if isinstance(step.value, Settings):
            self._put_settings(step.value)
        elif not self._table(step.table).put(step.key, step.value):
            self.overflow.add(step)
            device = getattr(step.key, "device", None) or getattr(step.value, "device", None)
            if device is not None:
                self.refused[device] = NotCapturable(CaptureReason.MAP_FULL, f"the map {step.table} is full")

    def _attach(self, step: Attach) -> None:
        try:
            self._attacher.attach(step.hook, step.program)
        except KernelError as error:
            if step.program.name in _CROSSING:
                raise
            self.refused[step.hook.device] = NotCapturable(CaptureReason.ATTACH_FAILED, str(error))
            self.unattached.add(step.hook)

    def _detach(self, step: Detach) -> None:
        try:
            self._attacher.detach(step.hook)
        except KernelError as error:
            log.warning("%s; tried again at the next reconcile", error)
            self.undetached.add(step.hook)

    def still_running(self, programs: Collection[int]) -> bool:
        """Whether one of them is where it was to be replaced or detached."""
        return any(
            ours.program in programs for hook in self.unattached | self.undetached for ours in self._attacher.find(hook)
        )

    def _forget(self, step: Forget) -> None:
        maps, addresses = self._maps, frozenset(map(packed_ip, step.addresses))
        self.forgotten += sum(
            table.remove_where(lambda key: not addresses.isdisjoint(codings.addresses_of_flow(key)))
            for table in (maps.flows, maps.kept_flows, maps.inbound_flows)
        )

    def _table(self, name: TableName) -> Table[object, object]:
        return cast("Table[object, object]", getattr(self._maps, name))


def in_words(steps: Iterable[Step], hands: Hands, devices: Mapping[int, Device]) -> list[str]:
    """What was done: a line for each attachment, a line for all changed rows of a map."""
    words = [f"flows: {hands.forgotten} forgotten"] if hands.forgotten else []
    changed: Counter[tuple[str, str]] = Counter()
    for step in steps:
        match step:
            case Put("settings", _, Settings() as settings):
                words.append(f"settings: {settings.words}")
            case Put():
                changed[step.table, "refused" if step in hands.overflow else "set"] += 1
            case PutKnown(addresses):
                refused = sum(step.table == "known" for step in hands.overflow)
                changed += Counter({("known", "refused"): refused, ("known", "set"): len(addresses) - refused})
            case Remove():
                changed[step.table, "removed"] += 1
            case Attach():
                outcome = "could not attach" if step.hook.device in hands.refused else "attached"
                words.append(f"{outcome} {step.program.name} to {place_in_words(step.hook, devices)}")
            case Detach():
                outcome = "could not detach" if step.hook in hands.undetached else "detached"
                words.append(f"{outcome} from {place_in_words(step.hook, devices)}")
            case Forget():
                pass  # counted for all of them together
    return [*(f"{table}: {rows} {what}" for (table, what), rows in changed.items()), *words]


def place_in_words(hook: Hook, devices: Mapping[int, Device]) -> str:
    device = devices.get(hook.device)
    name = "eth0 of the proxy namespace" if hook.is_in_proxy else device.name if device else f"device {hook.device}"
    return f"{name} ({'egress' if hook.is_egress else 'ingress'})"
