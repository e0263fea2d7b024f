# SPDX-License-Identifier: Apache-2.0
"""The kernel part as the agent sees it: start, listeners, reconcile, counters, remove.

Everything is idempotent, and everything outlives this object: the proxy namespace, the programs, the maps. A pod whose
namespace or device is gone costs that pod its capture and nothing else. Methods may be called from different threads.
"""

import logging
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from pyroute2 import IPRoute

from nodeagent.errors import KernelError, NotPossible
from nodeagent.kernel import cgroup as cgroups
from nodeagent.kernel import probe, succession, tcx
from nodeagent.kernel.apply import Hands, in_words, place_in_words
from nodeagent.kernel.attach import (
    Attacher,
    Hook,
    Program,
    choose_kind,
    detach_everywhere,
    hooks_of,
    pinned_hooks,
)
from nodeagent.kernel.codings import NO_NUMBER, PodCount, Settings
from nodeagent.kernel.discovery import find_pod_device
from nodeagent.kernel.guard import SKIPPED, Guard, look
from nodeagent.kernel.listeners import ListenerKind, make_listeners
from nodeagent.kernel.loader import LOADER_LOG, load_programs
from nodeagent.kernel.maps import SLOTS, Maps
from nodeagent.kernel.netlink import (
    Device,
    NotCapturable,
    find_device,
    read_devices,
    read_node_addresses,
)
from nodeagent.kernel.pins import Pins, sum_counters
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
from nodeagent.kernel.services import Draws, Services
from nodeagent.kernel.sources import FILTERS, PROGRAMS
from nodeagent.kernel.succession import Succession, find_former
from nodeagent.kernel.syscall import opened, program_info
from nodeagent.kernel.tracing import Trace, WantedTrace
from nodeagent.kernel.verdicts import Revoked, Swap, Verdicts
from nodeagent.model.address import Cidr, Ip
from nodeagent.model.exclusion import Exclusion
from nodeagent.model.mark import DEFAULT_MARKS, Marks
from nodeagent.model.pod import CaptureReason
from nodeagent.policy.verdict_table import VerdictRow
from nodeagent.routing.route import Target as ServiceAddress

