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
from tests.kernel.proof.model import PASS
from tests.kernel.proof.recording import Recorder, load_recording, open_product
from tests.kernel.proof.scenes import Scenes
from tests.kernel.proof.truth_tables import Row, all_rows
from tests.kernel.proof.twin import Arrival, Twin

pytestmark = [pytest.mark.kernel, pytest.mark.any_kernel, pytest.mark.timeout(600)]  # seconds; 5 do on an idle machine

IN_NODE = ("from_pod",) * 32 + ("to_pod",) * 18 + ("from_proxy",) * 16
IN_PROXY = ("at_proxy",) * 14
OF_SCENE = len(IN_NODE) + len(IN_PROXY)


SEEDS = range(5)
PACKETS = 20_000


@pytest.fixture(scope="module")
def recorder(prepared: Kernel) -> Iterator[Recorder]:
    with closing(load_recording(prepared.node.bpffs)) as made:
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_random_packets_get_the_verdict_of_the_model(kernel: Kernel, recorder: Recorder, seed: int) -> None:
    reached: Counter[tuple[Row, str]] = Counter()
    with closing(Twin(kernel, recorder)) as twin:
        for arrival, row in _play(twin, random.Random(seed), PACKETS):
            reached[row, _family(arrival)] += 1
    missed = [(row, family) for row in all_rows() for family in row.families if not reached[row, family]]
    assert missed == [], "the packets did not come to these rows"


def test_the_products_own_build_agrees_as_far_as_it_shows(kernel: Kernel) -> None:
    with (
        closing(open_product(kernel.node.bpffs)) as programs,
        closing(Twin(kernel, programs, shows_decisions=False)) as twin,
    ):
        assert sum(1 for _ in _play(twin, random.Random(len(SEEDS)), PACKETS // 5)) >= PACKETS // 5


def test_what_passes_twice_is_judged_as_if_once(kernel: Kernel, recorder: Recorder) -> None:
    """As while programs change their kind of attachment, when a packet meets both."""
    twice = 0
    with closing(Twin(kernel, recorder)) as twin:
        weather = Scenes(random.Random(len(SEEDS)), twin)
        for number in range(PACKETS // 10):
            if number % OF_SCENE == 0:
                weather.change()
            arrival = weather.packets.draw(("from_pod", "to_pod")[number % 2])
            first = twin.run(arrival)
            if first.verdict != PASS:
                continue
            twice += 1
            again = twin.run(arrival._replace(mark=first.mark, frame=first.frame))
            assert again[2:] == first[2:], twin.explain(arrival, again)
        twin.check_tables()
    assert twice > PACKETS // 50


def _play(twin: Twin, dice: random.Random, packets: int) -> Iterator[tuple[Arrival, Row]]:
    """Each packet with the row that it came to."""
    proxy = Path(twin.kernel.node.steering.netns_path())
    weather = Scenes(dice, twin)
    for _ in range(packets // OF_SCENE):
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
