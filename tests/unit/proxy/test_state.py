# SPDX-License-Identifier: Apache-2.0
"""What the agent says is applied in its order, in slices, and a resync removes what it does not name."""

import os
import time
import types
from collections.abc import Callable

import pytest

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.policy import Action, Policy, PolicyScope
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.traffic import WorkloadLabels
from nodeagent.model.workload import Service, Workload
from nodeagent.proxy import state
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import (
    Applied,
    Apply,
    Certificate,
    ForgetCertificate,
    FromWorker,
    LocalPods,
    Resync,
    WorkerConfig,
)
from nodeagent.proxy.state import State

A, B = Ip("10.0.0.1"), Ip("10.0.0.2")
WEB = Identity("cluster.local", "apps", "web")
_STEP_SECONDS = 0.0001


def workload(number: int, ip: Ip = A) -> Workload:
    return Workload(uid=f"w{number}", name=f"w{number}", namespace="apps", addresses=(ip,))


def policy(name: str) -> Policy:
    return Policy(name=name, namespace="apps", scope=PolicyScope.NAMESPACE, action=Action.DENY)


SERVICE = Service(name="s", namespace="apps", hostname="s.apps")


class Learner:
    def __init__(self, config: WorkerConfig) -> None:
        self.loop = Loop()
        self.answers: list[FromWorker] = []
        self.state = State(self.loop, config, self.answers.append)
        self.state.observers.append(self)
        self.changes = 0

    def state_changed(self) -> None:
        self.changes += 1

    def settle(self) -> int:
        """Turns until there is nothing left to apply."""
        turns = 0
        while self.loop._timers:
            self.loop.turn(0)
            turns += 1
        return turns


@pytest.fixture
def learner(config: WorkerConfig) -> Learner:
    return Learner(config)


def test_a_change_is_answered_when_its_last_piece_is_applied(learner: Learner) -> None:
    learner.state.submit(Apply(Changes(workloads=(workload(1),)), 7, is_last=False), [])
    learner.state.submit(Apply(Changes(workloads=(workload(2, B),)), 7, is_last=True), [])
    assert learner.state.mesh.workloads == {}
    learner.settle()
    assert set(learner.state.mesh.workloads) == {"w1", "w2"}
    assert learner.answers == [Applied(7)]
    assert learner.state.generation == 7
    assert learner.changes >= 1


def test_a_large_change_does_not_hold_up_the_loop(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn ends at its first look at the clock behind the slice; it looks every few values, of which each has its
    tenth of a millisecond here: how fast this machine is and what else it does are not what is tested."""
    now = 0.0

    def look() -> float:
        nonlocal now
        now += _STEP_SECONDS
        return now

    monkeypatch.setattr(state, "time", types.SimpleNamespace(monotonic=look))
    many = tuple(workload(number, Ip(f"10.1.{number >> 8}.{number & 255}")) for number in range(20000))
    learner.state.submit(Apply(Changes(workloads=many), 1, is_last=True), [])
    longest, known = 0, 0
    while learner.loop._timers:
        learner.loop.turn(0)
        longest = max(longest, len(learner.state.mesh.workloads) - known)
        known = len(learner.state.mesh.workloads)
    assert known == 20000
    assert 16 <= longest <= 16 * state._SLICE_SECONDS / _STEP_SECONDS


def test_local_pods_decide_who_is_found(learner: Learner) -> None:
    learner.state.submit(Apply(Changes(workloads=(workload(1),)), 1, is_last=True), [])
    learner.settle()
    assert learner.state.local_workload(A) is None
    assert not learner.state.is_complete
    learner.state.submit(LocalPods(frozenset({A})), [])
    learner.settle()
    assert learner.state.local_workload(A) == workload(1)
    assert learner.state.local_workload(B) is None
    assert learner.state.is_complete


def test_a_resync_removes_what_it_does_not_name(learner: Learner, config: WorkerConfig) -> None:
    before = Changes(
        policies=(policy("old"), policy("kept")),
        extensions=(WorkloadLabels(uid="w1", labels={}),),
        services=(SERVICE,),
        workloads=(workload(1), workload(2, B)),
        names=(ResolvedName(hostname="gone.example"), ResolvedName(hostname="kept.example", addresses=(A,))),
    )
    learner.state.submit(Apply(before, 1, is_last=True), [])
    learner.state.submit(Resync(config), [])
    kept = ResolvedName(hostname="kept.example", addresses=(B,))
    learner.state.submit(
        Apply(Changes(policies=(policy("kept"), policy("added")), names=(kept,)), 2, is_last=False), []
    )
    learner.state.submit(Apply(Changes(workloads=(workload(2, B),)), 2, is_last=True), [])
    learner.settle()
    mesh = learner.state.mesh
    assert set(mesh.policies) == {"apps/kept", "apps/added"}
    assert set(mesh.services) == set()
    assert set(mesh.extensions) == set()
    assert mesh.resolved == {"kept.example": kept}
    assert set(mesh.workloads) == {"w2"}
    assert learner.answers == [Applied(1), Applied(2)]
    learner.state.submit(Apply(Changes(workloads=(workload(3),)), 3, is_last=True), [])
    learner.settle()
    assert set(mesh.workloads) == {"w2", "w3"}


def test_until_a_resync_is_complete_nothing_is_removed(learner: Learner, config: WorkerConfig) -> None:
    """Its agent may die in the middle; the next one begins again."""
    learner.state.submit(Apply(Changes(workloads=(workload(1), workload(2, B))), 1, is_last=True), [])
    learner.state.submit(Resync(config), [])
    learner.state.submit(Apply(Changes(workloads=(workload(1),)), 2, is_last=False), [])
    learner.settle()
    assert set(learner.state.mesh.workloads) == {"w1", "w2"}
    learner.state.submit(Resync(config), [])
    learner.state.submit(Apply(Changes(workloads=(workload(2, B),)), 3, is_last=True), [])
    learner.settle()
    assert set(learner.state.mesh.workloads) == {"w2"}


def test_certificates_come_and_go_and_their_descriptors_are_closed(
    learner: Learner, authority: Callable[[], Callable[..., tuple[str, str]]]
) -> None:
    fds = [os.open(path, os.O_RDONLY) for path in authority()(str(WEB))]
    learner.state.submit(Certificate(WEB, "1", time.time() + 60), fds)
    learner.settle()
    assert list(learner.state.certificates.identities) == [WEB]
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    learner.state.submit(ForgetCertificate(WEB), [])
    learner.settle()
    assert list(learner.state.certificates.identities) == []


def test_a_message_that_breaks_is_dropped_and_the_next_one_applied(learner: Learner) -> None:
    broken = Changes(workloads=("no workload",))  # type: ignore[arg-type]
    learner.state.submit(Apply(broken, 1, is_last=True), [])
    learner.state.submit(LocalPods(frozenset({A})), [])
    learner.settle()
    assert learner.loop.bugs == 1
    assert learner.state.local == {A}
