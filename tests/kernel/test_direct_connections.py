# SPDX-License-Identifier: Apache-2.0
"""Direct connections over time: revoked, adopted, and addresses that pass to another pod, which inherits none of them.

On the ground of the vectors (tests/kernel/no_way_around): packets as an attacker writes them, taps at every place.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from nodeagent.kernel.netns import MNT_DETACH, unmount
from tests.kernel.conftest import Pod
from tests.kernel.namespaces import make_namespace, own_namespaces, run
from tests.kernel.no_way_around.frames import ACK, FIN, RST, SYN, Frame
from tests.kernel.no_way_around.ground import EXCLUDED, KNOWN, Ground, on_one_processor
from tests.kernel.no_way_around.observe import Taps, answers
from tests.kernel.no_way_around.vector import ALLOWED_PORT, Cast, Place, Way

pytestmark = pytest.mark.kernel


class Stand:
    def __init__(self, ground: Ground, taps: Taps, cast: Cast) -> None:
        self.ground, self.taps, self.cast = ground, taps, cast
        self._sent = 0

    def send(
        self, sender: Literal["a", "b", "worker"], frame: Frame
    ) -> tuple[set[str], set[Place], dict[Place, list[bytes]]]:
        """Which counters moved but for UDP's, where the payload came, and all that came."""
        self._sent += 1
        marked = replace(frame, payload=b"leak %08d" % self._sent)
        self.taps.drain()
        before = self.ground.steering.counters()
        self.taps.send(marked, replace(self.cast, sender=sender), Way())
        came = self.taps.settle(self.cast)
        counters = self.ground.steering.counters()
        moved = {name for name in counters if counters[name] != before[name] and name not in {"NOT_TCP", "NOT_IP"}}
        return moved, {place for place, seen in came.items() if any(marked.payload in one for one in seen)}, came

    def there(self, flags: int, port: int = ALLOWED_PORT) -> Frame:
        """From a to b."""
        return replace(self.cast, sender="a").frame(flags, self.cast.neighbour, destination_port=port)

    def back(self, flags: int, port: int = ALLOWED_PORT) -> Frame:
        own = replace(self.cast, sender="b")
        return own.frame(flags, self.cast.pod, source_port=port, destination_port=self.cast.port)


@pytest.fixture(params=["IPv4", "IPv6"])
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stand]:
    with own_namespaces(), on_one_processor(), contextlib.ExitStack() as stack:
        ground = Ground(tmp_path, is_bridged=False)
        stack.callback(ground.close)
        yield Stand(ground, Taps(ground, stack), ground.cast(request.param))


def test_a_revoked_connection_is_reset_at_either_end_and_nothing_arrives(stand: Stand) -> None:
    assert stand.send("a", stand.there(SYN))[:2] == ({"LOCAL_ALLOWED", "LOCAL_DELIVERED"}, {"b"})
    assert stand.send("b", stand.back(ACK))[:2] == ({"LOCAL_FLOW", "LOCAL_DELIVERED"}, {"a"})
    stand.ground.steering.put_verdicts([])
    for frame in (stand.there(ACK), stand.there(FIN | ACK)):
        moved, arrived, came = stand.send("a", frame)
        assert (moved, arrived) == ({"REVOKED", "ASSIGNED_OUTBOUND", "INTO_POD"}, {"proxy"})
        assert answers(came["a"], frame) == {"reset"}
    moved, arrived, came = stand.send("b", stand.back(ACK))
    assert (moved, arrived) == ({"REVOKED", "ASSIGNED_OUTBOUND", "INTO_POD"}, {"proxy"})
    assert answers(came["b"], stand.back(ACK)) == {"reset"}
    assert stand.send("a", stand.there(RST))[:2] == ({"REVOKED", "NOBODYS_RESET"}, {"proxy"})
    assert stand.send("a", stand.there(SYN))[0] >= {"LOCAL_STEERED"}
    assert stand.send("a", stand.there(ACK))[0] & {"LOCAL_FLOW", "ADOPTED"} == set()


@pytest.mark.parametrize("same_index", [True, False], ids=["same ifindex", "another ifindex"])
def test_a_pod_that_inherits_an_address_inherits_no_direct_connection(stand: Stand, *, same_index: bool) -> None:
    """Neither do its peers reach it by the old pod's connections, nor does it reach them."""
    assert stand.send("a", stand.there(SYN))[1] == {"b"}
    number = {pod.name: pod.number for pod in stand.ground.steering.pods()}["b"]
    _replace_b(stand, same_index=same_index)
    assert {pod.name: pod.number for pod in stand.ground.steering.pods()}["heir"] != number
    assert _outcome(stand.send("a", stand.there(ACK))) == ("UNKNOWN_FLOW", {"proxy"})
    for flags in (ACK, SYN | ACK):
        assert _outcome(stand.send("b", stand.back(flags))) == ("UNKNOWN_FLOW", {"proxy"})
    assert stand.send("a", stand.there(SYN))[1] == {"proxy"}, "the old pod's verdicts are not the heir's"


