# SPDX-License-Identifier: Apache-2.0
"""Times become a histogram, over all workers, and nothing else becomes one."""

import bisect
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.set_up import BOUNDS, Phase, SetUpTimes, split_totals


@given(st.lists(st.lists(st.tuples(st.sampled_from(Phase), st.integers(0, 60_000_000)))))
def test_each_time_is_in_its_bucket_whoever_counted_it(workers: list[list[tuple[Phase, int]]]) -> None:
    totals: Counter[str] = Counter({"bugs": 3})
    for added in workers:
        times = SetUpTimes()
        for phase, micros in added:
            times.add(phase, (micros + 0.5) / 1e6)
        totals.update(times.totals())

    others, told = split_totals(totals)

    assert others == {"bugs": 3}
    everything = [pair for added in workers for pair in added]
    for phase in Phase:
        of_phase = sorted(micros for each, micros in everything if each is phase)
        naive = [bisect.bisect_right(of_phase, bound) for bound in BOUNDS] + [len(of_phase)]
        assert [count for _, count in told[phase].counts] == naive
        assert round(told[phase].sum_seconds * 1e6) == sum(of_phase)


def test_the_bounds_are_seconds_and_the_last_one_is_infinite() -> None:
    _, told = split_totals({})
    bounds = [bound for bound, _ in told[Phase.OUTBOUND].counts]
    assert bounds[0] == 0.0005
    assert bounds[-2:] == [10.0, float("inf")]
    assert bounds == sorted(bounds)
