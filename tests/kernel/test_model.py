# SPDX-License-Identifier: Apache-2.0
"""100,000 random packets through the four programs and through the model of their truth tables, with one outcome.

Compared are verdict, reason, mark, bytes, the device and flags of a redirect, the listener, and what a packet left in
the tables of flows, hairpins and counters. The worlds change between packets. Seeds are fixed: a failure repeats.
"""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nodeagent.kernel.netns import enter_netns
from tests.kernel.conftest import Kernel
from tests.kernel.proof.recording import load_recording, open_product
from tests.kernel.proof.scenes import Scenes
from tests.kernel.proof.truth_tables import Row, all_rows
from tests.kernel.proof.twin import Arrival, Twin

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]  # seconds; 5 do where nothing is emulated

IN_NODE = ("from_pod",) * 32 + ("to_pod",) * 18 + ("from_proxy",) * 16
IN_PROXY = ("at_proxy",) * 14
OF_SCENE = len(IN_NODE) + len(IN_PROXY)


@pytest.mark.parametrize("seed", range(5))
def test_random_packets_get_the_verdict_of_the_model(kernel: Kernel, seed: int) -> None:
    reached: Counter[tuple[Row, str]] = Counter()
    with closing(load_recording(kernel.node.bpffs)) as recorder, closing(Twin(kernel, recorder)) as twin:
        for arrival, row in _play(twin, random.Random(seed), scenes=20_000 // OF_SCENE):
            reached[row, _family(arrival)] += 1
    missed = [(row, family) for row in all_rows() for family in row.families if not reached[row, family]]
    assert missed == [], "the packets did not come to these rows"


def test_the_products_own_build_agrees_as_far_as_it_shows(kernel: Kernel) -> None:
    with (
        closing(open_product(kernel.node.bpffs)) as recorder,
        closing(Twin(kernel, recorder, shows_decisions=False)) as twin,
    ):
        played = sum(1 for _ in _play(twin, random.Random(5), scenes=4_000 // OF_SCENE))
    assert played >= 4_000


def _play(twin: Twin, dice: random.Random, scenes: int) -> Iterator[tuple[Arrival, Row]]:
    """Each packet with the row that it came to."""
    proxy = Path(twin.kernel.node.steering.netns_path())
    weather = Scenes(dice, twin)
    for _ in range(scenes):
        weather.change()
        for program in dice.sample(IN_NODE, len(IN_NODE)):
            yield from _step(twin, weather.packets.draw(program))
        with enter_netns(proxy):
            for program in IN_PROXY:
                yield from _step(twin, weather.packets.draw(program))
        twin.check_tables()


def _step(twin: Twin, arrival: Arrival) -> Iterator[tuple[Arrival, Row]]:
    hairpins = len(twin.world.hairpins)
    outcome = twin.run(arrival)
    if arrival.program == "from_proxy" and len(twin.world.hairpins) < hairpins:
        yield arrival, Row("from_proxy", 3, "")
    yield arrival, Row(arrival.program, outcome.row, outcome.reason)


def _family(arrival: Arrival) -> str:
    """By the ethertype, or by the header behind another one."""
    return "IPv6" if arrival.frame[12:14] == b"\x86\xdd" or arrival.frame[14] >> 4 == 6 else "IPv4"