def test_a_connection_that_was_adopted_is_not_inherited(stand: Stand) -> None:
    stand.ground.capture(adoption_seconds=60)
    assert stand.send("b", stand.back(ACK, port=90))[:2] == ({"ADOPTED", "LOCAL_DELIVERED"}, {"a"})
    remote = replace(stand.cast, sender="b").frame(ACK, stand.cast.remote)
    assert stand.send("b", remote)[:2] == ({"ADOPTED"}, {"wire"})
    _replace_b(stand, same_index=True)
    for frame in (stand.back(ACK, port=90), replace(remote, from_mac=stand.cast.macs["b"])):
        assert _outcome(stand.send("b", frame)) == ("UNKNOWN_FLOW", {"proxy"})


def test_the_window_of_adoption_takes_running_connections_and_nothing_else(stand: Stand) -> None:
    def to_the_mesh(flags: int, port: int) -> Frame:
        return replace(stand.cast, sender="a").frame(flags, stand.cast.remote, source_port=port)

    stand.ground.capture(adoption_seconds=60)
    assert stand.send("a", to_the_mesh(ACK, 1001))[:2] == ({"ADOPTED"}, {"wire"})
    assert stand.send("a", to_the_mesh(RST, 1002))[:2] == ({"UNKNOWN_FLOW", "NOBODYS_RESET"}, {"proxy"})
    assert stand.send("a", to_the_mesh(SYN, 1003))[1] == {"proxy"}
    assert stand.send("a", to_the_mesh(ACK, 1003))[1] == {"proxy"}, "the proxy had it"
    stand.ground.capture(adoption_seconds=0)
    assert stand.send("a", to_the_mesh(ACK, 1001))[1] == {"proxy"}, "who leaves the mesh leaves its connections"
    assert stand.send("a", to_the_mesh(ACK, 1004))[:2] == (
        {"UNKNOWN_FLOW", "ASSIGNED_OUTBOUND", "INTO_POD"},
        {"proxy"},
    )


def test_a_deleted_pods_address_is_nobodys(stand: Stand) -> None:
    """Its device's index has passed to a pod outside the mesh that has its address: the proxy reaches nobody there."""
    _replace_b(stand, same_index=True, enrolled=False)
    worker = replace(stand.cast, sender="worker")
    moved, arrived, _ = stand.send("worker", worker.frame(SYN, stand.cast.neighbour, source=stand.cast.outside))
    assert (moved, arrived) == ({"FOREIGN_SOURCE"}, set())
    moved, arrived, _ = stand.send("worker", worker.frame(SYN, stand.cast.remote, source=stand.cast.neighbour))
    assert (moved, arrived) == ({"FOREIGN_SOURCE"}, set())


def _outcome(sent: tuple[set[str], set[Place], dict[Place, list[bytes]]]) -> tuple[str, set[Place]]:
    """What from_pod said; it moves one counter of its own for a packet."""
    moved, arrived, _ = sent
    assert len(moved - {"ASSIGNED_OUTBOUND", "INTO_POD"}) == 1, sorted(moved)
    (why,) = moved - {"ASSIGNED_OUTBOUND", "INTO_POD"}
    return why, arrived


def _replace_b(stand: Stand, *, same_index: bool, enrolled: bool = True) -> None:
    """Pod b is deleted; another pod has its addresses at once, and the agent has seen both."""
    ground = stand.ground
    index = ground.ifindex(ground.b)
    unmount(ground.b.netns, MNT_DETACH)
    run(f"ip link del {ground.b.device}")
    heir = Pod("heir", make_namespace(ground.run_dir / "na-t-heir"), ground.b.addresses)
    ground.plug(heir, index if same_index else 0)
    ground.b = heir
    own = tuple(map(str, heir.addresses))
    ground.enrol(ground.a, *((heir,) if enrolled else ()), known=(*KNOWN, *own), excluded=EXCLUDED)
    stand.cast = ground.cast("IPv6" if stand.cast.is_ipv6 else "IPv4")
    stand.taps.look_again()
