# SPDX-License-Identifier: Apache-2.0
"""The kernel part as the agent sees it: start, listeners, reconcile, counters, remove.

Everything is idempotent, and everything outlives this object: the proxy namespace, the programs, the maps. A pod whose
namespace or device is gone costs that pod its capture and nothing else. Methods may be called from different threads.
"""

import contextlib
import logging
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from pyroute2 import IPRoute

from nodeagent.errors import KernelError
from nodeagent.kernel import cgroup as cgroups
from nodeagent.kernel import probe, succession, tcx
from nodeagent.kernel.apply import Hands, in_words, place_in_words
from nodeagent.kernel.attach import Attacher, Hook, choose_kind, detach_everywhere, hooks_of, pinned_hooks
from nodeagent.kernel.exchange import Exchange
from nodeagent.kernel.listeners import ListenerKind, make_listeners
from nodeagent.kernel.loader import LOADER_LOG, Cancellation
from nodeagent.kernel.netlink import Device, find_device, read_devices, read_node_addresses
from nodeagent.kernel.pins import Pins, sum_counters
from nodeagent.kernel.pod_states import PodState, PodStates, find_pods
from nodeagent.kernel.programs import Programs
from nodeagent.kernel.proxy_namespace import DEFAULT_MTU, PROXY_DEVICE, ProxyNamespace
from nodeagent.kernel.reconcile import (
    CapturedPod,
    Forget,
    Found,
    Owner,
    Target,
    number_pods,
    plan,
    wanted_filters,
)
from nodeagent.kernel.service_codings import DialKey
from nodeagent.kernel.services import TABLES as SERVICE_TABLES
from nodeagent.kernel.services import Draws
from nodeagent.kernel.succession import Succession, find_former
from nodeagent.kernel.tables import Tables
from nodeagent.kernel.tracing import Trace, WantedTrace
from nodeagent.kernel.verdicts import Revoked, Swap
from nodeagent.kernel.wanted import Wanted
from nodeagent.model.address import Ip
from nodeagent.model.exclusion import Exclusion
from nodeagent.model.mark import DEFAULT_MARKS, Marks
from nodeagent.policy.verdict_table import VerdictRow
from nodeagent.routing.route import Target as ServiceAddress

log = logging.getLogger(__name__)


