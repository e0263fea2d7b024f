# SPDX-License-Identifier: Apache-2.0
"""The control plane as one process: directory in, snapshots out, one step per change.

An edit that helps nobody (unreadable directory, damaged file, full disk) is reported and changes nothing; only what is
wrong at the start ends the process.
"""

import asyncio
import dataclasses
import datetime as dt
import logging
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

from nodeagent.controlplane import token
from nodeagent.controlplane.allocations import Allocations
from nodeagent.controlplane.authority import AuthoritySource, describe, files_of, open_authority, open_given
from nodeagent.controlplane.ca import CertificateAuthority, Issued
from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.clients import show_clients
from nodeagent.controlplane.files import read_directory
from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.gate import Gate
from nodeagent.controlplane.last_good import LastGood
from nodeagent.controlplane.objects import Enrolment
from nodeagent.controlplane.publisher import Publisher
from nodeagent.controlplane.retranslate import Meshed, concerned_nodes, retranslate
from nodeagent.controlplane.review import see_together
from nodeagent.controlplane.revocation import RevocationList
from nodeagent.controlplane.rotation import Ledger
from nodeagent.controlplane.serve import Server
from nodeagent.controlplane.snapshot import Difference, Snapshot, advance
from nodeagent.controlplane.state import StateDirectory, Status
from nodeagent.controlplane.suppress import Silence, silenced_by, suppress
from nodeagent.controlplane.translate import Touched, Translation, enrolled_by
from nodeagent.controlplane.watch import DirectoryWatch
from nodeagent.errors import ConfigError, StateFileUnwritable
from nodeagent.model.security import Revocations

_log = logging.getLogger(__name__)

SERVER_NAMES = ("localhost", "127.0.0.1", "::1", "istiod.istio-system.svc")
"""The last is what ztunnels and agents look for unless told otherwise."""
_REST = 19
"""Times as long as a look at the whole mesh has taken it is not looked at again: changes go first."""
_LONGEST_REST_SECONDS = 10.0
_AGENTS_FIRST_SECONDS = 0.1
"""Between publishing and such a look: hundreds of streams have been written to by then, which it would slow down."""
AUTHORITY_SECONDS = 1.0
"""How often the files of the authority are looked at."""
_SWITCH_SECONDS = 0.0005
"""For which a thread computes before another may; Python's own is ten times that. Each time that the loop has waited
for something, such a thread keeps it from going on for that long, and a change waits tens of times."""
_LONGEST_PAUSE_SECONDS = 1.0
"""A look at the whole mesh waits for a change that is on its way, a few times: one that never rests must not end it."""
_AUTHORITY = "ca"
"""In whose name agents are told what is revoked."""
_NOTHING = Touched(*([frozenset[str]()] * len(Touched._fields)))
_LEVELS = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING, Severity.INFO: logging.INFO}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    config_dir: Path
    state_dir: Path
    listen: str = "127.0.0.1:15012"
    server_names: tuple[str, ...] = SERVER_NAMES
    """Names and addresses of the serving certificate; the listening address is added."""
    ca_dir: Path | None = None
    """With the files of Istio's Secret cacerts; None: the authority of the state directory."""
    enrolment: Enrolment | None = None
    """Goes before what MeshConfig says."""
    refuses_unknown: bool = True
    """A field that an API does not have refuses its object; else it is a warning, but in policies."""


Route: TypeAlias = Callable[[Mapping[str, str]], Awaitable[Mapping[str, object]]]
"""From the query's fields to the members of the answer."""


class Admin(Protocol):
    """What answers `nodeagent proxies`; it belongs to another room."""

    def listen(self) -> None:
        """Raises NodeagentError when it cannot."""

    async def run(self) -> None:
        """Until cancelled."""


