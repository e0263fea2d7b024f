# SPDX-License-Identifier: Apache-2.0
"""The whole control plane on a directory: edits, mistakes, restarts; and what an edit costs."""

import asyncio
import json
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.admin.server import AdminServer
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import Enrolment
from nodeagent.controlplane.run import MeshDirectory, Settings, run
from nodeagent.controlplane.snapshot import AUTHORIZATION, EXTENSION, Snapshot
from nodeagent.controlplane.state import StateDirectory
from nodeagent.controlplane.watch import Changed, DirectoryWatch
from nodeagent.errors import ConfigError
from nodeagent.model.security import Revocations
from nodeagent.model.workload import TunnelProtocol

WITHIN_SECONDS = 60
"""Only for what fails."""


class Stage:
    """A directory that is being followed."""

    def __init__(self, mesh: MeshDirectory, directory: Path, state: StateDirectory) -> None:
        self.mesh = mesh
        self.directory = directory
        self.state = state

    @property
    def snapshot(self) -> Snapshot:
        return self.mesh.publisher.snapshot

    async def edited(self, change: Callable[[], object]) -> Snapshot:
        """The snapshot after `change`, whatever it did to the directory."""
        with self.mesh.publisher.listening("node-a") as published:
            change()
            await published.wait()
        return self.snapshot

    def write(self, text: str, name: str = "a.yaml") -> Callable[[], object]:
        return lambda: (self.directory / name).write_text(text)


Story = Callable[[Stage], Awaitable[None]]
Play = Callable[[Story], None]


@pytest.fixture
def directory(tmp_path: Path, mesh: str) -> Path:
    path = tmp_path / "mesh.d"
    path.mkdir()
    (path / "a.yaml").write_text(mesh)
    return path


@pytest.fixture
def play(directory: Path, state: StateDirectory) -> Play:
    async def following(story: Story) -> None:
        settings = Settings(config_dir=directory, state_dir=state.path)
        watch = DirectoryWatch(directory)
        mesh = MeshDirectory(settings, state)
        mesh.apply(mesh.read(None))
        async with asyncio.timeout(WITHIN_SECONDS), asyncio.TaskGroup() as tasks:
            follower = tasks.create_task(mesh.follow(watch))
            await story(Stage(mesh, directory, state))
            follower.cancel()
        watch.close()

    return lambda story: asyncio.run(following(story))


def principal(snapshot: Snapshot) -> str:
    (policy,) = snapshot.translation.policies.values()
    return policy.rules[0].clauses[0].matches[0].principals[0].value


def test_an_edit_is_one_generation_told_in_one_line(play: Play, mesh: str, caplog: pytest.LogCaptureFixture) -> None:
    async def story(stage: Stage) -> None:
        assert stage.snapshot.generation == 1
        snapshot = await stage.edited(stage.write(mesh.replace("sa/web]", "sa/other]")))
        assert snapshot.generation == 2
        assert principal(snapshot).endswith("sa/other")

    with caplog.at_level(logging.INFO):
        play(story)
    (line,) = [record.getMessage() for record in caplog.records if "generation 2" in record.getMessage()]
    assert "mesh.d/a.yaml changed -> generation 2: 1 policy, " in line
    assert line.endswith(" ms")


