# SPDX-License-Identifier: Apache-2.0
"""What the worker knows, and how it learns: the agent's messages in their order, a millisecond of them a turn.

Decisions run between slices and see whole values (a policy, a workload) in the order of `Changes`: policies first,
and what is removed after what replaces it, so no slice opens what both the old and the whole state would close.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias, assert_never

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh, split
from nodeagent.model.sharing import share
from nodeagent.model.workload import Workload
from nodeagent.proxy.certificates import Certificates
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import (
    Applied,
    Apply,
    Certificate,
    ForgetCertificate,
    FromWorker,
    LocalPods,
    Resync,
    WorkerConfig,
)

_SLICE_SECONDS = 0.001
_VALUES_PER_STEP = 16
"""Applied between two looks at the clock: about a tenth of a millisecond."""

StateMessage: TypeAlias = Apply | Resync | LocalPods | Certificate | ForgetCertificate


class Observer(Protocol):
    def state_changed(self) -> None:
        """Something was applied in this turn: policies, workloads, certificates or local pods."""


class State:
    """`mesh` and `local` are read by every decision; nothing else writes them."""

    def __init__(self, loop: Loop, config: WorkerConfig, answer: Callable[[FromWorker], None]) -> None:
        self.config = config
        self.mesh = Mesh()
        self.local: frozenset[Ip] = frozenset()
        self.is_complete = False
        """The first LocalPods came, which the agent sends behind everything else that a new worker has to know."""
        self.certificates = Certificates(time.time)
        self.generation = 0
        self.observers: list[Observer] = []
        self._loop, self._answer = loop, answer
        self._queue: deque[tuple[StateMessage, list[int]]] = deque()
        self._pieces: Iterator[Changes] = iter(())
        self._applying: Apply | None = None
        self._unseen: _Unseen | None = None

    def local_workload(self, ip: Ip) -> Workload | None:
        """The enrolled pod of this node with this address."""
        return self.mesh.workload_at(self.config.network, ip) if ip in self.local else None

    def has_left(self, ip: Ip, identity: Identity | None) -> bool:
        """Whether the pod that had this address here has gone: nobody has it now, or one with another identity.

        An address whose workload is unknown for a moment is still the same pod's.
        """
        if ip not in self.local:
            return True
        workload = self.local_workload(ip)
        return workload is not None and identity is not None and workload.identity != identity

    def submit(self, message: StateMessage, descriptors: list[int]) -> None:
        """Queues it; it is applied in its turn."""
        if not self._queue and self._applying is None:
            self._loop.after(0, self, self._slice)
        self._queue.append((message, descriptors))

    def crashed(self) -> None:
        """A message that cannot be applied is dropped, and the next one is tried: what is there stays in force."""
        self._applying = None
        if self._queue:
            self._loop.after(0, self, self._slice)

    def _slice(self) -> None:
        deadline = time.monotonic() + _SLICE_SECONDS
        while (self._queue or self._applying is not None) and time.monotonic() < deadline:
            self._step()
        if self._queue or self._applying is not None:
            self._loop.after(0, self, self._slice)
        for observer in self.observers:
            observer.state_changed()

    def _step(self) -> None:
        if self._applying is not None:
            self._apply_piece(self._applying)
            return
        message, descriptors = self._queue.popleft()
        try:
            self._begin(message, descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)

    def _begin(self, message: StateMessage, descriptors: list[int]) -> None:
        match message:
            case Apply():
                self._applying = message
                self._pieces = split(message.changes, _VALUES_PER_STEP)
                if self._unseen is not None:
                    self._unseen.came(message.changes)
            case Resync():
                self.config = message.config
                self._unseen = _Unseen(self.mesh)
            case LocalPods():
                self.local = message.addresses
                self.is_complete = True
            case Certificate():
                self.certificates.add(message, *descriptors)
            case ForgetCertificate():
                self.certificates.forget(message.identity)
            case unreachable:
                assert_never(unreachable)

    def _apply_piece(self, message: Apply) -> None:
        piece = next(self._pieces, None)
        if piece is not None:
            for workload in piece.workloads:
                share(workload)
            self.mesh.apply(piece)
            return
        if message.is_last and self._unseen is not None:
            removal, self._unseen = self._unseen.removal(), None
            # Goes through the same slices; then this message ends for good.
            self._pieces = split(removal, _VALUES_PER_STEP)
            return
        self._applying = None
        if message.is_last:
            self.generation = message.generation
            self._answer(Applied(message.generation))


class _Unseen:
    """Names that were known before a Resync and have not come again."""

    def __init__(self, mesh: Mesh) -> None:
        self._policies, self._services, self._workloads = set(mesh.policies), set(mesh.services), set(mesh.workloads)
        self._extensions, self._names = set(mesh.extensions), set(mesh.resolved)

    def came(self, changes: Changes) -> None:
        self._policies.difference_update(policy.key for policy in changes.policies)
        self._extensions.difference_update(extension.name for extension in changes.extensions)
        self._names.difference_update(found.hostname for found in changes.names)
        self._services.difference_update(service.key for service in changes.services)
        self._workloads.difference_update(workload.uid for workload in changes.workloads)

    def removal(self) -> Changes:
        return Changes(
            removed_policies=tuple(self._policies),
            removed_extensions=tuple(self._extensions),
            removed_names=tuple(self._names),
            removed_services=tuple(self._services),
            removed_workloads=tuple(self._workloads),
        )
