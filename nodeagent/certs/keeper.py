# SPDX-License-Identifier: Apache-2.0
"""Keeps a certificate for every identity that is wanted: the skin of rotation.py, and the owner of the keys."""

import asyncio
import contextlib
import dataclasses
import logging
import random
from collections.abc import Callable
from datetime import datetime
from typing import Protocol, assert_never

from nodeagent.certs.bundle import CertificateBundle
from nodeagent.certs.chain import is_trusted
from nodeagent.certs.client import utc_now
from nodeagent.certs.rotation import Command, Fetch, Forget, Install, Rotation, State
from nodeagent.errors import ControlPlaneError
from nodeagent.model.identity import Identity

LONGEST_SLEEP_SECONDS = 60.0
"""Certificates live by the wall clock, which may be set meanwhile; sleeping does not follow it."""

_log = logging.getLogger(__name__)


class Signer(Protocol):
    """What the keeper needs of certs/client.py."""

    async def fetch(self, identity: Identity) -> CertificateBundle:
        """Raises ControlPlaneError when there is none to be had."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateStatus:
    """A row of `nodeagent certs`. Times are Unix seconds."""

    identity: Identity
    state: State
    serial: str
    """Of the certificate in use, as are the next two; empty and None without one."""
    not_before: float | None
    not_after: float | None
    last_error: str
    """Of the last request, empty when it succeeded."""
    next_try: float | None
    """When it is renewed or asked for again; None while a request is on its way."""


class CertificateKeeper:
    """Tells the agent what to use.

    `on_certificate` is called for each new certificate, and for all of them when the trust bundle has changed,
    `on_forgotten` when one has expired or is not wanted any more; both in the event loop.
    """

    def __init__(
        self,
        signer: Signer,
        on_certificate: Callable[[Identity, CertificateBundle], None],
        on_forgotten: Callable[[Identity], None],
        *,
        clock: Callable[[], datetime] = utc_now,
        pick: Callable[[], float] = random.random,
    ) -> None:
        self._signer, self._on_certificate, self._on_forgotten = signer, on_certificate, on_forgotten
        self._clock = clock
        self._rotation = Rotation(pick)
        self._bundles: dict[Identity, CertificateBundle] = {}
        self._fetched: dict[Identity, CertificateBundle] = {}
        """Between the answer and `Install`."""
        self._wanted: frozenset[Identity] = frozenset()
        self._changed = asyncio.Event()
        self._is_renewal_asked = False
        self.fetches = 0
        """Certificates received since the start."""
        self.failures = 0

    def wanted(self, identities: frozenset[Identity]) -> None:
        """Replaces the set of identities that this node needs. Returns at once."""
        self._wanted = identities
        self._changed.set()

    def renew(self) -> int:
        """Asks for new certificates at once, for all identities; returns how many. Returns before they come."""
        self._is_renewal_asked = True
        self._changed.set()
        return len(self._rotation.entries)

    def bundle(self, identity: Identity) -> CertificateBundle | None:
        """The certificate in use."""
        return self._bundles.get(identity)

    def status(self) -> tuple[CertificateStatus, ...]:
        return tuple(
            CertificateStatus(
                identity,
                entry.state,
                bundle.serial if bundle else "",
                bundle.not_before.timestamp() if bundle else None,
                bundle.not_after.timestamp() if bundle else None,
                entry.error,
                None if entry.is_asked else entry.next_try,
            )
            for identity, entry in sorted(self._rotation.entries.items())
            for bundle in (self._bundles.get(identity),)
        )

    async def run(self) -> None:
        """Ends only by cancellation, or by a bug."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                if self._is_renewal_asked:
                    self._is_renewal_asked = False
                    self._carry_out(self._rotation.renewal_asked(self._now()), tasks)
                self._carry_out(self._rotation.woken(self._wanted, self._now()), tasks)
                await self._wait()

    async def _wait(self) -> None:
        """Until something has changed or is due."""
        due = self._rotation.next_event()
        seconds = LONGEST_SLEEP_SECONDS if due is None else min(LONGEST_SLEEP_SECONDS, max(0.0, due - self._now()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _carry_out(self, commands: list[Command], tasks: asyncio.TaskGroup) -> None:
        for command in commands:
            match command:
                case Fetch():
                    tasks.create_task(self._fetch(command.identity, tasks), name=f"certificate {command.identity}")
                case Install():
                    self._install(command.identity, tasks)
                case Forget():
                    del self._bundles[command.identity]
                    self._on_forgotten(command.identity)
                case unreachable:
                    assert_never(unreachable)

    async def _fetch(self, identity: Identity, tasks: asyncio.TaskGroup) -> None:
        try:
            bundle = await self._signer.fetch(identity)
        except ControlPlaneError as error:
            self.failures += 1
            self._log_failure(identity, error)
            commands = self._rotation.failed(identity, str(error), self._now())
        else:
            self.fetches += 1
            self._fetched[identity] = bundle
            commands = self._rotation.fetched(
                identity, bundle.not_before.timestamp(), bundle.not_after.timestamp(), self._now()
            )
        self._carry_out(commands, tasks)
        self._fetched.pop(identity, None)  # when nobody wants it any more
        self._changed.set()

    def _log_failure(self, identity: Identity, error: ControlPlaneError) -> None:
        entry = self._rotation.entries.get(identity)
        if entry is not None and entry.error != str(error):  # once per cause, not once per attempt
            _log.warning("no certificate for %s: %s. %s", identity, error, error.check)

    def _install(self, identity: Identity, tasks: asyncio.TaskGroup) -> None:
        bundle = self._fetched.pop(identity)
        self._bundles[identity] = bundle
        self._on_certificate(identity, bundle)
        self._spread_roots(bundle.roots_pem, tasks)

    def _spread_roots(self, roots_pem: bytes, tasks: asyncio.TaskGroup) -> None:
        """The newest answer says whom the whole mesh trusts.

        Waiting for each identity's own renewal would let one refuse for hours the peers that another accepts.
        """
        outdated = [identity for identity, bundle in self._bundles.items() if bundle.roots_pem != roots_pem]
        if not outdated:
            return
        _log.info("the trust bundle has changed, %d certificates get the new one", len(outdated))
        for identity in outdated:
            bundle = dataclasses.replace(self._bundles[identity], roots_pem=roots_pem)
            self._bundles[identity] = bundle
            self._on_certificate(identity, bundle)
        now = self._clock()
        untrusted = [identity for identity in outdated if not is_trusted(self._bundles[identity], roots_pem, now)]
        self._carry_out(self._rotation.roots_changed(untrusted, now.timestamp()), tasks)

    def _now(self) -> float:
        return self._clock().timestamp()
