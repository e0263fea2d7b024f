# SPDX-License-Identifier: Apache-2.0
"""The last good state on disk: whole or not there, for its owner alone, and never believed when foreign or old."""

import asyncio
import hashlib
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeagent.errors import StateFileUnwritable
from nodeagent.model.address import Cidr, Port, parse_ip
from nodeagent.model.mesh import Changes
from nodeagent.model.policy import Action, Clause, Match, MatchKind, Policy, PolicyScope, Rule, StringMatch
from nodeagent.model.workload import GatewayAddress, Service, ServicePort, Vip, Workload
from nodeagent.xds.delta import LastGood, Step
from nodeagent.xds.saved import MAGIC
from nodeagent.xds.store import LEAST_APPENDED_BYTES, MAX_AGE_SECONDS, Saver, Store
from tests.logged import logged

if TYPE_CHECKING:
    from tests.unit.xds.conftest import Until

NOW = 1_800_000_000.0

STATE = LastGood(
    Changes(
        policies=(
            Policy(
                name="deny",
                namespace="shop",
                scope=PolicyScope.WORKLOAD_SELECTOR,
                action=Action.DENY,
                rules=(
                    Rule(
                        (
                            Clause(
                                (
                                    Match(
                                        principals=(StringMatch(MatchKind.SUFFIX, "/sa/x"),),
                                        source_ips=(Cidr.parse("10.0.0.0/8"),),
                                        not_destination_ports=(Port(80),),
                                    ),
                                )
                            ),
                        )
                    ),
                ),
            ),
        ),
        services=(
            Service(
                name="cart",
                namespace="shop",
                hostname="cart.shop",
                vips=(Vip("n", parse_ip("10.0.0.1")), Vip("", block=Cidr.parse("fd00::/64"))),
                ports=(ServicePort(Port(80), 8080),),
            ),
        ),
        workloads=(
            Workload(
                uid="web",
                name="web",
                namespace="shop",
                addresses=(parse_ip("fd00::1"),),
                waypoint=GatewayAddress(Port(15008), service="shop/wp"),
                services={"shop/cart.shop": (ServicePort(Port(80), 8080),)},
            ),
        ),
    ),
    address_versions={"web": "1", "shop/cart.shop": "2"},
    policy_versions={"shop/deny": ""},
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "state"), cluster="c", node="node-a")


def test_what_was_saved_is_loaded(store: Store) -> None:
    store.save(STATE, NOW)

    saved = store.load(NOW + 60)

    assert saved is not None
    assert saved.last_good == STATE
    assert saved.saved_at == NOW


