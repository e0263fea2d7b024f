# SPDX-License-Identifier: Apache-2.0
"""The plugin on a node: put there, kept there against others, taken away; by the file system and an API over TLS."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.errors import MissingPrivilege, NotPossible
from nodeagent.kubernetes import cni as module
from nodeagent.kubernetes.api import ApiRefused, ApiServer
from nodeagent.kubernetes.cni import CniPlugin, NotInstalled, confirm, is_kept, is_removed
from nodeagent.kubernetes.conflist import BadConflist, make_entry
from tests.kube_api import FakeKube, daemon_set, serving

ENTRY = make_entry("/run/nodeagent/admin.sock", {"kube-system"})
BRIDGE = {"type": "bridge"}
NAME = "nodeagent-system/nodeagent-cni"


class Node:
    def __init__(self, directory: Path) -> None:
        self.net_dir, self.bin_dir, self.program = directory / "net.d", directory / "bin", directory / "program"
        self.net_dir.mkdir()
        self.bin_dir.mkdir()
        self.program.write_bytes(b"#!/bin/true\n")
        self.conflist("10-pods.conflist", BRIDGE)
        self.plugin = CniPlugin(self.program, ENTRY, self.net_dir, self.bin_dir)

    def conflist(self, name: str, *plugins: object) -> Path:
        path = self.net_dir / name
        path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}))
        return path

    def plugins(self, name: str = "10-pods.conflist") -> list[object]:
        found: list[object] = json.loads((self.net_dir / name).read_bytes())["plugins"]
        return found

    def files(self) -> set[str]:
        return {path.name for place in (self.net_dir, self.bin_dir) for path in place.iterdir()}


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_it_is_installed_once_and_is_then_in_force(node: Node) -> None:
    with pytest.raises(NotInstalled, match="is missing"):
        node.plugin.check()
    (node.net_dir / "10-pods.conflist").chmod(0o640)
    done = node.plugin.install()
    assert [words.split()[0] for words in done] == ["wrote", "added"]
    assert node.plugins() == [BRIDGE, ENTRY]
    assert (node.net_dir / "10-pods.conflist").stat().st_mode & 0o777 == 0o640, "as it was"
    program = node.bin_dir / "nodeagent-cni"
    assert program.read_bytes() == node.program.read_bytes()
    assert program.stat().st_mode & 0o777 == 0o755
    node.plugin.check()
    assert node.plugin.install() == []
    assert node.files() == {"10-pods.conflist", "nodeagent-cni"}


def test_a_release_replaces_the_former_program(node: Node) -> None:
    node.plugin.install()
    node.program.write_bytes(b"#!/bin/false\n")
    with pytest.raises(NotInstalled, match="of another release"):
        node.plugin.check()
    assert len(node.plugin.install()) == 1
    node.plugin.check()


def test_it_goes_and_what_was_there_before_stays(node: Node) -> None:
    before = node.conflist("20-other.conflist", BRIDGE).read_bytes()
    node.plugin.install()
    (node.net_dir / ".nodeagent-cni-left").touch()
    node.plugin.uninstall()
    assert node.plugins() == [BRIDGE]
    assert (node.net_dir / "20-other.conflist").read_bytes() == before
    assert node.files() == {"10-pods.conflist", "20-other.conflist", "nodeagent-cni"}, (
        "for pods that it was asked about"
    )
    assert len(node.plugin.uninstall(is_whole=True)) == 1
    assert node.files() == {"10-pods.conflist", "20-other.conflist"}
    assert node.plugin.uninstall(is_whole=True) == []


def test_a_list_that_comes_before_is_taken_and_the_former_one_left(node: Node) -> None:
    node.plugin.install()
    node.conflist("05-first.conflist", {"type": "ptp"})
    with pytest.raises(NotInstalled, match=r"05-first.conflist lacks"):
        node.plugin.check()
    node.plugin.install()
    assert node.plugins("05-first.conflist") == [{"type": "ptp"}, ENTRY]
    assert node.plugins() == [BRIDGE]


def test_what_is_no_list_is_told_and_not_touched(node: Node) -> None:
    single = node.net_dir / "05-single.conf"
    single.write_text('{"type": "bridge"}')
    with pytest.raises(BadConflist, match=r"05-single.conf: one plugin"):
        node.plugin.install()
    assert single.read_text() == '{"type": "bridge"}'
    node.plugin.uninstall()


def test_a_version_that_the_plugin_does_not_speak_is_told_with_its_remedy(node: Node) -> None:
    path = node.net_dir / "10-pods.conflist"
    path.write_text(json.dumps({"cniVersion": "0.2.0", "plugins": [BRIDGE]}))
    with pytest.raises(BadConflist, match=r"10-pods.conflist: CNI version '0.2.0'") as told:
        node.plugin.install()
    assert "0.3.0 to 1.1.0" in told.value.check
    assert node.plugins() == [BRIDGE]


def test_a_node_without_a_list_is_told(node: Node) -> None:
    (node.net_dir / "10-pods.conflist").unlink()
    with pytest.raises(NotPossible, match="no list of CNI plugins"):
        node.plugin.install()


def test_a_directory_that_is_missing_is_named(node: Node) -> None:
    node.bin_dir.rmdir()
    with pytest.raises(NotPossible, match=str(node.bin_dir)):
        node.plugin.install()
    assert node.plugins() == [BRIDGE], "no list names a program that is not there"


def test_a_disk_that_is_full_leaves_no_half_a_file(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device", "the disk")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(NotPossible, match="No space left"):
        node.plugin.install()
    assert node.plugins() == [BRIDGE]
    assert node.files() == {"10-pods.conflist"}


def test_a_file_that_may_not_be_written_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path, _target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(node.bin_dir))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(MissingPrivilege, match="Permission denied"):
        node.plugin.install()
    assert node.files() == {"10-pods.conflist"}


@pytest.mark.parametrize("step", ["install", "uninstall"])
def test_what_its_owner_writes_meanwhile_is_not_taken_away(
    node: Node, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Between our look at the list and our rename, in its place or by another file."""
    node.plugin.install()
    if step == "install":
        node.conflist("10-pods.conflist", BRIDGE)
    news = [{"type": "first"}, {"type": "second"}]
    syncs = os.fsync

    def write_meanwhile(descriptor: int) -> None:
        syncs(descriptor)
        if len(news) == 2:
            node.conflist("10-pods.conflist", news.pop(0), ENTRY)
            if step == "install":
                node.conflist("10-pods.conflist", {"type": "first"})
        elif news:
            node.conflist("beside", news.pop(), *([ENTRY] if step == "uninstall" else []))
            (node.net_dir / "beside").rename(node.net_dir / "10-pods.conflist")

    monkeypatch.setattr(os, "fsync", write_meanwhile)
    assert len(getattr(node.plugin, step)()) == 1
    assert node.plugins() == [{"type": "second"}, *([ENTRY] if step == "install" else [])]
    assert node.files() == {"10-pods.conflist", "nodeagent-cni"}


