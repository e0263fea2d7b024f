# SPDX-License-Identifier: Apache-2.0
"""How many connections and how fast: rate, burst, those open at once, an account for each source and workload."""

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.model.traffic import WorkloadLimits
from nodeagent.policy import limits as module
from nodeagent.policy.limits import Place, SourceLimits

WEB, BATCH = Identity("cluster.local", "shop", "web"), Identity("cluster.local", "office", "batch")


def limits(uid: str = "db", **fields: float) -> WorkloadLimits:
    return WorkloadLimits(uid=uid, **fields)  # type: ignore[arg-type]


def test_a_burst_and_then_the_rate() -> None:
    known, limit = SourceLimits(), limits(per_second=2, burst=3)
    assert all(isinstance(known.admit(limit, WEB, 10.0), Place) for _ in range(3))
    assert known.admit(limit, WEB, 10.4) is Reason.SOURCE_RATE
    assert isinstance(known.admit(limit, WEB, 10.5), Place)
    assert known.admit(limit, WEB, 10.9) is Reason.SOURCE_RATE
    assert sum(isinstance(known.admit(limit, WEB, 99.0), Place) for _ in range(9)) == 3, (
        "no more than the burst is saved"
    )


def test_so_many_at_once_until_one_ends() -> None:
    known, limit = SourceLimits(), limits(concurrent=2)
    first, second = (known.admit(limit, WEB, 0.0) for _ in range(2))
    assert isinstance(first, Place)
    assert isinstance(second, Place)
    assert known.admit(limit, WEB, 1.0) is Reason.SOURCE_CONNECTIONS
    first.release()
    first.release()
    assert isinstance(known.admit(limit, WEB, 1.0), Place)
    assert known.admit(limit, WEB, 1.0) is Reason.SOURCE_CONNECTIONS


def test_one_too_many_at_once_costs_nothing_of_the_rate() -> None:
    known, limit = SourceLimits(), limits(per_second=0.001, burst=2, concurrent=1)
    place = known.admit(limit, WEB, 0.0)
    assert known.admit(limit, WEB, 0.0) is Reason.SOURCE_CONNECTIONS
    assert isinstance(place, Place)
    place.release()
    assert isinstance(known.admit(limit, WEB, 0.0), Place)


def test_each_source_and_each_workload_has_an_account() -> None:
    known = SourceLimits()
    pairs = [(uid, source) for uid in ("db", "api") for source in (WEB, BATCH, "10.0.0.1", "10.0.0.2")]
    for expected in (True, False):
        found = [isinstance(known.admit(limits(uid, concurrent=1), source, 0.0), Place) for uid, source in pairs]
        assert found == [expected] * len(pairs)


def test_a_changed_limit_holds_from_the_next_connection_on() -> None:
    known = SourceLimits()
    assert isinstance(known.admit(limits(per_second=1, burst=100), WEB, 0.0), Place)
    assert isinstance(known.admit(limits(per_second=1, burst=1), WEB, 0.0), Place)
    assert known.admit(limits(per_second=1, burst=1), WEB, 0.0) is Reason.SOURCE_RATE


def test_what_is_forgotten_changes_no_answer() -> None:
    """Sources that come and go must not fill the memory; one that used up its burst stays known."""
    known, limit = SourceLimits(), limits(per_second=0.001, burst=1)
    held = known.admit(limits(concurrent=1), WEB, 0.0)
    assert isinstance(known.admit(limit, BATCH, 0.0), Place)
    for number in range(3 * module._MOST_SOURCES):
        place = known.admit(limits(concurrent=1), str(number), 1.0)
        assert isinstance(place, Place)
        place.release()
    assert len(known._accounts) <= module._MOST_SOURCES
    assert known.admit(limits(concurrent=1), WEB, 1.0) is Reason.SOURCE_CONNECTIONS
    assert known.admit(limit, BATCH, 1.0) is Reason.SOURCE_RATE
    assert isinstance(held, Place)


@given(
    st.floats(0.1, 50),
    st.integers(1, 20),
    st.lists(st.floats(0, 2), min_size=1, max_size=60),
)
def test_never_more_than_the_burst_and_the_rate_together(rate: float, burst: int, pauses: list[float]) -> None:
    known, limit, now, admitted = SourceLimits(), limits(per_second=rate, burst=burst), 100.0, 0
    for pause in pauses:
        now += pause
        admitted += isinstance(known.admit(limit, WEB, now), Place)
        assert admitted <= burst + rate * (now - 100.0) + 1e-6
