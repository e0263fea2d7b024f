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
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nodeagent.controlplane import token
from nodeagent.controlplane.ca import open_authority
from nodeagent.controlplane.catalog import Accepted, Catalog, Content, admit
from nodeagent.controlplane.discovery import Publisher
from nodeagent.controlplane.files import read_directory
from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.gate import Gate
from nodeagent.controlplane.objects import Enrolment, Key
from nodeagent.controlplane.retranslate import Meshed, retranslate
from nodeagent.controlplane.review import see_together
from nodeagent.controlplane.serve import Server
from nodeagent.controlplane.snapshot import Difference, Snapshot, advance
from nodeagent.controlplane.state import StateDirectory, Status
from nodeagent.controlplane.suppress import silenced_by, suppress
from nodeagent.controlplane.translate import Translation, enrolled_by
from nodeagent.controlplane.watch import DirectoryWatch
from nodeagent.errors import ConfigError, StateFileUnwritable

_log = logging.getLogger(__name__)

SERVER_NAMES = ("localhost", "127.0.0.1", "::1", "istiod.istio-system.svc")
"""The last is what ztunnels and agents look for unless told otherwise."""
_REST = 4
"""Times as long as a look at the whole mesh has taken it is not looked at again: changes go first."""
_LONGEST_REST_SECONDS = 10.0
_LEVELS = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING, Severity.INFO: logging.INFO}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    config_dir: Path
    state_dir: Path
    listen: str = "127.0.0.1:15012"
    server_names: tuple[str, ...] = SERVER_NAMES
    """Names and addresses of the serving certificate; the listening address is added."""
    enrolment: Enrolment | None = None
    """Goes before what MeshConfig says."""
    refuses_unknown: bool = True
    """A field that an API does not have refuses its object; else it is a warning, but in policies."""


async def run(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT. `ready` is told, once, the address in use.

    Raises ConfigError, PortInUse or MissingPrivilege when it cannot start.
    """
    # Watching begins before the first reading: what changes in between is an event.
    watch = DirectoryWatch(settings.config_dir)
    try:
        state = StateDirectory(settings.state_dir)
        mesh = MeshDirectory(settings, state, state.load_catalog())
        mesh.apply(mesh.read(None))
        now = dt.datetime.now(dt.UTC)
        authority = open_authority(state, mesh.publisher.snapshot.translation.mesh.trust_domain, now)
        server = Server(Gate(open_token_key(state)), mesh.publisher, authority)
        try:
            ready(await server.start(settings.listen, settings.server_names))
            await _follow(watch, mesh)
        finally:
            await server.stop()
        _log.info("stopped")
    finally:
        watch.close()


async def _follow(watch: DirectoryWatch, mesh: "MeshDirectory") -> None:
    """Applies changes until a signal asks to stop."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(mesh.follow(watch))
            await stopping.wait()
            following.cancel()
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

    def __init__(self, settings: Settings, state: StateDirectory, last_good: Catalog) -> None:
        self.publisher = Publisher()
        self.findings: tuple[Finding, ...] = ()
        self._settings = settings
        self._state = state
        self._catalog = last_good
        self._meshed: Meshed | None = None
        self._seen: tuple[Finding, ...] = ()
        """Found by the last look at all objects together."""
        self._is_due = asyncio.Event()
        """Such a look, and what is on disk."""
        self._saved: Mapping[Key, Accepted] | None = None
        self._contents: Mapping[str, Content] = {}
        self._complaint = ""

    async def follow(self, watch: DirectoryWatch) -> None:
        """Reads and translates in a thread, so that a large directory does not keep the streams waiting."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._review())
                await self._read_changes(watch)
        finally:
            self._save()

    async def _review(self) -> None:
        while True:
            await self._is_due.wait()
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
            try:
                step = await asyncio.to_thread(self.read, touched)
            except ConfigError as error:
                self._complain(str(error), error.check)
                continue
            self.apply(step, began)
            self._is_due.set()

    def read(self, touched: frozenset[str] | None) -> "_Step":
        """What the directory means now. Raises ConfigError when it cannot be listed."""
        contents = read_directory(self._settings.config_dir, self._contents, touched)
        catalog = admit(self._catalog, contents, refuses_unknown=self._settings.refuses_unknown)
        meshed = retranslate(self._meshed, catalog, self._settings.enrolment)
        snapshot, difference = advance(self.publisher.snapshot, meshed.translation, meshed.touched)
        return _Step(contents, catalog, meshed, snapshot, difference)

    def apply(self, step: "_Step", began: float | None = None) -> None:
        """Publishes the step and says so, in one line; without `began` it is the first."""
        changed = [
            content.path
            for name, content in {**self._contents, **step.contents}.items()
            if step.contents.get(name) is not self._contents.get(name) != step.contents.get(name)
        ]
        self._contents, self._catalog, self._meshed = step.contents, step.catalog, step.meshed
        self.publisher.publish(step.snapshot)
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
        return see_together(catalog, enrolled_by(self._settings.enrolment, catalog.values), translation)

    def _tell(self) -> None:
        """Every finding once, when it appears."""
        found = (*self._catalog.findings, *self._seen)
        subjects = {finding.subject for finding in found}
        concerned = (
            accepted.value for key, accepted in self._catalog.objects.items() if subjects and str(key) in subjects
        )
        findings = tuple(sorted({*suppress(found, silenced_by(concerned))}))
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
            if self._saved is not self._catalog.objects:
                self._state.save_catalog(self._catalog)
                self._saved = self._catalog.objects
            self._state.save_status(status)
        except StateFileUnwritable as error:
            self._complain(
                str(error),
                "Is the disk full or read-only? A restart with an invalid file would lose its last good version.",
            )
        else:
            self._complaint = ""

    def _complain(self, message: str, check: str) -> None:
        """About the machine, not the mesh; once, until it works again."""
        if message != self._complaint:
            _log.error("%s. %s What is in force stays in force.", message, check)
        self._complaint = message
