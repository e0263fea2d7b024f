# SPDX-License-Identifier: Apache-2.0
"""No way around: every vector of tests/kernel/no_way_around, as real packets through real devices.

Held to all that it says: where the payload arrives and where not, which counters move and which not, what is answered.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest

from tests.kernel.namespaces import own_namespaces
from tests.kernel.no_way_around.frames import Frame
from tests.kernel.no_way_around.ground import Ground, on_one_processor
from tests.kernel.no_way_around.observe import Taps, answers, moved, without_settling
from tests.kernel.no_way_around.tables import TABLES
from tests.kernel.no_way_around.vector import Cast, Place, Vector, Way

pytestmark = pytest.mark.kernel

VECTORS = [
    pytest.param(vector, family, id=f"{family}: {table.title}: {vector.name}")
    for table in TABLES
    for vector in table.vectors
    for family in sorted(vector.families)
]
_serial = count(1)


class Stand:
    """A ground, its taps, and the cast in both families."""

    def __init__(self, ground: Ground, stack: contextlib.ExitStack) -> None:
        self.ground = ground
        self.taps = Taps(ground, stack)
        self.casts = {family: ground.cast(family) for family in ("IPv4", "IPv6")}


def _stand(folder: pytest.TempPathFactory, *, is_bridged: bool) -> Iterator[Stand]:
    with own_namespaces(), on_one_processor(), contextlib.ExitStack() as stack:
        ground = Ground(folder.mktemp("ground"), is_bridged=is_bridged)
        stack.callback(ground.close)
        stand = Stand(ground, stack)
        _await_silence(stand)
        yield stand


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    yield from _stand(tmp_path_factory, is_bridged=False)


@pytest.fixture(scope="module")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    yield from _stand(tmp_path_factory, is_bridged=True)


@pytest.mark.parametrize(("vector", "family"), VECTORS)
def test_a_vector(request: pytest.FixtureRequest, vector: Vector, family: str) -> None:
    stand = request.getfixturevalue("bridged" if vector.is_bridged else "routed")
    number = next(_serial)
    cast = replace(stand.casts[family], sender=vector.sender, port=20000 + number, marker=b"leak %08d" % number)
    made = vector.frames(cast)
    frames = made if isinstance(made, tuple) else (made,)

    came, counts = _attempt(stand, cast, vector, frames)

    told = {name: number for name, number in vector.counts.items() if number}
    arrived = {place for place, seen in came.items() if any(cast.marker in frame for frame in seen)}
    sender: Place = "proxy" if vector.sender == "worker" else vector.sender
    assert (counts, arrived) == (told, set(vector.arrives))
    assert answers(came[sender], frames[0]) == ({vector.answer} if vector.answer else set())


def _attempt(
    stand: Stand, cast: Cast, vector: Vector, frames: tuple[Frame, ...]
) -> tuple[dict[Place, list[bytes]], dict[str, int]]:
    for sender, make in vector.before:
        earlier = make(replace(cast, sender=sender, marker=b"before"))
        assert isinstance(earlier, Frame)
        stand.taps.send(earlier, replace(cast, sender=sender), Way())
        stand.taps.settle(cast)
    stand.taps.drain()
    before = stand.ground.steering.counters()
    for frame in frames:
        stand.taps.send(frame, cast, vector.by)
    came = stand.taps.settle(cast)
    return came, without_settling(moved(before, stand.ground.steering.counters()))


def _await_silence(stand: Stand) -> None:
    """Devices that came up tell their groups to routers that are not there, twice."""
    deadline = time.monotonic() + 120
    quiet_since = time.monotonic()
    former: Counter[str] = Counter()
    while time.monotonic() - quiet_since < 2:
        assert time.monotonic() < deadline, "it never becomes quiet"
        counters = Counter(stand.ground.steering.counters())
        if counters != former:
            former, quiet_since = counters, time.monotonic()
        time.sleep(0.05)
