# SPDX-License-Identifier: Apache-2.0
"""Which open connections a new table ends; the swap itself is tested in the kernel (tests/kernel/test_verdicts.py)."""

import pytest

from nodeagent.kernel.codings import NO_NUMBER, OPENED_BY_EITHER, Flow, FlowKey, of_flow
from nodeagent.kernel.verdicts import FLOW_ALLOWED, Revoked, find_revoked, is_in_question
from nodeagent.model.address import Ip

WEB, DB = Ip("10.0.0.1"), Ip("10.0.0.2")
NUMBERS = {WEB: 0, DB: 1}
KEY = FlowKey(DB, WEB, 80, 40000)
"""The greater address is the first end; web, the second, has opened it."""
WEB_TO_DB = Flow(1, FLOW_ALLOWED, 1)


def _revoked(
    rows: dict[tuple[int, int], int], flow: Flow = WEB_TO_DB, numbers: dict[Ip, int] = NUMBERS
) -> list[Revoked]:
    return list(find_revoked({KEY: flow}, numbers, rows))


@pytest.mark.parametrize(
    ("rows", "is_allowed"),
    [
        pytest.param({(1, 80): 0b01}, True, id="by the port's own row"),
        pytest.param({(1, 0): 0b01}, True, id="by the row for all other ports"),
        pytest.param({(1, 80): 0b00, (1, 0): 0b01}, False, id="the port's own row goes first"),
        pytest.param({(0, 40000): 0b10, (0, 0): 0b10}, False, id="only the other way round"),
        pytest.param({(1, 0): 0b10}, False, id="another source"),
        pytest.param({}, False, id="no row at all"),
    ],
)
def test_a_flow_is_judged_in_the_direction_of_its_syn(rows: dict[tuple[int, int], int], is_allowed: bool) -> None:  # noqa: FBT001 - a column of the table
    assert _revoked(rows) == ([] if is_allowed else [Revoked(WEB, 40000, DB, 80)])


def test_the_first_end_may_have_opened_it() -> None:
    assert _revoked({}, WEB_TO_DB._replace(from_second=0)) == [Revoked(DB, 80, WEB, 40000)]


@pytest.mark.parametrize(
    ("rows", "is_allowed"),
    [
        pytest.param({(1, 80): 0b01, (0, 40000): 0b10}, True, id="both directions"),
        pytest.param({(1, 80): 0b01}, False, id="one of them"),
        pytest.param({(0, 40000): 0b10}, False, id="the other"),
    ],
)
def test_a_flow_that_either_end_may_have_opened_needs_both_directions(
    rows: dict[tuple[int, int], int],
    is_allowed: bool,  # noqa: FBT001 - a column of the table
) -> None:
    found = _revoked(rows, WEB_TO_DB._replace(from_second=OPENED_BY_EITHER))
    assert found == [] if is_allowed else len(found) == 1


def test_only_what_another_table_has_allowed_is_in_question() -> None:
    encode = of_flow().encode
    assert [is_in_question(encode(WEB_TO_DB._replace(kind=kind)), 2) for kind in (1, 2, 3, 4)] == [True, *[False] * 3]
    assert not is_in_question(encode(WEB_TO_DB), WEB_TO_DB.generation)


def test_a_pod_that_left_or_has_no_number_is_allowed_nothing() -> None:
    everything = {(0, 0): -1, (1, 0): -1}
    assert _revoked(everything) == []
    assert len(_revoked(everything, numbers={WEB: 0})) == 1
    assert len(_revoked(everything, numbers={WEB: NO_NUMBER, DB: 1})) == 1