class Steering:
    def __init__(
        self,
        *,
        bpffs: str,
        run_dir: str,
        attach: str = "auto",
        cgroup: str = "",
        marks: Marks = DEFAULT_MARKS,
        draws_services: bool = False,
    ) -> None:
        """`draws_services`: pods' calls of connect(2) are looked at, for what `put_services` says."""
        self._attach, self._cgroup, self._draws_services = attach, cgroup, draws_services
        self._pins = Pins(Path(bpffs), marks)
        self._links = tcx.Links(self._pins.links)
        self._namespace = ProxyNamespace(run_dir)
        self._programs = Programs(self._pins, Path(run_dir) / LOADER_LOG)
        self._tables = Tables(self._pins)
        self._lock = threading.RLock()
        """One start, reconcile or removal at a time; it may be held for a second."""
        self._has_former_maps = False
        """Somebody took the pins away: the programs that were loaded again have other maps than those that are open."""
        self._exchange = Exchange(self._pins, self._programs, self._lock, self._attaching)
        self._seen: set[Hook] | None = None
        """Where filters of ours were found or put; None until every device has been looked at once."""
        self._owed: set[Ip] = set()
        """Addresses of the mesh that `known` should have and may lack: it was full, or had to be made again."""
        self._states = PodStates()
        self._overflow: Counter[str] = Counter()
        self._owners: dict[int, Owner] = {}
        """Of the numbers that pods have, as far as this object gave or confirmed them."""
        self.pods_cgroup = cgroups.PodsCgroup(None, "not looked for yet")
        """Where direct connections are seen, or why they are not."""
        self.services_fault = ""
        """Why connect(2) is not looked at, although it should be."""

    def start(self) -> None:
        """Namespace, programs and maps: made, or adopted from a predecessor. Raises KernelError, MissingPrivilege."""
        probe.require(str(self._pins.bpffs))
        choose_kind(self._attach)
        with self._lock:
            self._namespace.ensure()
            self._make_way()
            self._load()
            self._tables.open()

    def give_up_loading(self) -> None:
        """Programs that are being compiled for `start` or `reconcile` come no more; that one raises KernelError."""
        self._programs.give_up_loading()

    def netns_path(self) -> str:
        return str(self._namespace.reference)

    def make_listeners(self) -> dict[ListenerKind, socket.socket]:
        """A set for one worker. The caller keeps them open: an entry of the kernel's table ends with its last copy."""
        return make_listeners(self.netns_path())

    def put_listener(self, kind: ListenerKind, slot: int, sock: socket.socket | None) -> None:
        """New connections of this kind may go to `sock` from here on; None empties the slot. Raises KernelError."""
        self._tables.put_listener(kind, slot, sock)

    def reconcile(self, wanted: Wanted) -> list[str]:
        """Brings the kernel to what is wanted; what was done, in words. Raises KernelError when nothing can be done."""
        try:
            with self._lock:
                probe.require_bpffs(str(self._pins.bpffs))
                self._load()
                with IPRoute() as node:
                    return self._reconcile(node, wanted)
        except OSError as error:  # out of descriptors, or bpffs was unmounted: it may pass, and the agent asks again
            raise KernelError(f"the kernel cannot be looked at: {error}") from error

    def suspend_verdicts(self) -> None:
        """Until the next `put_verdicts` or `resume_verdicts` no new connection is decided in the kernel.

        Open ones go on. Raises KernelError. Takes microseconds, whatever else this object is doing.
        """
        self._tables.verdicts.suspend()

    def suspensions(self) -> int:
        """For `put_verdicts` and `resume_verdicts`, taken before what they say was read. Raises KernelError."""
        return self._tables.verdicts.suspensions

    def resume_verdicts(self, suspensions: int) -> None:
        """The table in force is right as it is. Raises KernelError."""
        self._tables.verdicts.resume(suspensions)

    def put_verdicts(self, rows: Sequence[VerdictRow], suspensions: int | None = None) -> Swap:
        """These verdicts and no others, in one step. Raises KernelError; then the former table is in force.

        After more suspensions than the given ones they stay suspended; None: they are in force, whatever was.
        """
        with self._lock:
            verdicts = self._tables.verdicts
            swap = verdicts.swap(rows, verdicts.suspensions if suspensions is None else suspensions)
            self._overflow["verdicts"] = swap.refused
            return swap

    def verdicts_in_force(self) -> tuple[frozenset[VerdictRow], Mapping[Ip, int]]:
        """The table that is there, a predecessor's too, and the numbers that it speaks of. Raises KernelError."""
        with self._lock:
            verdicts = self._tables.verdicts
            return verdicts.in_force(), verdicts.numbers()

    def generation(self) -> int:
        """Of the table of verdicts in force. Raises KernelError."""
        return self._tables.maps.read_settings().generation

    def put_services(self, wanted: Draws, namespaces: frozenset[int]) -> dict[str, int]:
        """These Services are drawn for connections of these network namespaces, and no others; what did not fit.

        Raises KernelError; then some may be drawn as they were before.
        """
        with self._lock:
            refused = self._tables.services.update(wanted, namespaces)
            for table in SERVICE_TABLES:
                self._overflow[table] = refused[table]
            return dict(refused)

    def dialled(self, key: DialKey) -> ServiceAddress | None:
        """Address and port of the Service by which this connection came to its endpoint. Raises KernelError."""
        return self._tables.maps.by_service.find(key)

    def has_dialled(self) -> bool:
        """Whether there is any for which `dialled` has an answer. Raises KernelError."""
        return not self._tables.maps.by_service.is_empty()

    def forget_dialled(self, key: DialKey) -> None:
        """The connection has ended. Raises KernelError."""
        self._tables.maps.by_service.remove(key)

    def numbers(self) -> dict[Owner, int]:
        """Bits of the captured pods in the table of verdicts, by namespace, name and network namespace."""
        return {owner: number for number, owner in self._owners.items()}

    def revoked(self) -> list[Revoked]:
        """Direct connections that were allowed by a table and are not by the one in force. Raises KernelError."""
        with self._lock:
            return self._tables.verdicts.revoked()

    def counters(self) -> dict[str, int]:
        """Packets by the name of their reason. Raises KernelError."""
        try:
            return sum_counters(self._tables.maps.reason_counts.descriptor)
        except OSError as error:
            raise KernelError(f"the kernel's counters cannot be read: {error.strerror}") from error

    def overflow(self) -> dict[str, int]:
        """Rows that did not fit, by map. For `known` this also means that unknown destinations are dropped."""
        return dict(+self._overflow)

    def pods(self) -> list[PodState]:
        """The pods of the last reconcile, with their counts of this moment."""
        return [self._states.counted(state, self._tables.opened, time.monotonic()) for state in self._states.all]

    @property
    def lacks_pods(self) -> bool:
        """Of those that the last reconcile wanted: what it lacked may come without a sign on the node's own devices."""
        return not all(state.is_captured for state in self._states.all)

    @property
    def is_tracing(self) -> bool:
        return self._exchange.is_tracing

    def start_trace(self, wanted: WantedTrace, cancellation: Cancellation | None = None) -> Trace:
        """From its return on, programs that tell of packets run in the place of those that do not.

        May compile for seconds, in which nothing else waits, unless `cancellation` is set: LoadCancelled then. Raises
        NotPossible while another trace runs, KernelError.
        """
        return self._exchange.start(wanted, cancellation)

    def stop_trace(self) -> None:
        """The usual programs are back, and what a trace has made is gone; none running is fine. Raises KernelError."""
        self._exchange.stop()

    def remove(self) -> list[str]:
        """Takes away everything of ours: filters, na0, the proxy namespace's mount, pins. What was there, in words."""
        with self._lock, IPRoute() as node:
            devices = read_devices(node)
            gone = detach_everywhere(node, devices, self._pins.links)
            done = [f"detached from {place_in_words(hook, devices)}" for hook in gone]
            done += [f"detached {name}" for name in cgroups.detach_others(self._pins.links)]
            done += self._namespace.remove()
            self.close()
            if self._pins.remove():
                done.append(f"unpinned {self._pins.root}")
        return done

    def close(self) -> None:
        """Closes descriptors and takes nothing away."""
        self._tables.close()
        self._links.close()
        self._namespace.close()
        self._programs.usual = {}
        self._seen = None

    # ---- inside --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _attaching(self) -> Iterator[Attacher]:
        with IPRoute() as node, self._namespace.inside() as proxy:
            yield self._attacher(node, proxy)

    def _attacher(self, node: IPRoute, proxy: IPRoute) -> Attacher:
        return Attacher(choose_kind(self._attach), self._links, node, proxy, self.netns_path())

    def _make_way(self) -> None:
        """What a former layout has goes on in ours, as far as it can without a copy."""
        if not self._pins.others():
            return
        with IPRoute() as node, self._namespace.inside() as proxy:
            attacher = self._attacher(node, proxy)
            hooks = hooks_of(read_devices(node)) | pinned_hooks(self._pins.links)
            eth0 = find_device(proxy, PROXY_DEVICE)
            hooks |= {Hook(is_in_proxy=True, device=eth0.index)} if eth0 is not None else set()
            running = {ours.program for hook in hooks for ours in attacher.find(hook)}
        try:
            shared = succession.make_way(self._pins, running)
        except OSError as error:
            raise KernelError(f"sharing the maps of a former layout: {error}") from error
        if shared:
            log.info("shared with the former layout: %s", ", ".join(shared))

    def _load(self) -> None:
        if not self._pins.has_programs():
            started = time.monotonic()
            log.info("compiling and loading the kernel programs")
            verified = self._programs.load()
            seconds = time.monotonic() - started
            log.info("loaded the kernel programs in %.1f s; verified instructions: %s", seconds, verified)
            self._has_former_maps = self._tables.opened is not None
        former = self._tables.opened
        if former is not None and self._has_former_maps:
            self._owed.update(former.known.keys())
            self._tables.open_again(former)
            self._has_former_maps = False
        self._programs.find()

    def _attach_to_cgroup(self) -> list[str]:
        """Without these programs connections are steered all the same, so it is never an error."""
        found = cgroups.reconcile(
            self._pins.links, self._cgroup, self._programs.usual, draws_services=self._draws_services
        )
        if found.seen != self.pods_cgroup and found.seen.path is None:
            log.warning("connections that stay in the kernel are not seen: %s", found.seen.reason)
        self.pods_cgroup, self.services_fault = found.seen, found.fault
        return list(found.done)

    def _reconcile(self, node: IPRoute, wanted: Wanted) -> list[str]:
        devices, seen = read_devices(node), list[str]()
        captured, states = find_pods(node, devices, wanted.pods)
        crossing = self._namespace.ensure(min((pod.device.mtu for pod in captured), default=DEFAULT_MTU))
        target = Target(
            crossing=crossing,
            programs=self._programs.in_force,
            kind=choose_kind(self._attach),
            pods=tuple(captured),
            known=self._all_known(wanted),
            node_addresses=read_node_addresses(node, devices),
            excluded=wanted.excluded,
            known_blocks=frozenset(map(Exclusion, wanted.known_blocks)) | wanted.named,
            slots=self._tables.slots,
            registry_only=self._is_overflowing(),
            secret=secrets.randbits(64) or 1,
            source_number=secrets.randbits(32) or 1,
            adopt_until=time.monotonic_ns() + wanted.adoption_seconds * 1_000_000_000,
        )
        with self._namespace.inside() as proxy:
            attacher = Attacher(target.kind, self._links, node, proxy, self.netns_path())
            hands = Hands(self._tables.maps, attacher, self._tables.put_settings)
            found = self._find(hands, target, wanted, devices)
            former = self._succeed(found)
            if former is not None:
                seen = [f"{table}: {rows} brought over" for table, rows in former.bring().items()]
                self._tables.set_settling(is_settling=former.has_flows)
                found = self._find(hands, target, wanted, devices)
            target = replace(
                target,
                pods=self._numbered(captured, found),
                is_settling=former is not None and former.has_flows,
            )
            steps = plan(target, found)
            seen += self._attach_to_cgroup()
            hands.apply(steps)
            if former is not None:
                seen += [f"{table}: {rows} brought over late" for table, rows in former.settle().items()]
                hands.apply(step for step in steps if isinstance(step, Forget))  # what was brought late is not excepted
                self._tables.set_settling(is_settling=False)
            kept = hands.still_running(former.former.programs) if former is not None else False
        self._owed = {cast("Ip", step.key) for step in hands.overflow if step.table == "known"}
        numbers = {pod.device.index: pod.number for pod in target.pods}
        self._states.put(states, hands.refused, numbers, found.counted)
        self._owners = {pod.number: pod.owner for pod in target.pods}
        others = {table: self._overflow[table] for table in ("verdicts", *SERVICE_TABLES)}
        self._overflow = Counter(step.table for step in hands.overflow) + Counter(others)
        self._close_when_full()
        self._exchange.filters = {hook: program.name for hook, program in wanted_filters(target).items()}
        self._seen = set(self._exchange.filters) | hands.undetached
        used = [former.former.directory] if former is not None and kept else ()
        stale = self._pins.remove_others(used, keeps_trace=self._exchange.is_tracing)
        return [*seen, *in_words(steps, hands, devices), *(f"unpinned {path}" for path in stale)]

    def _succeed(self, found: Found) -> Succession | None:
        if not self._pins.others():
            return None
        running = {ours.program for there in found.filters.values() for ours in there}
        former = find_former(self._pins, running)
        return None if former is None else Succession(former, self._pins, running)

    def _find(self, hands: Hands, target: Target, wanted: Wanted, devices: Mapping[int, Device]) -> Found:
        hooks = set(wanted_filters(target)) | pinned_hooks(self._pins.links)
        if self._seen is None:  # a predecessor may have left filters on any device
            hooks |= hooks_of(devices)
        else:
            hooks |= {hook for hook in self._seen if hook.is_in_proxy or hook.device in devices}
        in_question = None if wanted.in_question is None else wanted.in_question | self._owed
        return hands.find(hooks, in_question)

    def _all_known(self, wanted: Wanted) -> frozenset[Ip]:
        if wanted.in_question is None:
            return wanted.known
        return wanted.known | (self._owed - wanted.in_question)

    def _numbered(self, captured: Sequence[CapturedPod], found: Found) -> tuple[CapturedPod, ...]:
        return number_pods(captured, found, self._tables.verdicts.judged(), self._owners)

    def _close_when_full(self) -> None:
        """An address of the mesh that did not fit would be reached in plain text: fail closed."""
        for table, rows in (+self._overflow).items():
            log.error("the kernel map %s is full: %d rows do not fit", table, rows)
        self._tables.set_registry_only(is_registry_only=self._is_overflowing())

    def _is_overflowing(self) -> bool:
        """Some address of the mesh is not known to the kernel."""
        return self._overflow["known"] + self._overflow["known_blocks"] > 0
