# SPDX-License-Identifier: Apache-2.0
"""From the kernel's counts to rows."""

from tests.bench.programs import PROGRAMS, Runs, Turn, rows, together


def _turn(from_pod: Runs, to_pod: Runs) -> Turn:
    return Turn(dict.fromkeys(PROGRAMS, Runs(0, 0)) | {"from_pod": from_pod, "to_pod": to_pod}, 1.0)


def test_nodes_are_added() -> None:
    total = together([{"from_pod": Runs(100, 1)}, {"from_pod": Runs(500, 2), "to_pod": Runs(7, 1)}])
    assert (total["from_pod"], total["to_pod"], total["at_proxy"]) == (Runs(600, 3), Runs(7, 1), Runs(0, 0))


def test_a_row_for_each_program_that_ran_and_their_share() -> None:
    turns = [_turn(Runs(each * 1000, 1000), Runs(90_000, 1000)) for each in (250, 310, 290)]
    made = rows(turns, "fast", "request/response", is_one_at_a_time=True)
    assert [(row.name, row.value, row.met) for row in made] == [
        ("from_pod a packet, fast, request/response", 290.0, True),
        ("to_pod a packet, fast, request/response", 90.0, True),
        ("share of the programs, fast, request/response", 0.038, None),
    ]
    assert rows(turns, "fast", "bulk", is_one_at_a_time=False) == [
        made[0].__class__(**{**vars(made[0]), "name": "from_pod a packet, fast, bulk"}),
        made[1].__class__(**{**vars(made[1]), "name": "to_pod a packet, fast, bulk"}),
    ]