async def run(
    settings: Settings,
    ready: Callable[[str], None],
    open_admin: Callable[[Mapping[str, Route]], Admin] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT. `ready` is told, once, the address in use.

    Raises ConfigError, PortInUse or MissingPrivilege when it cannot start.
    """
    # Watching begins before the first reading: what changes in between is an event.
    watch, switch_seconds = DirectoryWatch(settings.config_dir), sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        state = StateDirectory(settings.state_dir)
        mesh = MeshDirectory(settings, state)
        mesh.apply(mesh.read(None))
        source = _open_source(settings, state, mesh.publisher.snapshot.translation.mesh.trust_domain)
        ledger, revoked = Ledger(state), RevocationList(state)
        revoked.refresh(source.current, dt.datetime.now(dt.UTC))
        mesh.revoke(revoked.certificates)

        def note_issued(authority: CertificateAuthority, certificate: Issued) -> None:
            try:
                ledger.issued(authority, certificate.not_after)
            except StateFileUnwritable as error:
                mesh.complain(str(error), error.check)

        server = Server(Gate(open_token_key(state)), mesh.publisher, lambda: source.current, note_issued)
        try:
            address = await server.start(settings.listen, settings.server_names)
            # After the port: a second control plane ends there, and does not take the first one's socket.
            admin = open_admin(_routes(server, mesh.publisher)) if open_admin else None
            if admin is not None:
                admin.listen()
            ready(address)
            await _until_stopped(
                mesh.follow(watch), _refresh(source, revoked, mesh), *([admin.run()] if admin is not None else ())
            )
        finally:
            await server.stop()
        _log.info("stopped")
    finally:
        sys.setswitchinterval(switch_seconds)
        watch.close()


def _routes(server: Server, publisher: Publisher) -> Mapping[str, Route]:
    async def of_proxies(_query: Mapping[str, str]) -> Mapping[str, object]:
        shown = show_clients(server.clients, now=asyncio.get_running_loop().time(), wall=dt.datetime.now(dt.UTC))
        return {"generation": publisher.snapshot.generation, **shown}

    return {"/proxies": of_proxies}


def _open_source(settings: Settings, state: StateDirectory, trust_domain: str) -> AuthoritySource:
    given, now = settings.ca_dir, dt.datetime.now(dt.UTC)
    if given is not None:
        source = AuthoritySource(lambda now: open_given(given, now), files_of(given, is_given=True), now)
    else:
        files = files_of(state.path, is_given=False)
        source = AuthoritySource(lambda now: open_authority(state, trust_domain, now), files, now)
    _log.info("signing by %s", describe(source.current))
    return source


async def _refresh(source: AuthoritySource, revoked: RevocationList, mesh: "MeshDirectory") -> None:
    """In a thread: files are read, and disks may be slow."""

    def look(now: dt.datetime) -> None:
        source.refresh(now)
        revoked.refresh(source.current, now)

    while True:
        await asyncio.sleep(AUTHORITY_SECONDS)
        await asyncio.to_thread(look, dt.datetime.now(dt.UTC))
        async with mesh.turn:
            mesh.revoke(revoked.certificates)


async def _until_stopped(*services: Coroutine[None, None, None]) -> None:
    """Runs them until a signal asks to stop."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(service) for service in services]
            await stopping.wait()
            for task in running:
                task.cancel()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def open_token_key(state: StateDirectory) -> bytes:
    """The key that signs tokens, made when there is none yet."""
    return state.read_secret(token.KEY_FILE) or state.create_secret(token.KEY_FILE, token.make_key())


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """One change of the directory, computed aside."""

    contents: Mapping[str, Content]
    catalog: Catalog
    meshed: Meshed
    snapshot: Snapshot
    difference: Difference


class MeshDirectory:
    """The directory as it is in force. `publisher` has the snapshot that is served.

    Agents are told first. What looks at the whole mesh, for findings and for the disk, follows when there is time.
    """

    def __init__(self, settings: Settings, state: StateDirectory) -> None:
        self.publisher = Publisher()
        self.findings: tuple[Finding, ...] = ()
        self._settings = settings
        self._state = state
        self._last_good = LastGood(state)
        self._catalog = self._last_good.load()
        self._allocations = Allocations(state)
        self._kept = self._allocations.load()
        self._meshed: Meshed | None = None
        self._silence: Silence = {}
        self._seen: tuple[Finding, ...] = ()
        """Found by the last look at all objects together."""
        self._is_due = asyncio.Event()
        """Such a look, and what is on disk."""
        self._is_calm = threading.Event()
        """No change is on its way."""
        self._is_calm.set()
        self._calms_down: asyncio.TimerHandle | None = None
        self._contents: Mapping[str, Content] = {}
        self._complaint = ""
        self._revoked: frozenset[bytes] = frozenset()
        self.turn = asyncio.Lock()
        """Held from the reading of a step to its publication."""
        self._saving = threading.Lock()
        """The end may come while a thread saves."""

    async def follow(self, watch: DirectoryWatch) -> None:
        """Reads and translates in a thread, so that a large directory does not keep the streams waiting."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._review())
                await self._read_changes(watch)
        finally:
            self._is_calm.set()  # whoever waits for it in a thread would keep the process from ending
            self._save()

    async def _review(self) -> None:
        while True:
            await self._is_due.wait()
            await asyncio.sleep(_AGENTS_FIRST_SECONDS)
            self._is_due.clear()
            began = time.monotonic()
            assert self._meshed is not None
            self._seen = await asyncio.to_thread(self._see, self._catalog, self._meshed.translation)
            self._tell()
            await asyncio.to_thread(self._save)
            await asyncio.sleep(min(_LONGEST_REST_SECONDS, (time.monotonic() - began) * _REST))

    async def _read_changes(self, watch: DirectoryWatch) -> None:
        while True:
            touched = await watch.changed()
            began = time.perf_counter()
            self._is_calm.clear()
            async with self.turn:
                try:
                    step = await asyncio.to_thread(self.read, touched)
                except ConfigError as error:
                    self.complain(str(error), error.check)
                    self._calm_down()
                    continue
                self.apply(step, began)
            self._calm_down()
            self._is_due.set()

    def _calm_down(self) -> None:
        """When agents have been told."""
        if self._calms_down is not None:
            self._calms_down.cancel()
        self._calms_down = asyncio.get_running_loop().call_later(_AGENTS_FIRST_SECONDS, self._is_calm.set)

    def revoke(self, certificates: frozenset[bytes]) -> None:
        """Tells agents what is revoked now, if that is another thing than before: `turn` is the caller's."""
        if certificates == self._revoked:
            return
        self._revoked = certificates
        assert self._meshed is not None
        unchanged = dataclasses.replace(self._meshed, touched=_NOTHING)
        snapshot, difference = self._advance(unchanged)
        self.publisher.publish(snapshot)
        _log.info("generation %d: %s, %d certificates are revoked", snapshot.generation, difference, len(certificates))

    def read(self, touched: frozenset[str] | None) -> "_Step":
        """What the directory means now. Raises ConfigError when it cannot be listed."""
        contents = read_directory(self._settings.config_dir, self._contents, touched)
        catalog = admit(self._catalog, contents, refuses_unknown=self._settings.refuses_unknown)
        meshed = retranslate(self._meshed, catalog, self._settings.enrolment, self._kept)
        self._save_allocated(meshed.translation)  # before agents are told, so that it is true after whatever comes
        snapshot, difference = self._advance(meshed)
        return _Step(contents, catalog, meshed, snapshot, difference)

    def _save_allocated(self, translation: Translation) -> None:
        try:
            self._allocations.save(translation.allocated)
        except StateFileUnwritable as error:
            self.complain(str(error), "A restart would give hosts of ServiceEntries other addresses.")

    def _advance(self, meshed: Meshed) -> tuple[Snapshot, Difference]:
        """With what is revoked: no object of the directory says it."""
        listed = Revocations(source=_AUTHORITY, certificates=self._revoked)
        translation, touched = meshed.translation, meshed.touched
        if self._revoked:  # else nothing is copied: a change costs what it changes
            translation = dataclasses.replace(translation, extensions={**translation.extensions, listed.name: listed})
        if touched is not None:
            touched = touched._replace(extensions=touched.extensions | {listed.name})
        return advance(self.publisher.snapshot, translation, touched)

    def apply(self, step: "_Step", began: float | None = None) -> None:
        """Publishes the step and says so, in one line; without `began` it is the first."""
        changed = [
            content.path
            for name, content in {**self._contents, **step.contents}.items()
            if step.contents.get(name) is not self._contents.get(name) != step.contents.get(name)
        ]
        self._contents, self._catalog, self._meshed = step.contents, step.catalog, step.meshed
        self._silence = _silence(self._silence, step.catalog)
        changed_names = step.snapshot.history[-1] if step.difference else {}
        self.publisher.publish(step.snapshot, concerned_nodes(step.meshed, changed_names))
        if began is None:
            self._seen = self._see(step.catalog, step.meshed.translation)
        self._tell()
        if began is None:
            _log.info(
                "%s: %d files -> generation %d: %s",
                self._settings.config_dir,
                len(step.contents),
                step.snapshot.generation,
                step.difference,
            )
            self._save()
        elif changed:
            what = f"{step.difference}, {(time.perf_counter() - began) * 1000:.0f} ms"
            if not step.difference:
                what = "nothing differs"
            _log.info("%s changed -> generation %d: %s", ", ".join(changed), step.snapshot.generation, what)

    def _see(self, catalog: Catalog, translation: Translation) -> tuple[Finding, ...]:
        objects = enrolled_by(self._settings.enrolment, catalog.values)
        return see_together(catalog, objects, translation, lambda: self._is_calm.wait(_LONGEST_PAUSE_SECONDS))

    def _tell(self) -> None:
        """Every finding once, when it appears."""
        findings = tuple(sorted({*suppress((*self._catalog.findings, *self._seen), self._silence)}))
        before = set(self.findings)
        for finding in findings:
            if finding not in before:
                _log.log(_LEVELS[finding.severity], "%s", finding)
        resolved = len(before - set(findings))
        if resolved:
            _log.info("%d finding%s resolved", resolved, "" if resolved == 1 else "s")
        self.findings = findings

    def _save(self) -> None:
        """After publishing: a slow or full disk delays nobody."""
        with self._saving:
            self._save_now()

    def _save_now(self) -> None:
        snapshot = self.publisher.snapshot
        status = Status(
            generation=snapshot.generation,
            changed_at=dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            workloads=len(snapshot.translation.workloads),
            services=len(snapshot.translation.services),
            policies=len(snapshot.translation.policies),
            findings=self.findings,
        )
        try:
            self._last_good.save(self._catalog.objects)
            self._allocations.save_again()
            self._state.save_status(status)
        except StateFileUnwritable as error:
            self.complain(
                str(error),
                "Is the disk full or read-only? A restart with an invalid file would lose its last good version.",
            )
        else:
            self._complaint = ""

    def complain(self, message: str, check: str) -> None:
        """About the machine, not the mesh; once, until it works again."""
        if message != self._complaint:
            _log.error("%s. %s What is in force stays in force.", message, check)
        self._complaint = message


def _silence(before: Silence, catalog: Catalog) -> Silence:
    """What the objects' annotations ask for, after this catalog came into force."""
    if catalog.changed is None:
        return silenced_by(catalog.values)
    names = {str(key) for key in catalog.changed}
    changed = [catalog.objects[key].value for key in catalog.changed if key in catalog.objects]
    return {name: codes for name, codes in before.items() if name not in names} | dict(silenced_by(changed))
