# SPDX-License-Identifier: Apache-2.0
"""The keeper with a CA in memory and a clock that the test moves."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from nodeagent.certs.bundle import CertificateBundle
from nodeagent.certs.chain import read_answer
from nodeagent.certs.csr import make_request
from nodeagent.certs.keeper import CertificateKeeper
from nodeagent.certs.rotation import CONCURRENT, State
from nodeagent.errors import ControlPlaneError
from nodeagent.model.identity import Identity
from tests.logged import logged

if TYPE_CHECKING:
    from tests.unit.certs.conftest import Until
    from tests.unit.conftest import TinyCa

LIFE = timedelta(hours=24)


def identity(name: str) -> Identity:
    return Identity("cluster.local", "shop", name)


WEB, DB = identity("web"), identity("db")


class Clock:
    """Stands still unless it is moved. Whole seconds, as certificates have."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now


class MemoryCa:
    """A CA without a network. `roots` is the trust bundle of the next answers."""

    def __init__(self, ca: "TinyCa", clock: Clock) -> None:
        self.ca, self.clock = ca, clock
        self.roots = ca.pem
        self.error = ""
        self.name = ""
        self.asked: list[Identity] = []
        self.on_their_way = self.most_on_their_way = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, identity: Identity) -> CertificateBundle:
        self.asked.append(identity)
        self.on_their_way += 1
        self.most_on_their_way = max(self.most_on_their_way, self.on_their_way)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            if self.error:
                raise ControlPlaneError(self.error)
            request, now = make_request(identity), self.clock()
            csr, name = request.csr_pem.decode(), self.name or str(identity)
            leaf = self.ca.sign_request(csr, name, not_before=now, not_after=now + LIFE)
            return read_answer(request, [leaf, self.roots], now)
        finally:
            self.on_their_way -= 1


class Scene:
    """A keeper, its CA, its clock, and what the agent was told."""

    def __init__(self, ca: "TinyCa", until: "Until") -> None:
        self.clock = Clock()
        self.ca = MemoryCa(ca, self.clock)
        self.told: list[tuple[str, Identity]] = []
        self.keeper = CertificateKeeper(
            self.ca, self._on_certificate, self._on_forgotten, clock=self.clock, pick=lambda: 0.0
        )
        self.until = until

    def _on_certificate(self, identity: Identity, bundle: CertificateBundle) -> None:
        assert self.keeper.bundle(identity) is bundle
        self.told.append(("certificate", identity))

    def _on_forgotten(self, identity: Identity) -> None:
        assert self.keeper.bundle(identity) is None
        self.told.append(("forgotten", identity))

    async def have(self, *expected: tuple[str, Identity]) -> None:
        """Waits until the agent was told exactly this since the last time."""
        await self.until(lambda: len(self.told) >= len(expected))
        assert sorted(self.told) == sorted(expected)
        self.told.clear()

    async def asked(self, times: int) -> None:
        await self.until(lambda: len(self.ca.asked) >= times and self.ca.on_their_way == 0)
        await asyncio.sleep(0)
        assert len(self.ca.asked) == times

    def passes(self, time: timedelta) -> None:
        """Moves the clock; the keeper would notice at its next look at it."""
        self.clock.now += time
        self.keeper._changed.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.keeper.run())
            try:
                yield
            finally:
                task.cancel()


@pytest.fixture
def scene(tiny_ca: "TinyCa", until: "Until") -> Scene:
    return Scene(tiny_ca, until)


def play(story: Any) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(100):
            await story

    asyncio.run(within_time())


def leaf_of(bundle: CertificateBundle | None) -> x509.Certificate:
    assert bundle is not None
    return x509.load_pem_x509_certificates(bundle.chain_pem)[0]