def test_the_file_is_for_its_owner_alone_whatever_the_umask(store: Store) -> None:
    before = os.umask(0)
    try:
        store.save(STATE, NOW)
    finally:
        os.umask(before)

    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_no_state_is_no_complaint(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    assert store.load(NOW) is None
    assert logged(caplog) == []


def _rewrite(store: Store, change: Callable[[bytes], bytes]) -> None:
    store.path.write_bytes(change(store.path.read_bytes()))


def _with_body(body: bytes) -> bytes:
    """Its checksum is right, so that the decoder is reached."""
    return MAGIC + len(body).to_bytes(8, "big") + hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        pytest.param(lambda s: _rewrite(s, lambda _: b""), "another format", id="empty"),
        pytest.param(lambda s: _rewrite(s, lambda _: b"\0" * 4096), "another format", id="zeros after a power cut"),
        pytest.param(lambda s: _rewrite(s, lambda old: old[: len(MAGIC) + 5]), "its end", id="cut in the first record"),
        pytest.param(lambda s: _rewrite(s, lambda old: old[:-1]), "its end", id="cut short"),
        pytest.param(lambda s: _rewrite(s, lambda old: old[:-1] + b"\x7f"), "checksum", id="a byte changed"),
        pytest.param(
            lambda s: _rewrite(s, lambda old: old.replace(b" 2\n", b" 3\n", 1)), "version", id="newer version"
        ),
        pytest.param(lambda s: _rewrite(s, lambda _: _with_body(b"\xc1")), "", id="right checksum of no msgpack"),
        pytest.param(
            lambda s: _rewrite(s, lambda _: _with_body(msgspec.msgpack.encode({"cluster": 1}))), "str", id="wrong shape"
        ),
        pytest.param(lambda s: s.path.chmod(0o644), "others", id="readable by others"),
        pytest.param(lambda s: s.path.chmod(0o620), "others", id="writable by the group"),
        pytest.param(lambda s: s.path.symlink_to(s.path.rename(f"{s.path}.real")), "symbolic links", id="link"),
        pytest.param(lambda s: s.path.rename(f"{s.path}.old").parent.joinpath("state").mkdir(), "", id="directory"),
        pytest.param(lambda s: os.mkfifo(s.path.rename(f"{s.path}.old").with_suffix(""), 0o600), "regular", id="pipe"),
    ],
)
def test_an_unusable_file_is_ignored_with_a_warning_that_names_it(
    store: Store, spoil: Callable[[Store], object], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(STATE, NOW)
    spoil(store)

    assert store.load(NOW) is None

    (record,) = logged(caplog)
    assert record.levelno == logging.WARNING
    assert str(store.path) in record.getMessage()
    assert not why or any(one in record.getMessage() for one in why.split("|"))


def test_state_of_another_node_or_cluster_is_foreign(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.save(STATE, NOW)

    assert Store(str(store.path), cluster="c", node="node-b").load(NOW) is None
    assert Store(str(store.path), cluster="d", node="node-a").load(NOW) is None
    assert "of node 'node-a' in cluster 'c'" in caplog.text


def test_old_state_is_not_used(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.save(STATE, NOW)

    assert store.load(NOW + MAX_AGE_SECONDS) is not None
    assert store.load(NOW + MAX_AGE_SECONDS + 1) is None
    assert "7 days old" in caplog.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
@given(st.binary(max_size=300))
def test_no_content_makes_it_raise(store: Store, content: bytes) -> None:
    descriptor = os.open(store.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, _with_body(content))
    os.close(descriptor)

    assert store.load(NOW) is None


def test_a_process_that_is_killed_while_saving_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.crashes", "xds", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20, "each line of the two writes is one"


def test_a_crash_while_saving_leaves_the_old_state(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(STATE, NOW)
    monkeypatch.setattr(Path, "replace", _disk_full)

    with pytest.raises(StateFileUnwritable, match="No space left"):
        store.save(LastGood(Changes(), {}, {}), NOW)

    saved = store.load(NOW)
    assert saved is not None
    assert saved.last_good == STATE
    assert list(store.path.parent.iterdir()) == [store.path]


def test_what_lies_in_the_way_of_the_new_file_is_not_followed(store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    Path(f"{store.path}.new").symlink_to(victim)

    store.save(STATE, NOW)

    assert victim.read_text() == "precious"
    assert store.load(NOW) is not None


def test_a_missing_directory_is_unwritable_and_says_what_to_check(tmp_path: Path) -> None:
    path = tmp_path / "none" / "state"

    with pytest.raises(StateFileUnwritable, match=str(path)) as caught:
        Store(str(path), cluster="c", node="n").save(STATE, NOW)

    assert "disk full" in caught.value.check


def _disk_full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def _appended(number: int) -> Step:
    return Step(LastGood(Changes(), {f"web-{number}": "2"}))


def test_what_is_appended_is_loaded_with_what_was_there(store: Store) -> None:
    store.save(STATE, NOW)
    assert not store.is_whole_due

    store.append(Step(LastGood(Changes(), {"web": "2"}), removed_policies=("shop/deny",)), NOW + 60)

    saved = store.load(NOW + 60)
    assert saved is not None
    assert saved.saved_at == NOW + 60
    assert saved.last_good.address_versions == {"web": "2", "shop/cart.shop": "2"}
    assert saved.last_good.everything.policies == ()
    assert saved.last_good.everything.workloads == STATE.everything.workloads


def test_a_change_costs_what_it_is_worth_whatever_the_size_of_the_mesh(store: Store) -> None:
    """The whole is written again when as much was appended: so at most as many bytes as the changes have."""
    many = tuple(Workload(uid=f"w{n}", name=f"w{n}", namespace="shop") for n in range(2000))
    large = LastGood(Changes(workloads=many), {one.uid: "1" for one in many})
    store.save(large, NOW)
    size = store.path.stat().st_size
    wholes, appended = 0, 0
    for number in range(5000):
        if store.is_whole_due:
            store.save(large, NOW)
            wholes += 1
        else:
            before = store.path.stat().st_size
            store.append(_appended(number), NOW)
            appended += store.path.stat().st_size - before
    assert wholes * size <= appended
    assert appended < 5000 * 200


def test_a_small_file_is_not_written_whole_after_each_change(store: Store) -> None:
    store.save(LastGood(Changes()), NOW)
    for number in range(100):
        assert not store.is_whole_due
        store.append(_appended(number), NOW)
    assert store.path.stat().st_size < LEAST_APPENDED_BYTES


def test_an_agent_that_begins_never_appends_to_what_another_has_left(store: Store) -> None:
    store.save(STATE, NOW)

    assert Store(str(store.path), cluster="c", node="node-a").is_whole_due


def test_a_file_that_somebody_has_taken_away_or_replaced_is_written_whole(store: Store, tmp_path: Path) -> None:
    store.save(STATE, NOW)
    store.path.rename(tmp_path / "taken")
    assert store.is_whole_due
    (tmp_path / "state").write_bytes(b"another")
    assert store.is_whole_due


def test_after_an_append_that_failed_nothing_comes_behind_the_half_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(STATE, NOW)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", _disk_full)
        with pytest.raises(StateFileUnwritable, match="No space left"):
            store.append(_appended(1), NOW)

    assert store.is_whole_due
    store.save(STATE, NOW)
    assert not store.is_whole_due


class SlowStore(Store):
    """Fails as often as it is told to."""

    def __init__(self, path: str) -> None:
        super().__init__(path, cluster="c", node="n")
        self.failures_left = 0
        self.saved: list[LastGood | Step] = []

    @property
    def is_whole_due(self) -> bool:
        return not self.saved

    def save(self, last_good: LastGood, now: float) -> None:  # noqa: ARG002 - the signature of Store
        if self.failures_left:
            self.failures_left -= 1
            raise StateFileUnwritable("disk full")
        self.saved.append(last_good)

    def append(self, step: Step, now: float) -> None:  # noqa: ARG002 - the signature of Store
        self.saved.append(step)


def _state(number: int) -> LastGood:
    return LastGood(Changes(), {str(number): ""}, {})


def test_a_burst_of_changes_is_one_write_of_the_last_state_and_the_next_of_what_has_changed(
    tmp_path: Path, until: "Until", monkeypatch: pytest.MonkeyPatch
) -> None:
    store, current = SlowStore(str(tmp_path / "state")), 0
    saver = Saver(store, lambda: _state(current), lambda: Step(_state(current)), pick=lambda: 0.5, interval=0.02)

    async def scene() -> None:
        nonlocal current
        task = asyncio.ensure_future(saver.run())
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patch:
            now = loop.time()
            patch.setattr(loop, "time", lambda: now)  # a burst takes no time, on a busy machine neither
            while current < 10:
                current += 1
                saver.note_change()
                await asyncio.sleep(0)
        await until(lambda: bool(store.saved))
        saver.note_change()
        await until(lambda: len(store.saved) == 2)
        task.cancel()

    asyncio.run(scene())
    assert store.saved == [_state(10), Step(_state(10))]
    assert (saver.writes, saver.failures, saver.error) == (2, 0, "")


def test_a_full_disk_is_told_once_counted_and_tried_again(
    tmp_path: Path, until: "Until", caplog: pytest.LogCaptureFixture
) -> None:
    store = SlowStore(str(tmp_path / "state"))
    store.failures_left = 4
    saver = Saver(store, lambda: _state(1), lambda: Step(_state(1)), pick=lambda: 0.5, interval=0.001)

    async def scene() -> None:
        task = asyncio.ensure_future(saver.run())
        saver.note_change()
        await until(lambda: saver.error == "disk full")
        await until(lambda: saver.writes == 1)
        task.cancel()

    with caplog.at_level(logging.INFO):
        asyncio.run(scene())
    assert (saver.writes, saver.failures, saver.error) == (1, 4, "")
    assert [record.levelname for record in logged(caplog)] == ["WARNING", "INFO"]
