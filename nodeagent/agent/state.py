# SPDX-License-Identifier: Apache-2.0
"""What every worker must know: the mesh, the addresses of enrolled pods, certificates. One place, told to all alike.

A change goes to the subscriber (the fleet) as the messages of proxy/messages.py, at once and in order; a worker that
comes later gets `everything()`, which says the same.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from nodeagent.certs.bundle import CertificateBundle
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh, split
from nodeagent.proxy.messages import Apply, Certificate, ForgetCertificate, LocalPods, ToWorker

PIECE_VALUES = 64
"""Values of one Apply: a worker applies a piece between two batches of traffic, so it must be short."""

Subscriber = Callable[[ToWorker, tuple[int, ...]], None]


class NodeState:
    def __init__(self, node: str = "", network: str = "") -> None:
        self.mesh = Mesh(node, network)
        self._node = node
        self.local: frozenset[Ip] | None = None
        """None until it is decided for the first time: what a predecessor's workers know stays in force."""
        self.certificates: dict[Identity, CertificateBundle] = {}
        self.lapsed: set[Identity] = set()
        """Identities whose certificate has ended without a successor."""
        self.before_workers_know: Callable[[], None] = lambda: None
        """Called whenever something has changed that workers decide by, before one of them is told."""
        self.policy_since: dict[str, float] = {}
        """By `ns/name`, the Unix time at which a policy has come as it is."""
        self._subscriber: Subscriber = lambda _message, _descriptors: None

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber

    def apply(self, changes: Changes) -> int:
        """Returns the generation that carries the change."""
        self.mesh.apply(changes)
        self._note_policies(changes)
        self.before_workers_know()
        for message in _pieces(changes, self.mesh.generation):
            self._subscriber(message, ())
        return self.mesh.generation

    def _note_policies(self, changes: Changes) -> None:
        for key in changes.removed_policies:
            self.policy_since.pop(key, None)
        if changes.policies:
            now = time.time()
            self.policy_since.update((policy.key, now) for policy in changes.policies)

    def set_local(self, addresses: frozenset[Ip]) -> int:
        """Returns the generation whose Applied says that the workers know these addresses."""
        if addresses != self.local:
            self.local = addresses
            self._forget_lapsed(addresses)
            self._subscriber(LocalPods(addresses), ())
            return self.apply(Changes())  # nothing but a number to wait for
        return self.mesh.generation

    def _forget_lapsed(self, addresses: frozenset[Ip]) -> None:
        """Those that no pod here has any more.

        Only when the owner of each address is known: one may be missing for a moment, and has lapsed all the same.
        """
        owners = [
            (ip, workload.identity)
            for workload in (self.mesh.workloads_on(self._node) if self.lapsed else ())
            for ip in workload.addresses
            if ip in addresses
        ]
        if {ip for ip, _ in owners} == addresses:
            self.lapsed &= {identity for _, identity in owners}

    def set_certificate(self, identity: Identity, bundle: CertificateBundle) -> None:
        self.certificates[identity] = bundle
        self.lapsed.discard(identity)
        with in_memory(identity, bundle) as (message, descriptors):
            self._subscriber(message, descriptors)

    def forget_certificate(self, identity: Identity) -> None:
        self.certificates.pop(identity, None)
        self.lapsed.add(identity)
        self.before_workers_know()
        self._subscriber(ForgetCertificate(identity), ())

    def send_everything(self, send: Subscriber) -> None:
        """The local pods come last: a new worker serves as soon as it knows them."""
        for identity, bundle in self.certificates.items():
            with in_memory(identity, bundle) as (certificate, descriptors):
                send(certificate, descriptors)
        for message in _pieces(self.mesh.everything(), self.mesh.generation):
            send(message, ())
        if self.local is not None:
            send(LocalPods(self.local), ())


def _pieces(changes: Changes, generation: int) -> Iterator[Apply]:
    """At least one piece, even of nothing: its `is_last` is what a worker answers."""
    pieces = list(split(changes, PIECE_VALUES)) or [Changes()]
    for number, piece in enumerate(pieces, 1):
        yield Apply(piece, generation, is_last=number == len(pieces))


@contextlib.contextmanager
def in_memory(identity: Identity, bundle: CertificateBundle) -> Iterator[tuple[Certificate, tuple[int, ...]]]:
    """The message with its two memfds, which live until the block ends (channels duplicate them)."""
    descriptors: list[int] = []
    try:
        for contents in (bundle.key_pem + bundle.chain_pem, bundle.roots_pem):
            descriptors.append(os.memfd_create("nodeagent-certificate", os.MFD_CLOEXEC))
            os.write(descriptors[-1], contents)
        yield Certificate(identity, bundle.serial, bundle.not_after.timestamp()), tuple(descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