def test_what_is_wanted_is_fetched_and_what_is_not_is_forgotten(scene: Scene) -> None:
    async def story() -> None:
        scene.keeper.wanted(frozenset({WEB}))
        async with scene.running():
            await scene.have(("certificate", WEB))
            scene.keeper.wanted(frozenset({WEB, DB}))
            await scene.have(("certificate", DB))
            scene.keeper.wanted(frozenset({DB}))
            await scene.have(("forgotten", WEB))
            assert [row.identity for row in scene.keeper.status()] == [DB]

    play(story())


def test_it_is_renewed_at_half_of_its_life_with_another_key(scene: Scene) -> None:
    async def story() -> None:
        scene.keeper.wanted(frozenset({WEB}))
        async with scene.running():
            await scene.have(("certificate", WEB))
            first = scene.keeper.bundle(WEB)
            scene.passes(LIFE / 2 - timedelta(seconds=1))
            await scene.asked(1)
            scene.passes(timedelta(seconds=1))
            await scene.have(("certificate", WEB))
            second = scene.keeper.bundle(WEB)
            assert leaf_of(first).public_key() != leaf_of(second).public_key()
            assert first is not None
            assert second is not None
            assert second.not_after - first.not_after == LIFE / 2

    play(story())


def test_it_is_renewed_at_once_when_somebody_asks(scene: Scene) -> None:
    async def story() -> None:
        scene.keeper.wanted(frozenset({WEB, DB}))
        async with scene.running():
            await scene.have(("certificate", WEB), ("certificate", DB))
            first = scene.keeper.bundle(WEB)
            assert scene.keeper.renew() == 2
            await scene.have(("certificate", WEB), ("certificate", DB))
            assert leaf_of(first).public_key() != leaf_of(scene.keeper.bundle(WEB)).public_key()

    play(story())


