# SPDX-License-Identifier: Apache-2.0
"""Who gets a connection by each algorithm, how many there may be, and who gets none after failures."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.address import Ip
from nodeagent.model.traffic import Algorithm, LocalityBalancing, OutlierDetection, TrafficPolicy
from nodeagent.model.workload import Workload
from nodeagent.routing.balancing import Chooser
from nodeagent.routing.candidates import Candidates, Terms
from nodeagent.routing.locality import Group

Option = TypeVar("Option")
CLIENT = Ip("10.0.0.1")
OUTLIER = OutlierDetection(failures=3, base_ejection_seconds=30, max_ejection_percent=50, interval_seconds=10)


def endpoint(name: str, capacity: int = 1) -> Workload:
    return Workload(uid=name, name=name, namespace="shop", capacity=capacity)


def found(policy: TrafficPolicy, *endpoints: Workload, port: int = 80) -> Candidates:
    weights = tuple(accumulate(one.capacity for one in endpoints))
    return Candidates(endpoints, weights, Terms(policy, "shop/db", port))


class Scene:
    """A chooser with a clock and dice that fall as told, the first place else."""

    def __init__(self, policy: TrafficPolicy, *endpoints: Workload) -> None:
        self.now = 1000.0
        self.places: list[int] = []
        self.found = found(policy, *endpoints)
        self.chooser = Chooser(self._pick, lambda: self.now)

    def _pick(self, options: Sequence[Option], _weights: Sequence[int]) -> Option:
        return options[self.places.pop(0) if self.places else 0]

    def chosen(self, source: Ip = CLIENT) -> str | None:
        one = self.chooser.choose(source, self.found)
        return one.name if one is not None else None

    def terms(self) -> Terms:
        assert self.found.terms is not None
        return self.found.terms

    def fails(self, name: str, times: int) -> None:
        for _ in range(times):
            lease = self.chooser.take(self.terms(), name)
            assert lease is not None
            lease.failed()
            lease.release()

    def succeeds(self, name: str) -> None:
        lease = self.chooser.take(self.terms(), name)
        assert lease is not None
        lease.connected()
        lease.release()

    def in_service(self) -> set[str]:
        """Whom dice could fall for."""
        seen = set()
        for place in range(len(self.found.endpoints)):
            self.places = [place]
            try:
                seen.add(self.chosen())
            except IndexError:
                continue
        return {name for name in seen if name}


A, B, C = (endpoint(name) for name in "abc")


# ---- algorithms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [None, Algorithm.RANDOM])
def test_at_random_by_weight(algorithm: Algorithm | None) -> None:
    scene = Scene(TrafficPolicy(algorithm=algorithm, max_connections=9), A, B)
    scene.places = [1, 0]
    assert [scene.chosen(), scene.chosen()] == ["b", "a"]


def test_in_turn_as_often_as_the_weights_say_and_for_each_port_on_its_own() -> None:
    scene = Scene(TrafficPolicy(algorithm=Algorithm.ROUND_ROBIN), endpoint("a", 2), endpoint("b", 1))
    assert [scene.chosen() for _ in range(6)] == ["a", "a", "b"] * 2
    scene.found = found(TrafficPolicy(algorithm=Algorithm.ROUND_ROBIN), A, B, port=90)
    assert [scene.chosen() for _ in range(3)] == ["a", "b", "a"]


def test_of_two_that_are_drawn_the_one_with_fewer_connections_for_its_weight() -> None:
    scene = Scene(TrafficPolicy(algorithm=Algorithm.LEAST_REQUEST), A, endpoint("b", 4), C)
    leases = [scene.chooser.take(scene.terms(), name) for name in ("a", "b", "b", "b")]
    for places, chosen in (([0, 1], "b"), ([1, 0], "b"), ([0, 2], "c"), ([0, 0], "a"), ([1, 2], "c")):
        scene.places = places
        assert scene.chosen() == chosen
    for lease in leases:
        assert lease is not None
        lease.release()
    scene.places = [0, 1]
    assert scene.chosen() == "a"


def test_a_client_keeps_its_endpoint_at_every_worker() -> None:
    policy = TrafficPolicy(algorithm=Algorithm.SOURCE_IP)
    clients = [Ip(f"10.0.{n // 200}.{n % 200}") for n in range(1, 300)]
    one, other = Scene(policy, A, B, C), Scene(policy, C, B, A)
    chosen = {client: one.chosen(client) for client in clients}
    assert chosen == {client: other.chosen(client) for client in clients} == {c: one.chosen(c) for c in clients}
    assert all(count > 60 for count in Counter(chosen.values()).values())
    # Whose endpoint goes moves, and nobody else.
    one.found = found(policy, A, B)
    assert all(one.chosen(client) == name for client, name in chosen.items() if name != "c")


def test_a_heavier_endpoint_has_more_clients() -> None:
    scene = Scene(TrafficPolicy(algorithm=Algorithm.SOURCE_IP), A, endpoint("b", 9))
    chosen = Counter(scene.chosen(Ip(f"10.{n // 250}.{n % 250}.1")) for n in range(1000))
    assert 60 < chosen["a"] < 140


# ---- how many --------------------------------------------------------------------------------------------------------


def test_more_connections_than_allowed_get_no_place_until_one_ends() -> None:
    scene = Scene(TrafficPolicy(max_connections=2), A, B)
    first, second = (scene.chooser.take(scene.terms(), name) for name in "ab")
    assert first is not None
    assert second is not None
    assert scene.chooser.take(scene.terms(), "a") is None
    first.release()
    first.release()
    assert scene.chooser.take(scene.terms(), "a") is not None
    assert scene.chooser.take(scene.terms(), "a") is None, "twice released is once released"


def test_without_a_limit_any_number() -> None:
    scene = Scene(TrafficPolicy(algorithm=Algorithm.RANDOM), A)
    assert all(scene.chooser.take(scene.terms(), "a") for _ in range(1000))


# ---- outliers --------------------------------------------------------------------------------------------------------


def test_failures_in_a_row_eject_for_a_while() -> None:
    scene = Scene(TrafficPolicy(outlier=OUTLIER), A, B)
    scene.fails("a", 2)
    scene.succeeds("a")
    scene.fails("a", 2)
    assert scene.in_service() == {"a", "b"}, "not in a row"
    scene.fails("a", 1)
    assert (scene.in_service(), scene.chooser.ejections) == ({"b"}, 1)
    scene.now += 29.9
    assert scene.in_service() == {"b"}
    scene.now += 0.2
    assert scene.in_service() == {"a", "b"}


def test_each_ejection_is_longer_until_they_are_forgotten() -> None:
    scene = Scene(TrafficPolicy(outlier=OUTLIER), A, B)
    for seconds in (30, 60, 90):
        scene.fails("a", 3)
        scene.now += seconds - 1
        assert scene.in_service() == {"b"}
        scene.now += 2
        assert scene.in_service() == {"a", "b"}
    scene.now += 20  # two intervals, and so two ejections less
    scene.fails("a", 3)
    scene.now += 59
    assert scene.in_service() == {"b"}
    scene.now += 2
    assert scene.in_service() == {"a", "b"}


def test_no_ejection_is_longer_than_the_longest() -> None:
    long = OutlierDetection(failures=1, base_ejection_seconds=200, max_ejection_percent=50, interval_seconds=1000)
    scene = Scene(TrafficPolicy(outlier=long), A, B)
    scene.fails("a", 1)
    scene.now += 201
    scene.fails("a", 1)
    scene.now += 301
    assert scene.in_service() == {"a", "b"}


@pytest.mark.parametrize(
    ("percent", "failing", "left"),
    [
        (10, "ab", {"b", "c"}),
        (50, "ab", {"b", "c"}),
        (67, "ab", {"c"}),
        (100, "abc", set()),
        (0, "ab", {"a", "b", "c"}),
    ],
)
def test_no_more_are_ejected_than_allowed_but_one_if_any(percent: int, failing: str, left: set[str]) -> None:
    outlier = OutlierDetection(failures=1, base_ejection_seconds=30, max_ejection_percent=percent, interval_seconds=10)
    scene = Scene(TrafficPolicy(outlier=outlier), A, B, C)
    scene.in_service()
    for name in failing:
        scene.fails(name, 1)
    assert scene.in_service() == left


def test_when_all_are_ejected_there_is_nobody() -> None:
    outlier = OutlierDetection(failures=1, base_ejection_seconds=30, max_ejection_percent=100, interval_seconds=10)
    scene = Scene(TrafficPolicy(outlier=outlier), A)
    scene.fails("a", 1)
    assert scene.chosen() is None


def test_without_a_policy_about_them_failures_count_nothing() -> None:
    scene = Scene(TrafficPolicy(algorithm=Algorithm.RANDOM), A, B)
    scene.fails("a", 100)
    assert (scene.in_service(), scene.chooser.ejections) == ({"a", "b"}, 0)


# ---- laws ------------------------------------------------------------------------------------------------------------

POLICIES = st.builds(
    TrafficPolicy,
    algorithm=st.sampled_from([None, *Algorithm]),
    max_connections=st.integers(0, 5),
    outlier=st.one_of(st.none(), st.just(OUTLIER)),
)


@given(POLICIES, st.lists(st.tuples(st.integers(0, 3), st.floats(0, 40)), max_size=40), st.integers(0, 2**32))
def test_whatever_happens_nobody_is_chosen_who_is_no_candidate_and_counts_return_to_nothing(
    policy: TrafficPolicy, steps: list[tuple[int, float]], seed: int
) -> None:
    dice = random.Random(seed)
    now = 0.0
    chooser = Chooser(lambda options, weights: dice.choices(options, cum_weights=weights)[0], lambda: now)
    candidates = found(policy, A, endpoint("b", 3), C)
    assert candidates.terms is not None
    leases = []
    for action, seconds in steps:
        now += seconds
        chosen = chooser.choose(Ip(f"10.0.0.{dice.randrange(9)}"), candidates)
        assert chosen is None or chosen in candidates.endpoints
        lease = chooser.take(candidates.terms, chosen.uid) if chosen is not None else None
        if lease is None:
            continue
        leases.append(lease)
        assert not policy.max_connections or len(leases) <= policy.max_connections
        if action == 1:
            lease.failed()
        elif action == 2:
            lease.connected()
        else:
            leases.pop(0).release()
    for lease in leases:
        lease.release()
    most = policy.max_connections or 7
    assert [chooser.take(candidates.terms, "a") is not None for _ in range(most)] == [True] * most


# ---- by locality -----------------------------------------------------------------------------------------------------


def grouped(algorithm: Algorithm | None, *groups: tuple[tuple[Workload, ...], int]) -> Scene:
    every = [one for endpoints, _ in groups for one in endpoints]
    scene = Scene(TrafficPolicy(algorithm=algorithm, outlier=OUTLIER, locality=LocalityBalancing()), *every)
    made = (
        Group(endpoints, tuple(accumulate(one.capacity for one in endpoints)), share) for endpoints, share in groups
    )
    scene.found = msgspec.structs.replace(scene.found, groups=tuple(made))
    return scene


@pytest.mark.parametrize("algorithm", [None, *Algorithm])
def test_the_nearest_get_all_until_too_many_of_them_are_out(algorithm: Algorithm | None) -> None:
    scene = grouped(algorithm, ((A, B), 0), ((C,), 0))
    assert {scene.chosen(Ip(f"10.0.0.{n}")) for n in range(50)} <= {"a", "b"}
    scene.fails("a", 3)
    seen = Counter(scene.chosen(Ip(f"10.0.{n // 250}.{n % 250}")) for n in range(500))
    assert set(seen) <= {"b", "c"}
    if algorithm is Algorithm.SOURCE_IP:
        assert 300 < seen["b"] < 400, "70 % of the clients stay"
    else:  # the dice fall for the first group
        scene.places = [1]
        assert scene.chosen() == "c"


def test_with_all_of_the_nearest_out_the_next_serve_and_with_all_out_nobody() -> None:
    scene = grouped(None, ((A,), 0), ((B,), 0))
    scene.fails("a", 3)
    assert scene.chosen() == "b"
    scene.found = msgspec.structs.replace(scene.found, groups=scene.found.groups[:1])
    assert scene.chosen() is None


def test_shares_are_drawn_and_then_endpoints() -> None:
    scene = grouped(None, ((A, B), 70), ((C,), 30))
    asked: list[tuple[int, ...]] = []

    def pick(options: Sequence[Option], cumulative: Sequence[int]) -> Option:
        asked.append(tuple(cumulative))
        return options[-1]

    scene.chooser = Chooser(pick, lambda: scene.now)
    assert scene.chosen() == "c"
    assert asked == [(7000, 10000), (1,)]
