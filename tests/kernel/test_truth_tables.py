# SPDX-License-Identifier: Apache-2.0
"""Every row of every truth table, with each of its reasons and in both families, reached and its decision shown.

The rows are read from the comments on top of the programs: a row without a case is a failure. The decision (which
device and flags a redirect names, which listener a packet is given to) is that of the test build, which is otherwise
the product's source; end to end is test_end_to_end.py. What a case expects is written in it; the model agrees.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import pytest

from nodeagent.kernel.netns import enter_netns
from tests.kernel.conftest import FAMILIES, Family, Kernel
from tests.kernel.proof.cases import CASES
from tests.kernel.proof.recording import Recorder, load_recording
from tests.kernel.proof.stage import Stage
from tests.kernel.proof.truth_tables import Row, all_rows
from tests.kernel.proof.twin import Twin

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def recorder(prepared: Kernel) -> Iterator[Recorder]:
    with closing(load_recording(prepared.node.bpffs)) as made:
        yield made


@pytest.fixture
def twin(kernel: Kernel, recorder: Recorder) -> Iterator[Twin]:
    with closing(Twin(kernel, recorder)) as made:
        yield made


@contextmanager
def _stage(kernel: Kernel, twin: Twin, family: Family) -> Iterator[Stage]:
    stage = Stage(kernel, twin, family)
    twin.forget()
    twin.put_sockets([])
    twin.put_listeners(0, [])
    stage.open_window(is_open=False)
    stage.forbid()
    yield stage
    twin.check_tables()
    stage.open_window(is_open=False)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(row, name, id=f"{row.program}-{row.number}-{row.reason or 'goes-on'}-{name}")
        for row in all_rows()
        for name in row.families
    ],
)
def test_each_row_is_reached_and_decides_as_it_says(kernel: Kernel, twin: Twin, row: Row, name: str) -> None:
    case = CASES[row]
    with _stage(kernel, twin, FAMILIES[name]) as stage:
        arrival = case.arrange(stage)
        before = set(twin.world.hairpins)
        in_proxy = row.program == "at_proxy"
        with enter_netns(Path(kernel.node.steering.netns_path())) if in_proxy else nullcontext():
            outcome = twin.run(arrival)
        case.expect(stage, arrival, outcome)
        if row.reason:
            assert (outcome.row, outcome.reason) == (row.number, row.reason)
        else:
            assert len(before) == 1, "there was a hairpin"
            assert twin.world.hairpins == set(), "and it is forgotten"


def test_the_tables_are_read_whole() -> None:
    """Numbers of rows as the programs have them; each reason in some row; no case for a row that is gone."""
    rows = all_rows()
    last = {row.program: row.number for row in rows}
    assert last == {"from_pod": 18, "to_pod": 11, "from_proxy": 6, "at_proxy": 6}
    assert len(set(rows)) == len(rows)
    assert CASES.keys() == set(rows)