def test_an_outage_of_the_ca_is_survived_until_the_certificate_expires(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        scene.keeper.wanted(frozenset({WEB}))
        async with scene.running():
            await scene.have(("certificate", WEB))
            scene.ca.error = "nobody there"
            scene.passes(LIFE / 2)
            await scene.asked(2)
            scene.passes(timedelta(seconds=2))
            await scene.asked(3)
            (row,) = scene.keeper.status()
            assert (row.state, row.last_error, scene.told) == (State.AVAILABLE, "nobody there", [])
            scene.passes(LIFE / 2)
            await scene.have(("forgotten", WEB))
            await scene.asked(4)
            (row,) = scene.keeper.status()
            assert (row.state, row.serial, row.not_after) == (State.UNAVAILABLE, "", None)
            scene.ca.error = ""
            scene.passes(timedelta(seconds=200))
            await scene.have(("certificate", WEB))
            assert (scene.keeper.fetches, scene.keeper.failures) == (2, 3)

    play(story())
    assert [record.levelname for record in logged(caplog)] == ["WARNING"]  # once per cause
    assert "nobody there" in caplog.text


def test_a_certificate_for_somebody_else_does_not_replace_the_good_one(scene: Scene) -> None:
    async def story() -> None:
        scene.keeper.wanted(frozenset({WEB}))
        async with scene.running():
            await scene.have(("certificate", WEB))
            good = scene.keeper.bundle(WEB)
            scene.ca.name = str(DB)
            scene.passes(LIFE / 2)
            await scene.asked(2)
            assert scene.keeper.bundle(WEB) is good
            (row,) = scene.keeper.status()
            assert f"is for {DB}" in row.last_error

    play(story())


def test_a_crowd_is_fetched_eight_at_a_time(scene: Scene) -> None:
    crowd = frozenset(identity(f"sa-{number}") for number in range(3 * CONCURRENT))

    async def story() -> None:
        scene.keeper.wanted(crowd)
        async with scene.running():
            await scene.have(*(("certificate", one) for one in crowd))
            assert scene.ca.most_on_their_way == CONCURRENT
            assert sorted(scene.ca.asked) == sorted(crowd)

    play(story())


def test_an_answer_for_an_identity_that_has_gone_is_dropped(scene: Scene) -> None:
    async def story() -> None:
        scene.ca.gate.clear()
        scene.keeper.wanted(frozenset({WEB}))
        async with scene.running():
            await scene.until(lambda: WEB in scene.ca.asked)
            scene.keeper.wanted(frozenset({DB}))
            await scene.until(lambda: DB in scene.ca.asked)
            scene.ca.gate.set()
            await scene.have(("certificate", DB))
            await scene.asked(2)
            assert scene.keeper.bundle(WEB) is None
            assert scene.keeper._fetched == {}

    play(story())


def test_new_roots_reach_every_identity_at_once(scene: Scene, make_ca: "type[TinyCa]") -> None:
    """Otherwise one identity would refuse for half a day the peers that another accepts."""

    async def story() -> None:
        scene.keeper.wanted(frozenset({WEB}))
        async with scene.running():
            await scene.have(("certificate", WEB))
            before = scene.keeper.bundle(WEB)
            scene.ca.roots += make_ca("Next Root").pem
            scene.keeper.wanted(frozenset({WEB, DB}))
            await scene.have(("certificate", DB), ("certificate", WEB))
            web, db = scene.keeper.bundle(WEB), scene.keeper.bundle(DB)
            assert before is not None
            assert web is not None
            assert db is not None
            assert web.roots_pem == db.roots_pem != before.roots_pem
            assert (web.chain_pem, web.key_pem) == (before.chain_pem, before.key_pem)
            assert sorted(scene.ca.asked) == [DB, WEB]  # its chain is still trusted, nothing to renew

    play(story())


def test_a_certificate_that_the_new_roots_do_not_cover_is_renewed(scene: Scene, make_ca: "type[TinyCa]") -> None:
    async def story() -> None:
        scene.keeper.wanted(frozenset({WEB}))
        async with scene.running():
            await scene.have(("certificate", WEB))
            scene.ca.ca = make_ca("Next Root")
            scene.ca.roots = scene.ca.ca.pem
            scene.keeper.wanted(frozenset({WEB, DB}))
            await scene.have(("certificate", DB), ("certificate", WEB), ("certificate", WEB))
            assert leaf_of(scene.keeper.bundle(WEB)).issuer == scene.ca.ca.name

    play(story())


def test_what_certs_shows(scene: Scene) -> None:
    async def story() -> None:
        scene.ca.gate.clear()
        scene.keeper.wanted(frozenset({WEB}))
        async with scene.running():
            await scene.until(lambda: WEB in scene.ca.asked)
            (row,) = scene.keeper.status()
            assert (row.state, row.serial, row.next_try) == (State.INITIALIZING, "", None)
            scene.ca.gate.set()
            await scene.have(("certificate", WEB))
            (row,) = scene.keeper.status()
            start = scene.clock.now
            assert row.identity == WEB
            assert row.state is State.AVAILABLE
            assert row.serial == f"{leaf_of(scene.keeper.bundle(WEB)).serial_number:x}"
            assert (row.not_before, row.not_after) == (start.timestamp(), (start + LIFE).timestamp())
            assert row.next_try == (start + LIFE / 2).timestamp()
            assert row.last_error == ""

    play(story())


def test_no_key_is_logged(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        scene.keeper.wanted(frozenset({WEB}))
        async with scene.running():
            await scene.have(("certificate", WEB))
            scene.ca.error = "nobody there"
            scene.passes(LIFE)
            await scene.have(("forgotten", WEB))

    with caplog.at_level(logging.DEBUG):
        play(story())
    assert "PRIVATE KEY" not in caplog.text + repr(scene.keeper.status())


def test_a_bug_in_the_agent_ends_it(tiny_ca: "TinyCa") -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        keeper = CertificateKeeper(MemoryCa(tiny_ca, Clock()), broken, broken)
        keeper.wanted(frozenset({WEB}))
        await keeper.run()

    with pytest.raises(ExceptionGroup) as caught:
        play(story())
    assert caught.group_contains(ZeroDivisionError)