__all__ = ["ListenerKind", "PodState", "Steering", "Wanted", "WantedPod"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WantedPod:
    namespace: str
    name: str
    netns: str
    """Path of its network namespace."""
    addresses: tuple[Ip, ...]
    registry_only: bool = False
    """Its connections to addresses that the mesh does not know are dropped."""


@dataclass(frozen=True)
class Wanted:
    pods: tuple[WantedPod, ...]
    known: frozenset[Ip]
    """Addresses of the mesh: workloads and services."""
    adoption_seconds: int
    excluded: frozenset[Exclusion] = frozenset()
    in_question: frozenset[Ip] | None = None
    """None: `known` is every address. Else those that may have become known, or no longer, since the last reconcile
    that succeeded; `known` are those of them that are."""
    known_blocks: frozenset[Cidr] = frozenset()
    """Every block of addresses that a Service has."""
    named: frozenset[Exclusion] = frozenset()
    """Single addresses with a port: what names of the mesh mean at the moment."""


_NO_COUNT = PodCount()


@dataclass(frozen=True)
class PodState:
    """A wanted pod as the kernel has it."""

    namespace: str
    name: str
    device: str = ""
    ifindex: int = 0
    reason: str = ""
    """Why it is not captured: NO_NETNS, NO_DEVICE, UNSUPPORTED_DEVICE, ATTACH_FAILED, MAP_FULL, EGRESS_SKIPPED; empty
    when it is."""
    words: str = ""
    """The same for people."""
    counts: PodCount = _NO_COUNT
    number: int = NO_NUMBER
    """Its bit in the table of verdicts."""

    @property
    def is_captured(self) -> bool:
        return not self.reason

    @property
    def hits(self) -> int:
        """Connections of this pod that were steered, both directions."""
        return self.counts.outbound + self.counts.inbound


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
        self._run_dir = Path(run_dir)
        self._namespace = ProxyNamespace(run_dir)
        self._maps: Maps | None = None
        self._programs: dict[str, Program] = {}
        self._variants: dict[str, Program] = {}
        """In the place of the filters of these names, for as long as a trace lasts."""
        self._filters: dict[Hook, str] = {}
        """Names of the programs that the last reconcile wanted, in the order in which they are attached."""
        self._is_tracing = False
        """What a trace needs is being made, or there."""
        self._trace_lock = threading.Lock()
        """One start or end of a trace at a time; held while it is compiled."""
        self._lock = threading.RLock()
        """One start, reconcile or removal at a time; it may be held for a second."""
        self._settings_lock = threading.Lock()
        """Settings have several writers: listeners that come and go, verdicts, reconcile. Held for microseconds."""
        self._listeners: dict[int, socket.socket] = {}
        """By row, for maps that have to be made again."""
        self._seen: set[Hook] | None = None
        """Where filters of ours were found or put; None until every device has been looked at once."""
        self._owed: set[Ip] = set()
        """Addresses of the mesh that `known` should have and may lack: it was full, or had to be made again."""
        self._states: tuple[PodState, ...] = ()
        self._overflow: Counter[str] = Counter()
        self._verdicts: Verdicts | None = None
        self._services: Services | None = None
        self._guards: dict[int, Guard] = {}
        """By device, of captured pods."""
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
            self._maps = self._maps or Maps(self._pins.maps)

    def netns_path(self) -> str:
        return str(self._namespace.reference)

    def make_listeners(self) -> dict[ListenerKind, socket.socket]:
        """A set for one worker. The caller keeps them open: an entry of the kernel's table ends with its last copy."""
        return make_listeners(self.netns_path())

    def put_listener(self, kind: ListenerKind, slot: int, sock: socket.socket | None) -> None:
        """New connections of this kind may go to `sock` from here on; None empties the slot. Raises KernelError."""
        if not 0 <= slot < SLOTS:
            raise ValueError(f"slot {slot} is not below {SLOTS}")
        row = kind * SLOTS + slot
        with self._settings_lock:
            maps = self._opened_maps()
            if sock is None:
                maps.listeners.remove(row)
                self._listeners.pop(row, None)
            else:
                maps.listeners.put(row, sock.fileno())
                self._listeners[row] = sock
            settings = maps.read_settings()
            slots = _slots_in_use(maps)
            if slots != settings.slots:
                maps.settings.put(0, settings._replace(slots=slots))

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
        self._opened_verdicts().suspend()

    def suspensions(self) -> int:
        """For `put_verdicts` and `resume_verdicts`, taken before what they say was read. Raises KernelError."""
        return self._opened_verdicts().suspensions

    def resume_verdicts(self, suspensions: int) -> None:
        """The table in force is right as it is. Raises KernelError."""
        self._opened_verdicts().resume(suspensions)

    def put_verdicts(self, rows: Sequence[VerdictRow], suspensions: int | None = None) -> Swap:
        """These verdicts and no others, in one step. Raises KernelError; then the former table is in force.

        After more suspensions than the given ones they stay suspended; None: they are in force, whatever was.
        """
        with self._lock:
            verdicts = self._opened_verdicts()
            swap = verdicts.swap(rows, verdicts.suspensions if suspensions is None else suspensions)
            self._overflow["verdicts"] = swap.refused
            return swap

    def verdicts_in_force(self) -> tuple[frozenset[VerdictRow], Mapping[Ip, int]]:
        """The table that is there, a predecessor's too, and the numbers that it speaks of. Raises KernelError."""
        with self._lock:
            verdicts = self._opened_verdicts()
            return verdicts.in_force(), verdicts.numbers()

    def generation(self) -> int:
        """Of the table of verdicts in force. Raises KernelError."""
        return self._opened_maps().read_settings().generation

    def put_services(self, wanted: Draws, namespaces: frozenset[int]) -> dict[str, int]:
        """These Services are drawn for connections of these network namespaces, and no others; what did not fit.

        Raises KernelError; then some may be drawn as they were before.
        """
        with self._lock:
            if self._services is None:
                self._services = Services(self._opened_maps())
            refused = self._services.update(wanted, namespaces)
            for table in SERVICE_TABLES:
                self._overflow[table] = refused[table]
            return dict(refused)

    def dialled(self, key: DialKey) -> ServiceAddress | None:
        """Address and port of the Service by which this connection came to its endpoint. Raises KernelError."""
        return self._opened_maps().by_service.find(key)

    def has_dialled(self) -> bool:
        """Whether there is any for which `dialled` has an answer. Raises KernelError."""
        return not self._opened_maps().by_service.is_empty()

    def forget_dialled(self, key: DialKey) -> None:
        """The connection has ended. Raises KernelError."""
        self._opened_maps().by_service.remove(key)

    def numbers(self) -> dict[Owner, int]:
        """Bits of the captured pods in the table of verdicts, by namespace, name and network namespace."""
        return {owner: number for number, owner in self._owners.items()}

    def revoked(self) -> list[Revoked]:
        """Direct connections that were allowed by a table and are not by the one in force. Raises KernelError."""
        with self._lock:
            return self._opened_verdicts().revoked()

    def counters(self) -> dict[str, int]:
        """Packets by the name of their reason. Raises KernelError."""
        try:
            return sum_counters(self._opened_maps().reason_counts.descriptor)
        except OSError as error:
            raise KernelError(f"the kernel's counters cannot be read: {error.strerror}") from error

    def overflow(self) -> dict[str, int]:
        """Rows that did not fit, by map. For `known` this also means that unknown destinations are dropped."""
        return dict(+self._overflow)

    def pods(self) -> list[PodState]:
        """The pods of the last reconcile, with their counts of this moment."""
        return [self._counted(state, time.monotonic()) for state in self._states]

    @property
    def lacks_pods(self) -> bool:
        """Of those that the last reconcile wanted: what it lacked may come without a sign on the node's own devices."""
        return not all(state.is_captured for state in self._states)

    @property
    def is_tracing(self) -> bool:
        return self._is_tracing

    def start_trace(self, wanted: WantedTrace) -> Trace:
        """From its return on, programs that tell of packets run in the place of those that do not.

        May compile for seconds, in which nothing else waits. Raises NotPossible while another trace runs, KernelError.
        """
        with self._trace_lock:
            if self._is_tracing:
                raise NotPossible(
                    "another trace runs on this node",
                    check="There is one at a time; it ends by itself, or see the log.",
                )
            with self._lock:  # no reconcile takes away meanwhile what is made from here on
                self._is_tracing = True
            try:
                load_programs(self._pins, self._run_dir / LOADER_LOG, is_trace=True)
                folder = self._pins.trace_programs
                variants = {name: _read_program(name, folder / name) for name in FILTERS}
                trace = Trace(self._pins.trace)
                try:
                    trace.ask(wanted)
                    self._exchange(variants)
                except BaseException:
                    trace.close()
                    raise
            except BaseException:
                self._end_trace()
                raise
            return trace

    def stop_trace(self) -> None:
        """The usual programs are back, and what a trace has made is gone; none running is fine. Raises KernelError."""
        with self._trace_lock:
            if self._is_tracing:
                self._end_trace()

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
        if self._maps is not None:
            self._maps.close()
            self._maps, self._verdicts, self._services = None, None, None
        self._links.close()
        self._namespace.close()
        self._programs, self._seen = {}, None

    # ---- inside --------------------------------------------------------------------------------------------------

    def _end_trace(self) -> None:
        """Whatever fails, the next reconcile wants the usual programs, and takes away the pins that stay."""
        try:
            with self._lock:
                self._variants = {}
            if self._exchange({}):
                self._pins.remove_trace()
        finally:
            self._is_tracing = False

    def _exchange(self, variants: Mapping[str, Program]) -> bool:
        """In place, from one packet to the next. Where that fails the next reconcile finds another one, and repairs it.

        Whether it failed nowhere. Raises KernelError when nothing can be done.
        """
        is_whole = True
        try:
            with self._lock, IPRoute() as node, self._namespace.inside() as proxy:
                self._variants = dict(variants)
                attacher = Attacher(choose_kind(self._attach), self._links, node, proxy, self.netns_path())
                programs = self._programs | self._variants
                for hook, name in self._filters.items():
                    try:
                        if name in programs and attacher.find(hook):
                            attacher.attach(hook, programs[name])
                    except (KernelError, OSError) as error:  # a pod's device may go at any moment; the others go on
                        is_whole = False
                        log.warning("%s: %s; looked at again with the next reconcile", hook.pin_name, error)
        except OSError as error:
            raise KernelError(f"exchanging the programs: {error}") from error
        return is_whole

    def _counted(self, state: PodState, now: float) -> PodState:
        counts = (self._opened_maps().pod_counts.find(state.ifindex) if self._maps else None) or _NO_COUNT
        if not state.is_captured:
            return replace(state, counts=counts)
        guard = self._guards[state.ifindex] = look(self._guards.get(state.ifindex), counts, now)
        if guard.is_skipped:
            return replace(state, counts=counts, reason=CaptureReason.EGRESS_SKIPPED, words=SKIPPED)
        return replace(state, counts=counts)

    def _opened_maps(self) -> Maps:
        if self._maps is None:
            raise KernelError("the kernel's maps are not open yet", check="The agent has not started its kernel part.")
        return self._maps

    def _opened_verdicts(self) -> Verdicts:
        if self._verdicts is None:
            self._verdicts = Verdicts(self._opened_maps(), self._settings_lock)
        return self._verdicts

    def _make_way(self) -> None:
        """What a former layout has goes on in ours, as far as it can without a copy."""
        if not self._pins.others():
            return
        with IPRoute() as node, self._namespace.inside() as proxy:
            kind = choose_kind(self._attach)
            attacher = Attacher(kind, self._links, node, proxy, self.netns_path())
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
            verified = load_programs(self._pins, self._run_dir / LOADER_LOG)
            seconds = time.monotonic() - started
            log.info("loaded the kernel programs in %.1f s; verified instructions: %s", seconds, verified)
            self._programs, self._variants = {}, {}
            if self._maps is not None:  # somebody took the pins away: the programs have maps of their own now
                self._open_again(self._maps)
        if not self._programs:
            self._programs = {name: _read_program(name, self._pins.programs / name) for name in PROGRAMS}

    def _attach_to_cgroup(self) -> list[str]:
        """Without these programs connections are steered all the same, so it is never an error."""
        found = cgroups.reconcile(self._pins.links, self._cgroup, self._programs, draws_services=self._draws_services)
        if found.seen != self.pods_cgroup and found.seen.path is None:
            log.warning("connections that stay in the kernel are not seen: %s", found.seen.reason)
        self.pods_cgroup, self.services_fault = found.seen, found.fault
        return list(found.done)

    def _open_again(self, former: Maps) -> None:
        with self._settings_lock:
            self._owed.update(former.known.keys())
            self._maps, self._verdicts, self._services = Maps(self._pins.maps), None, None
            former.close()
            for row, sock in self._listeners.items():
                if sock.fileno() >= 0:
                    self._maps.listeners.put(row, sock.fileno())

    def _reconcile(self, node: IPRoute, wanted: Wanted) -> list[str]:
        devices, seen = read_devices(node), list[str]()
        captured, states = _find_pods(node, devices, wanted.pods)
        crossing = self._namespace.ensure(min((pod.device.mtu for pod in captured), default=DEFAULT_MTU))
        target = Target(
            crossing=crossing,
            programs=self._programs | self._variants,
            kind=choose_kind(self._attach),
            pods=tuple(captured),
            known=self._all_known(wanted),
            node_addresses=read_node_addresses(node, devices),
            excluded=wanted.excluded,
            known_blocks=frozenset(map(Exclusion, wanted.known_blocks)) | wanted.named,
            slots=_slots_in_use(self._opened_maps()),
            registry_only=self._is_overflowing(),
            secret=secrets.randbits(64) or 1,
            source_number=secrets.randbits(32) or 1,
            adopt_until=time.monotonic_ns() + wanted.adoption_seconds * 1_000_000_000,
        )
        with self._namespace.inside() as proxy:
            attacher = Attacher(target.kind, self._links, node, proxy, self.netns_path())
            hands = Hands(self._opened_maps(), attacher, self._put_settings)
            found = self._find(hands, target, wanted, devices)
            former = self._succeed(found)
            if former is not None:
                seen = [f"{table}: {rows} brought over" for table, rows in former.bring().items()]
                self._set_settling(is_settling=former.has_flows)
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
                self._set_settling(is_settling=False)
            kept = hands.still_running(former.former.programs) if former is not None else False
        self._owed = {cast("Ip", step.key) for step in hands.overflow if step.table == "known"}
        numbers = {pod.device.index: pod.number for pod in target.pods}
        self._guards = {index: guard for index, guard in self._guards.items() if index in found.counted}
        self._states = tuple(_state(state, pod, hands.refused, numbers) for state, pod in states)
        self._owners = {pod.number: pod.owner for pod in target.pods}
        others = {table: self._overflow[table] for table in ("verdicts", *SERVICE_TABLES)}
        self._overflow = Counter(step.table for step in hands.overflow) + Counter(others)
        self._close_when_full()
        self._filters = {hook: program.name for hook, program in wanted_filters(target).items()}
        self._seen = set(self._filters) | hands.undetached
        used = [former.former.directory] if former is not None and kept else ()
        stale = self._pins.remove_others(used, keeps_trace=self._is_tracing)
        return [*seen, *in_words(steps, hands, devices), *(f"unpinned {path}" for path in stale)]

    def _succeed(self, found: Found) -> Succession | None:
        if not self._pins.others():
            return None
        running = {ours.program for there in found.filters.values() for ours in there}
        former = find_former(self._pins, running)
        return None if former is None else Succession(former, self._pins, running)

    def _set_settling(self, *, is_settling: bool) -> None:
        with self._settings_lock:
            maps = self._opened_maps()
            maps.settings.put(0, maps.read_settings()._replace(is_settling=int(is_settling)))

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
        return number_pods(captured, found, self._opened_verdicts().judged(), self._owners)

    def _put_settings(self, settings: Settings) -> None:
        with self._settings_lock:  # a listener or a suspension may have come since the plan was made
            maps = self._opened_maps()
            now = maps.read_settings()
            generation = now.generation or settings.generation
            maps.settings.put(
                0,
                settings._replace(slots=_slots_in_use(maps), generation=generation, is_changing=now.is_changing),
            )

    def _close_when_full(self) -> None:
        """An address of the mesh that did not fit would be reached in plain text: fail closed."""
        for table, rows in (+self._overflow).items():
            log.error("the kernel map %s is full: %d rows do not fit", table, rows)
        registry_only = int(self._is_overflowing())
        with self._settings_lock:
            maps = self._opened_maps()
            settings = maps.read_settings()
            if settings.registry_only != registry_only:
                maps.settings.put(0, settings._replace(registry_only=registry_only))

    def _is_overflowing(self) -> bool:
        """Some address of the mesh is not known to the kernel."""
        return self._overflow["known"] + self._overflow["known_blocks"] > 0


def _read_program(name: str, path: Path) -> Program:
    try:
        with opened(str(path)) as descriptor:
            return Program(name, program_info(descriptor).id, str(path))
    except OSError as error:
        raise KernelError(f"program {path}: {error.strerror}") from error


def _slots_in_use(maps: Maps) -> int:
    """Up to the highest slot that has any listener."""
    rows = [row for row in range(len(ListenerKind) * SLOTS) if maps.listeners.find(row) is not None]
    return max((row % SLOTS + 1 for row in rows), default=0)


def _find_pods(
    node: IPRoute, devices: Mapping[int, Device], wanted: Iterable[WantedPod]
) -> tuple[list[CapturedPod], list[tuple[WantedPod, CapturedPod | NotCapturable]]]:
    captured, states = [], []
    for pod in wanted:
        device = find_pod_device(node, devices, pod.netns, pod.addresses)
        found: CapturedPod | NotCapturable
        if isinstance(device, NotCapturable):
            found = device
        else:
            found = CapturedPod(
                pod.namespace, pod.name, pod.netns, pod.addresses, device, registry_only=pod.registry_only
            )
            captured.append(found)
        states.append((pod, found))
    return captured, states


def _state(
    pod: WantedPod,
    found: CapturedPod | NotCapturable,
    refused: Mapping[int, NotCapturable],
    numbers: Mapping[int, int],
) -> PodState:
    if isinstance(found, NotCapturable):
        return PodState(pod.namespace, pod.name, reason=found.reason, words=found.words)
    why = refused.get(found.device.index, NotCapturable("", ""))
    return PodState(
        pod.namespace,
        pod.name,
        found.device.name,
        found.device.index,
        reason=why.reason,
        words=why.words,
        number=numbers[found.device.index],
    )