def test_an_invalid_edit_keeps_the_last_good_version_and_names_file_and_line(
    play: Play, mesh: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(stage: Stage) -> None:
        before = stage.snapshot
        bad = mesh.replace("principals: [cluster.local/ns/shop/sa/web]", "ipBlocks: [10.0.0.0/99]")
        assert await stage.edited(stage.write(bad)) is before
        (finding,) = stage.mesh.findings
        assert (finding.line, finding.is_rejected) == (bad[: bad.index("10.0.0.0/99")].count("\n") + 1, True)
        assert finding.file.endswith("mesh.d/a.yaml")
        assert await stage.edited(stage.write("kind: [")) is before
        assert [finding.code for finding in stage.mesh.findings] == ["MN0002"]
        assert await stage.edited(stage.write(mesh)) is before
        assert stage.mesh.findings == ()

    with caplog.at_level(logging.INFO):
        play(story)
    assert "a.yaml:30: error IST0106 AuthorizationPolicy shop/db" in caplog.text
    assert "The last good version, if any, stays in force" in caplog.text
    assert "1 finding resolved" in caplog.text


def test_a_deleted_file_removes_its_objects(play: Play) -> None:
    async def story(stage: Stage) -> None:
        snapshot = await stage.edited((stage.directory / "a.yaml").unlink)
        assert (snapshot.generation, dict(snapshot.translation.policies)) == (2, {})
        snapshot = await stage.edited(stage.write("kind: MeshConfig\ntrustDomain: corp.example\n", "b.yaml"))
        assert snapshot.translation.mesh.trust_domain == "corp.example"

    play(story)


def test_a_restart_while_a_file_is_invalid_keeps_the_last_good_version(
    play: Play, mesh: str, directory: Path, state: StateDirectory
) -> None:
    async def good(stage: Stage) -> None:
        assert principal(stage.snapshot).endswith("sa/web")

    async def after(stage: Stage) -> None:
        assert principal(stage.snapshot).endswith("sa/web")
        assert stage.mesh.findings
        told = json.loads((state.path / "findings.json").read_text())
        assert (told["generation"], told["policies"]) == (1, 1)
        assert told["findings"][0]["code"] == "IST0106"

    play(good)
    (directory / "a.yaml").write_text(mesh.replace("sa/web]", "'*x*']"))
    play(after)


ENTRY = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop, creationTimestamp: '{year}-01-01T00:00:00Z'}}
spec: {{hosts: [{name}.test], resolution: DNS, ports: [{{number: 443, name: tls, protocol: TLS}}]}}
"""


def address_of(snapshot: Snapshot, name: str) -> str:
    return str(snapshot.translation.services[f"shop/{name}.test"].vips[0].ip)


def test_hosts_keep_the_addresses_that_they_were_given_over_a_restart(play: Play, mesh: str, directory: Path) -> None:
    younger, older = ENTRY.format(name="younger", year=2026), ENTRY.format(name="older", year=2025)
    another, last = ENTRY.format(name="another", year=2024), ENTRY.format(name="last", year=2027)

    async def first(stage: Stage) -> None:
        assert address_of(stage.snapshot, "younger") == "240.240.0.1"
        snapshot = await stage.edited(stage.write(mesh + younger + older))
        assert (address_of(snapshot, "younger"), address_of(snapshot, "older")) == ("240.240.0.1", "240.240.0.2")

    async def second(stage: Stage) -> None:
        given = {name: address_of(stage.snapshot, name) for name in ("another", "younger")}
        assert given == {"younger": "240.240.0.1", "another": "240.240.0.2"}, "what the one that is gone had is free"
        snapshot = await stage.edited(stage.write(mesh + younger + last))
        assert address_of(snapshot, "last") == "240.240.0.3", "what another had since the start is not"

    (directory / "a.yaml").write_text(mesh + younger)
    play(first)
    (directory / "a.yaml").write_text(mesh + younger + another)
    play(second)


def test_an_address_is_on_disk_before_agents_are_told(directory: Path, mesh: str, state: StateDirectory) -> None:
    (directory / "a.yaml").write_text(mesh + ENTRY.format(name="a", year=2026))
    mesh_directory = MeshDirectory(Settings(config_dir=directory, state_dir=state.path), state)
    mesh_directory.read(None)
    assert "240.240.0.1" in (state.path / "allocated.json").read_text()
    assert mesh_directory.publisher.snapshot.generation == 0


def test_a_full_disk_for_addresses_is_told_and_delays_nobody(
    play: Play, mesh: str, state: StateDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(stage: Stage) -> None:
        (state.path / "allocated.json").mkdir()
        snapshot = await stage.edited(stage.write(mesh + ENTRY.format(name="a", year=2026)))
        assert address_of(snapshot, "a") == "240.240.0.1"

    play(story)
    assert "allocated.json" in caplog.text
    assert "would give hosts of ServiceEntries other addresses" in caplog.text


def test_a_directory_that_goes_changes_nothing(play: Play, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    aside = directory.with_name("aside")

    async def story(stage: Stage) -> None:
        before = stage.snapshot
        await asyncio.to_thread(directory.rename, aside)
        while "no such file" not in caplog.text:  # noqa: ASYNC110 - a log line is awaited
            await asyncio.sleep(0.01)
        assert stage.snapshot is before
        await stage.edited(lambda: aside.rename(directory))
        assert stage.snapshot is before

    play(story)


def test_a_full_disk_delays_nobody(
    play: Play, mesh: str, state: StateDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(stage: Stage) -> None:
        (state.path / "last-good.jsonl").unlink()
        (state.path / "last-good.jsonl").mkdir()
        snapshot = await stage.edited(stage.write(mesh.replace("sa/web]", "sa/other]")))
        assert principal(snapshot).endswith("sa/other")
        snapshot = await stage.edited(stage.write(mesh))
        assert principal(snapshot).endswith("sa/web")

    play(story)
    assert "last-good.jsonl" in caplog.text


class Scene:
    """A directory whose changes are told, read and looked at when the test says so."""

    def __init__(self, mesh: MeshDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mesh, self._read = mesh, mesh.read
        self.changes: asyncio.Queue[frozenset[str]] = asyncio.Queue()
        self.reading, self.looking = threading.Event(), threading.Event()
        self.may_read, self.may_look = threading.Event(), threading.Event()
        self.order: list[str] = []
        monkeypatch.setattr(mesh, "read", self._read_when_it_may)
        monkeypatch.setattr("nodeagent.controlplane.run.see_together", self._look)
        monkeypatch.setattr("nodeagent.controlplane.run._LONGEST_PAUSE_SECONDS", 3600.0)

    async def changed(self) -> Changed:
        return await self.changes.get()

    def _read_when_it_may(self, touched: frozenset[str] | None) -> Any:
        self.reading.set()
        self.may_read.wait(WITHIN_SECONDS)
        return self._read(touched)

    def _look(self, *given: Any) -> tuple[Finding, ...]:
        between: Callable[[], object] = given[-1]
        self.looking.set()
        self.may_look.wait(WITHIN_SECONDS)
        between()
        self.order.append("looked on")
        return ()

    async def change_during_a_look(self) -> None:
        """It has been noticed then, and not read."""
        self.may_read.set()
        self.changes.put_nowait(frozenset({"a.yaml"}))
        await asyncio.to_thread(self.looking.wait, WITHIN_SECONDS)
        self.may_read.clear()
        self.reading.clear()
        self.changes.put_nowait(frozenset({"a.yaml"}))
        await asyncio.to_thread(self.reading.wait, WITHIN_SECONDS)
        self.may_look.set()


@pytest.fixture
def scene(directory: Path, state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> Scene:
    mesh = MeshDirectory(Settings(config_dir=directory, state_dir=state.path), state)
    mesh.apply(mesh.read(None))
    return Scene(mesh, monkeypatch)


def test_a_look_at_the_whole_mesh_waits_for_a_change_that_is_on_its_way(scene: Scene) -> None:
    async def story() -> None:
        async with asyncio.timeout(WITHIN_SECONDS), asyncio.TaskGroup() as tasks:
            following = tasks.create_task(scene.mesh.follow(cast("DirectoryWatch", scene)))
            with scene.mesh.publisher.listening("node-a") as published:
                await scene.change_during_a_look()
                published.clear()
                scene.may_read.set()
                await published.wait()
                scene.order.append("published")
            while len(scene.order) < 2:  # noqa: ASYNC110 - a thread tells nobody
                await asyncio.sleep(0.01)
            following.cancel()

    asyncio.run(story())
    assert scene.order == ["published", "looked on"]


def test_a_look_that_waits_does_not_keep_the_process_from_ending(scene: Scene) -> None:
    async def story() -> None:
        async with asyncio.timeout(WITHIN_SECONDS), asyncio.TaskGroup() as tasks:
            following = tasks.create_task(scene.mesh.follow(cast("DirectoryWatch", scene)))
            await scene.change_during_a_look()
            following.cancel()
            scene.may_read.set()

    asyncio.run(story())  # which waits for its threads
    assert scene.order == ["looked on"]


def test_the_flag_for_enrolment_goes_before_the_mesh_configuration(directory: Path, state: StateDirectory) -> None:
    for enrolment, protocol in ((None, TunnelProtocol.HBONE), (Enrolment.ANNOTATION, TunnelProtocol.TCP)):
        settings = Settings(config_dir=directory, state_dir=state.path, enrolment=enrolment)
        mesh = MeshDirectory(settings, state)
        mesh.apply(mesh.read(None))
        found = {workload.protocol for workload in mesh.publisher.snapshot.translation.workloads.values()}
        assert found == {protocol}


@pytest.mark.parametrize(("refuses_unknown", "workloads"), [(True, 1), (False, 2)])
def test_unknown_fields_refuse_their_object_unless_they_are_taken(
    directory: Path, mesh: str, state: StateDirectory, *, refuses_unknown: bool, workloads: int
) -> None:
    (directory / "a.yaml").write_text(mesh.replace("serviceAccountName: web}", "serviceAccountName: web, brandNew: 1}"))
    settings = Settings(config_dir=directory, state_dir=state.path, refuses_unknown=refuses_unknown)
    mesh_directory = MeshDirectory(settings, state)
    mesh_directory.apply(mesh_directory.read(None))
    assert len(mesh_directory.publisher.snapshot.translation.workloads) == workloads
    assert [finding.is_rejected for finding in mesh_directory.findings if finding.code == "MN0212"] == [refuses_unknown]


def test_the_example_mesh_has_nothing_to_complain_about(state: StateDirectory) -> None:
    settings = Settings(config_dir=Path(__file__).parents[3] / "examples" / "mesh.d", state_dir=state.path)
    mesh = MeshDirectory(settings, state)
    mesh.apply(mesh.read(None))
    assert mesh.findings == ()
    translation = mesh.publisher.snapshot.translation
    assert (len(translation.workloads), len(translation.services)) == (6, 3)
    assert len(mesh.publisher.snapshot.of_type(AUTHORIZATION)) == 3


def test_what_is_revoked_is_told_agents_and_no_object_changes_it(play: Play, mesh: str) -> None:
    name = f"{Revocations.PREFIX}ca"

    async def story(stage: Stage) -> None:
        assert name not in stage.snapshot.of_type(EXTENSION)
        async with stage.mesh.turn:
            stage.mesh.revoke(frozenset({b"x" * 32}))
            stage.mesh.revoke(frozenset({b"x" * 32}))
        assert stage.snapshot.generation == 2
        first = stage.snapshot.of_type(EXTENSION)[name]
        edited = await stage.edited(stage.write(mesh.replace("sa/web]", "sa/other]")))
        assert edited.of_type(EXTENSION)[name] == first
        async with stage.mesh.turn:
            stage.mesh.revoke(frozenset())
        assert name not in stage.snapshot.of_type(EXTENSION)
        assert stage.snapshot.history[-1][EXTENSION] == {name}
        assert principal(stage.snapshot).endswith("sa/other")

    play(story)


@pytest.fixture
def own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(directory: Path, tmp_path: Path, number: signal.Signals) -> None:
    settings = Settings(config_dir=directory, state_dir=tmp_path / "state", listen="127.0.0.1:0")
    addresses: list[str] = []

    def ready(address: str) -> None:
        addresses.append(address)
        # Between this and the next turn of the loop the handlers are there.
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)

    async def story() -> None:
        async with asyncio.timeout(WITHIN_SECONDS):
            await run(settings, ready)

    asyncio.run(story())
    assert addresses
    assert addresses[0].startswith("127.0.0.1:")
    assert not addresses[0].endswith(":0")
    files = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert files == [
        "ca-crl.pem",
        "findings.json",
        "intermediate-cert.pem",
        "intermediate-key.pem",
        "last-good.jsonl",
        "root-cert.pem",
        "root-key.pem",
        "token-key",
    ]


@pytest.mark.usefixtures("own_signals")
def test_the_admin_socket_answers_while_it_runs_and_goes_with_it(directory: Path, tmp_path: Path) -> None:
    settings = Settings(config_dir=directory, state_dir=tmp_path / "state", listen="127.0.0.1:0")
    path = tmp_path / "admin.sock"
    answers: list[dict[str, object]] = []

    async def story() -> None:
        ready = asyncio.Event()
        async with asyncio.timeout(WITHIN_SECONDS), asyncio.TaskGroup() as tasks:
            tasks.create_task(
                run(settings, lambda _address: ready.set(), lambda routes: AdminServer(str(path), routes))
            )
            await ready.wait()
            answers.append(await asyncio.to_thread(AdminClient(str(path)).fetch, "/proxies"))
            os.kill(os.getpid(), signal.SIGTERM)

    asyncio.run(story())
    (answer,) = answers
    assert (answer["generation"], answer["proxies"], answer["clients"]) == (1, [], 0)
    assert not path.exists()


def test_a_missing_directory_ends_it_at_the_start(tmp_path: Path) -> None:
    settings = Settings(config_dir=tmp_path / "nowhere", state_dir=tmp_path / "state", listen="127.0.0.1:0")
    with pytest.raises(ConfigError, match="nowhere"):
        asyncio.run(run(settings, lambda address: pytest.fail(f"ready at {address}")))
