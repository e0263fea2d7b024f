# SPDX-License-Identifier: Apache-2.0
"""The rules of rotation.py's docstring with a clock that the test moves; then what always holds."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nodeagent.certs.rotation import CONCURRENT, Command, Fetch, Forget, Install, Rotation, State
from nodeagent.model.identity import Identity

DAY = 86400.0


def identity(name: str) -> Identity:
    return Identity("cluster.local", "shop", name)


WEB, DB = identity("web"), identity("db")


def latest() -> Rotation:
    """Draws 0 for the jitter: renewals at exactly half, retries 20 % early."""
    return Rotation(lambda: 0.0)


def nominal() -> Rotation:
    return Rotation(lambda: 0.5)


def with_certificate(not_before: float = 0.0, not_after: float = DAY, now: float = 0.0) -> Rotation:
    rotation = latest()
    rotation.woken(frozenset({WEB}), now)
    rotation.fetched(WEB, not_before, not_after, now)
    return rotation


def woken(rotation: Rotation, now: float, *identities: Identity) -> list[Command]:
    return rotation.woken(frozenset(identities), now)


def test_a_wanted_identity_is_asked_for_at_once_and_once() -> None:
    rotation = nominal()

    assert woken(rotation, 0, WEB, DB) == [Fetch(DB), Fetch(WEB)]
    assert woken(rotation, 1, WEB, DB) == []
    assert rotation.entries[WEB].state is State.INITIALIZING


def test_what_came_is_installed_and_renewed_at_half_of_its_life() -> None:
    rotation = nominal()
    woken(rotation, 0, WEB)

    assert rotation.fetched(WEB, -120, DAY, 0) == [Install(WEB)]
    half = (DAY - 120) / 2
    assert rotation.next_event() == pytest.approx(half * 0.95)
    assert woken(rotation, half * 0.95 - 1, WEB) == []
    assert woken(rotation, half * 0.95 + 1, WEB) == [Fetch(WEB)]
    assert rotation.entries[WEB].state is State.AVAILABLE


@pytest.mark.parametrize(("pick", "share"), [(0.0, 1.0), (0.5, 0.95), (0.999999, 0.9)])
def test_renewals_are_spread_over_the_last_tenth_before_half(pick: float, share: float) -> None:
    rotation = Rotation(lambda: pick)
    woken(rotation, 0, WEB)
    rotation.fetched(WEB, 0, DAY, 0)

    assert rotation.next_event() == pytest.approx(DAY / 2 * share, rel=1e-4)


@pytest.mark.parametrize(
    ("not_before", "not_after", "renewal"),
    [
        pytest.param(-120.0, 10.0, 5.0, id="short and dated back by istiod: half of what is left"),
        pytest.param(-120.0, 0.5, 1.0, id="about to expire: not in a loop"),
        pytest.param(0.0, 100.0, 50.0, id="half of its life"),
    ],
)
def test_a_certificate_that_came_late(not_before: float, not_after: float, renewal: float) -> None:
    rotation = with_certificate(not_before, not_after)

    assert rotation.entries[WEB].next_try == pytest.approx(renewal)


def test_failures_are_retried_with_growing_pauses() -> None:
    rotation, now, pauses = nominal(), 0.0, []
    woken(rotation, now, WEB)
    for _ in range(10):
        assert rotation.failed(WEB, "refused", now) == []
        event = rotation.next_event()
        assert event is not None
        pauses.append(event - now)
        now = event
        assert woken(rotation, now, WEB) == [Fetch(WEB)]

    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 150, 150])
    assert rotation.entries[WEB].state is State.UNAVAILABLE
    rotation.fetched(WEB, now, now + DAY, now)
    assert (rotation.entries[WEB].error, rotation.entries[WEB].failures) == ("", 0)


def test_a_valid_certificate_survives_an_outage_and_is_forgotten_when_it_expires() -> None:
    rotation = with_certificate()
    now, commands = DAY / 2, woken(rotation, DAY / 2, WEB)
    while now < DAY:
        assert commands == [Fetch(WEB)]
        assert rotation.entries[WEB].state is State.AVAILABLE
        assert rotation.failed(WEB, "away", now) == []
        event = rotation.next_event()
        assert event is not None
        now, commands = event, woken(rotation, event, WEB)

    assert now == DAY  # expiry itself is a reason to try, however long the pause would have been
    assert commands == [Forget(WEB), Fetch(WEB)]
    assert rotation.entries[WEB].state is State.UNAVAILABLE
    assert rotation.entries[WEB].error == "away"


def test_a_certificate_that_expires_while_its_renewal_is_on_its_way() -> None:
    rotation = with_certificate()
    woken(rotation, DAY / 2, WEB)

    assert rotation.next_event() == DAY
    assert woken(rotation, DAY, WEB) == [Forget(WEB)]
    assert "expired" in rotation.entries[WEB].error
    assert rotation.fetched(WEB, DAY, 2 * DAY, DAY + 5) == [Install(WEB)]


def test_at_most_eight_are_on_their_way_and_those_without_a_certificate_go_first() -> None:
    rotation = latest()
    old = [identity(f"old-{number}") for number in range(CONCURRENT)]
    woken(rotation, 0, *old)
    for one in old:
        rotation.fetched(one, 0, DAY, 0)
    new = [identity(f"zz-{number}") for number in range(CONCURRENT - 1)]

    commands = woken(rotation, DAY / 2, *old, *new)

    assert commands == [*(Fetch(one) for one in new), Fetch(old[0])]
    assert rotation.next_event() == DAY  # nothing can begin before one has come back, or expires
    assert rotation.failed(new[0], "no", DAY / 2) == [Fetch(old[1])]
    assert rotation.fetched(new[1], 0, DAY, DAY / 2) == [Install(new[1]), Fetch(old[2])]


def test_unwanted_certificates_are_forgotten() -> None:
    rotation = with_certificate()

    assert woken(rotation, 1) == [Forget(WEB)]
    assert rotation.entries == {}
    assert rotation.next_event() is None


def test_an_answer_that_nobody_wants_any_more_is_dropped() -> None:
    rotation = nominal()
    woken(rotation, 0, WEB)
    assert woken(rotation, 1) == []

    assert rotation.fetched(WEB, 0, DAY, 2) == []
    assert rotation.failed(WEB, "late", 3) == []
    assert rotation.entries == {}


def test_wanted_again_while_the_old_request_is_on_its_way() -> None:
    rotation = nominal()
    woken(rotation, 0, WEB)
    woken(rotation, 1)

    assert woken(rotation, 2, WEB) == []
    assert rotation.fetched(WEB, 0, DAY, 3) == [Install(WEB)]


def test_a_renewal_that_is_asked_for_does_not_wait_and_keeps_what_is_in_use() -> None:
    rotation = with_certificate()

    assert rotation.renewal_asked(10) == [Fetch(WEB)]
    assert rotation.renewal_asked(11) == []
    assert rotation.entries[WEB].state is State.AVAILABLE


def test_what_the_new_roots_do_not_cover_is_renewed_within_a_minute() -> None:
    rotation = with_certificate()
    rotation._pick = lambda: 0.5

    assert rotation.roots_changed([WEB, DB], 100) == []
    assert rotation.next_event() == 130
    assert woken(rotation, 130, WEB) == [Fetch(WEB)]


class WhateverHappens(RuleBasedStateMachine):
    """A CA that answers, refuses or is silent, while identities come and go and time passes."""

    names = st.sampled_from([identity(f"sa-{number}") for number in range(CONCURRENT + 3)])

    def __init__(self) -> None:
        super().__init__()
        self.rotation, self.now = nominal(), 0.0
        self.wanted: frozenset[Identity] = frozenset()
        self.asked: list[Identity] = []
        self.certificates: dict[Identity, float] = {}

    def do(self, commands: list[Command], not_after: float = 0.0) -> None:
        for command in commands:
            match command:
                case Fetch():
                    assert command.identity not in self.asked
                    self.asked.append(command.identity)
                case Install():
                    assert command.identity in self.wanted
                    self.certificates[command.identity] = not_after
                case Forget():
                    del self.certificates[command.identity]

    @rule(identities=st.frozensets(names))
    def wanted_changed(self, identities: frozenset[Identity]) -> None:
        self.wanted = identities
        self.do(self.rotation.woken(identities, self.now))

    @rule(seconds=st.sampled_from([0.5, 5.0, 600.0, 7200.0]))
    def time_passed(self, seconds: float) -> None:
        """Wakes as often as it wants to be woken."""
        end = self.now + seconds
        for _ in range(100_000):
            event = self.rotation.next_event()
            if event is None or event > end:
                break
            self.now = max(self.now, event)
            self.do(self.rotation.woken(self.wanted, self.now))
        else:
            raise AssertionError("it spins")
        self.now = end
        self.do(self.rotation.woken(self.wanted, self.now))

    @rule(life=st.sampled_from([3.0, 3600.0]), data=st.data())
    def answered(self, life: float, data: st.DataObject) -> None:
        if self.asked:
            one = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
            not_after = self.now + life
            self.do(self.rotation.fetched(one, self.now - 120, not_after, self.now), not_after)

    @rule(data=st.data())
    def refused(self, data: st.DataObject) -> None:
        if self.asked:
            one = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
            self.do(self.rotation.failed(one, "no", self.now))

    @invariant()
    def never_too_many(self) -> None:
        assert len(self.asked) <= CONCURRENT

    @invariant()
    def only_wanted_and_valid_certificates_are_kept(self) -> None:
        assert self.certificates.keys() <= self.wanted
        assert all(not_after > self.now for not_after in self.certificates.values())

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Each wanted identity is asked for, has a time, or waits for a free place."""
        event = self.rotation.next_event()
        for one in self.wanted:
            entry = self.rotation.entries[one]
            assert (one in self.asked) == entry.is_asked
            assert entry.is_asked or len(self.asked) == CONCURRENT or (event is not None and event <= entry.next_try)
            assert (entry.state is State.AVAILABLE) == (one in self.certificates)


TestWhateverHappens = WhateverHappens.TestCase
TestWhateverHappens.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