def test_a_list_that_is_written_all_the_time_is_told_and_left_as_it_is(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.plugin.install()
    numbers = iter(range(100))
    monkeypatch.setattr(
        os, "fsync", lambda _descriptor: node.conflist("10-pods.conflist", {"type": str(next(numbers))})
    )
    node.conflist("10-pods.conflist", BRIDGE)
    with pytest.raises(NotPossible, match="written anew all the time"):
        node.plugin.install()
    assert node.plugins() == [{"type": str(module.ATTEMPTS - 1)}]
    assert node.files() == {"10-pods.conflist", "nodeagent-cni"}


@pytest.mark.parametrize("target", ["list", "nowhere"])
def test_a_list_that_is_a_link_is_told_and_stays_one(node: Node, target: str) -> None:
    """The runtime follows it, and its owner writes behind it."""
    behind = node.program.with_name("list")
    behind.write_bytes((node.net_dir / "10-pods.conflist").read_bytes())
    link = node.net_dir / "00-pods.conflist"
    link.symlink_to(node.program.with_name(target))
    with pytest.raises(NotPossible, match=rf"00-pods.conflist is a symbolic link, to .*{target}$"):
        node.plugin.install()
    assert link.is_symlink()
    node.plugin.look()
    link.unlink()
    node.plugin.look()
    node.plugin.check()
    link = node.net_dir / "20-pods.conflist"  # not in force: nobody's affair
    link.symlink_to(node.program.with_name(target))
    node.conflist("10-pods.conflist", {"type": "new"})
    node.plugin.look()
    assert node.plugins() == [{"type": "new"}, ENTRY]
    assert node.plugin.uninstall() == [f"removed nodeagent-cni from {node.net_dir / '10-pods.conflist'}"]
    assert ENTRY not in json.loads(behind.read_bytes())["plugins"]


CRASHING = """
import os, sys
from pathlib import Path
from nodeagent.kubernetes.cni import CniPlugin
from nodeagent.kubernetes.conflist import make_entry

CALLS = {"open", "os.rename", "os.remove", "os.chmod", "tempfile.mkstemp"}

def crash_at(left):
    def counted(event, arguments):
        nonlocal left
        left -= event in CALLS
        if left < 0:
            os._exit(9)
    sys.addaudithook(counted)

entry = make_entry("/run/nodeagent/admin.sock", {"kube-system"})
for number, root in enumerate(map(Path, sys.argv[2:])):
    child = os.fork()
    if not child:
        plugin = CniPlugin(root / "program", entry, root / "net.d", root / "bin")
        crash_at(number)
        getattr(plugin, sys.argv[1])()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("step", ["install", "uninstall"])
def test_a_crash_at_any_moment_leaves_a_list_that_can_be_used(tmp_path: Path, step: str) -> None:
    """Killed before each of its calls in turn: the list is the former or the new one, and names what is there."""
    nodes = []
    for calls in range(40):
        (tmp_path / str(calls)).mkdir()
        nodes.append(Node(tmp_path / str(calls)))
        if step == "uninstall":
            nodes[-1].plugin.install()
    words = [sys.executable, "-c", CRASHING, step, *(str(node.program.parent) for node in nodes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(words, check=True, timeout=60, env=environment, stdout=subprocess.PIPE, text=True).stdout
    statuses = [int(word) for word in told.split()]
    assert statuses[0] == 9
    assert statuses[-1] == 0, "it came to its end"
    for node, status in zip(nodes, statuses, strict=True):
        assert node.plugins() in ([BRIDGE], [BRIDGE, ENTRY])
        if ENTRY in node.plugins():
            assert (node.bin_dir / "nodeagent-cni").read_bytes() == node.program.read_bytes()
        if status:
            asyncio.run(kept_for_a_moment(node))
            assert node.files() == {"10-pods.conflist", "nodeagent-cni"}, "the next one clears up"
            node.plugin.check()


ROOT = Path(__file__).resolve().parents[3]


async def kept_for_a_moment(node: Node) -> None:
    keeping = asyncio.create_task(node.plugin.keep())
    await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait([keeping])


def test_what_others_write_is_put_right_at_once(node: Node) -> None:
    async def scenario() -> None:
        keeping = asyncio.create_task(node.plugin.keep())
        await eventually(lambda: node.plugins() == [BRIDGE, ENTRY])
        node.conflist("10-pods.conflist", {"type": "new"})
        await eventually(lambda: node.plugins() == [{"type": "new"}, ENTRY])
        (node.bin_dir / "nodeagent-cni").unlink()
        await eventually((node.bin_dir / "nodeagent-cni").exists)
        (node.net_dir / "10-pods.conflist").rename(node.net_dir / "00-multus.conflist")
        node.conflist("00-multus.conflist", {"type": "multus"})
        await eventually(lambda: node.plugins("00-multus.conflist") == [{"type": "multus"}, ENTRY])
        keeping.cancel()

    asyncio.run(scenario())


def test_what_stands_in_the_way_is_logged_once_and_tried_again(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (node.net_dir / "10-pods.conflist").unlink()
    node.plugin.look()
    node.plugin.look()
    node.conflist("10-pods.conflist", BRIDGE)
    node.plugin.look()
    node.plugin.look()
    assert [record.levelname for record in caplog.records if "no list of CNI" in record.message] == ["ERROR"]
    assert caplog.records[-1].message == "nodeagent-cni is in force again"
    assert node.plugins() == [BRIDGE, ENTRY]


def test_a_look_without_news_reads_nothing(node: Node) -> None:
    node.plugin.look()
    node.plugin.look()
    before = (node.bin_dir / "nodeagent-cni").stat().st_atime_ns
    node.program.unlink()  # reading it would fail
    node.plugin.look()
    assert (node.bin_dir / "nodeagent-cni").stat().st_atime_ns == before


# ---- whether it is removed -------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeKube, ApiServer]]:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    with serving(tmp_path / "api") as (kube, api):
        yield kube, api


def test_while_the_daemon_set_is_there_it_is_an_upgrade(cluster: tuple[FakeKube, ApiServer]) -> None:
    kube, api = cluster
    kube.put(daemon_set(NAME))
    assert asyncio.run(is_kept(api, NAME))
    assert not asyncio.run(is_removed(api, NAME))
    assert set(kube.asked) == {("get", "daemonsets")}


def test_one_that_is_going_or_gone_is_removed(cluster: tuple[FakeKube, ApiServer]) -> None:
    kube, api = cluster
    kube.put(daemon_set(NAME, is_terminating=True))
    assert asyncio.run(is_removed(api, NAME))
    kube.delete("nodeagent-cni", "nodeagent-system", kind="daemonsets")
    assert asyncio.run(is_removed(api, NAME))


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_a_refusal_is_removal_only_where_the_account_has_gone(cluster: tuple[FakeKube, ApiServer], status: int) -> None:
    kube, api = cluster
    kube.put(daemon_set(NAME))
    kube.refusals += [(status, {})] * module.QUESTIONS
    assert asyncio.run(is_removed(api, NAME)) is (status in {401, 403, 404})


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("others", [(), (500,), (429, 503)])
def test_an_account_that_is_shut_out_for_a_moment_does_not_remove_it(
    cluster: tuple[FakeKube, ApiServer], status: int, others: tuple[int, ...]
) -> None:
    """An API server that starts, a token webhook that is away."""
    kube, api = cluster
    kube.put(daemon_set(NAME))
    kube.refusals += [(status, {}), *((other, {}) for other in others)]
    assert not asyncio.run(is_removed(api, NAME))


def test_what_is_gone_is_gone_also_after_a_doubt(cluster: tuple[FakeKube, ApiServer]) -> None:
    kube, api = cluster
    kube.refusals += [(403, {})]
    assert asyncio.run(is_removed(api, NAME))


def test_in_doubt_it_stays(cluster: tuple[FakeKube, ApiServer]) -> None:
    kube, api = cluster
    kube.put(daemon_set(NAME))
    kube.refusals += [(500, {})]
    assert not asyncio.run(is_removed(api, NAME)), "asked again"
    Path(api.token_file).unlink()
    assert not asyncio.run(is_removed(api, NAME))


def test_without_its_role_it_does_not_stay_and_an_api_that_is_away_is_waited_for(
    cluster: tuple[FakeKube, ApiServer],
) -> None:
    kube, api = cluster
    kube.put(daemon_set(NAME))
    kube.refusals += [(500, {}), (429, {})]
    asyncio.run(confirm(api, NAME))
    assert not kube.refusals
    kube.refusals += [(403, {}), (401, {}), (500, {})] * module.CERTAIN_REFUSALS
    asyncio.run(confirm(api, NAME))
    assert not kube.refusals, "not in a row"
    kube.refusals += [(403, {})] * module.CERTAIN_REFUSALS
    with pytest.raises(ApiRefused):
        asyncio.run(confirm(api, NAME))
    kube.delete("nodeagent-cni", "nodeagent-system", kind="daemonsets")
    with pytest.raises(ApiRefused):
        asyncio.run(confirm(api, NAME))


@pytest.mark.parametrize("end", ["upgrade", "removal"])
def test_told_to_stop_it_goes_only_with_its_daemon_set(
    node: Node, cluster: tuple[FakeKube, ApiServer], end: str
) -> None:
    kube, api = cluster
    kube.put(daemon_set(NAME))
    words, environment = installing(node, api)
    with subprocess.Popen(words, env=environment) as process:
        asyncio.run(eventually(lambda: ENTRY in node.plugins()))
        if end == "removal":
            kube.put(daemon_set(NAME, is_terminating=True))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (ENTRY in node.plugins()) is (end == "upgrade")


def test_it_begins_before_the_api_answers_and_goes_when_that_knows_of_no_daemon_set(
    node: Node, cluster: tuple[FakeKube, ApiServer]
) -> None:
    """As after a boot: the node's CNI has written its list anew, and without it nobody reaches the API."""
    kube, api = cluster
    kube.refuse_reads = 503
    words, environment = installing(node, api)
    with subprocess.Popen(words, env=environment) as process:
        asyncio.run(eventually(lambda: ENTRY in node.plugins() and bool(kube.asked)))
        kube.refuse_reads = 0
        assert process.wait(60) != 0
    assert node.plugins() == [BRIDGE]


def installing(node: Node, api: ApiServer) -> tuple[list[str | Path], dict[str, str]]:
    """Words of the command, and its environment."""
    words: list[str | Path] = [
        *(sys.executable, "-m", "nodeagent.cli.main", "cni", "install", "--daemonset", NAME, "--program", node.program),
        *("--net-dir", node.net_dir, "--bin-dir", node.bin_dir, "--exclude-namespaces", "kube-system"),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KUBERNETES_SERVICE_HOST": api.host,
        "KUBERNETES_SERVICE_PORT": str(api.port),
        "NODEAGENT_KUBERNETES_CA": api.ca_file,
        "NODEAGENT_KUBERNETES_TOKEN": api.token_file,
    }
    return words, environment
