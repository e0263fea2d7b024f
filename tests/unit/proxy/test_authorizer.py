# SPDX-License-Identifier: Apache-2.0
"""Open connections are judged again when policy changes, and cut when it denies them."""

from collections.abc import Callable, Iterator

import msgspec
import pytest

from nodeagent.model.address import Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.policy import Action, Clause, Match, MatchKind, Policy, PolicyScope, Rule, StringMatch
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction
from nodeagent.model.security import DryRun
from nodeagent.model.traffic import WorkloadLimits
from nodeagent.model.workload import Workload
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Pending, Verdict
from nodeagent.proxy.authorizer import Authorizer
from nodeagent.proxy.guard import ConnectionGuard, OpenConnections
from nodeagent.proxy.loop import Loop
from nodeagent.proxy.messages import Closed, Opened, WorkerConfig
from nodeagent.proxy.state import State

POD, PEER = Ip("10.0.0.1"), Ip("10.0.0.2")
WEB, DB = Identity("cluster.local", "apps", "web"), Identity("cluster.local", "apps", "db")
SERVER = Workload(uid="server", name="server", namespace="apps", addresses=(POD,))


def policy(action: Action, who: Identity, name: str = "rule") -> Policy:
    match = Match(principals=(StringMatch(MatchKind.EXACT, who.principal),))
    return Policy(
        name=name,
        namespace="apps",
        scope=PolicyScope.NAMESPACE,
        action=action,
        rules=(Rule((Clause((match,)),)),),
    )


class Judging:
    def __init__(self, config: WorkerConfig, now: Callable[[], float]) -> None:
        self.loop, self.emitted = Loop(), list[Opened | Closed]()
        self.state = State(self.loop, config, lambda _answer: None)
        self.connections = OpenConnections(self.emitted.append, now, lambda: 0.0)
        self.authorizer = Authorizer(self.loop, self.state, self.connections)
        self.state.local = frozenset({POD})
        self.state.mesh.apply(Changes(workloads=(SERVER,)))
        self.guards: list[ConnectionGuard] = []

    def judge(self, who: Identity | None, port: int = 80) -> Verdict:
        guard = self.connections.begin(Direction.INBOUND, (PEER, 40000), (POD, 15008))
        self.guards.append(guard)
        workload = self.state.local_workload(POD)
        assert workload is not None
        return self.authorizer.judge(guard, workload, ConnectionFacts(who, PEER, POD, Port(port)))

    def change(self, changes: Changes) -> None:
        """As the agent's message does, and then until everything was looked at."""
        self.state.mesh.apply(changes)
        self.review()

    def review(self) -> None:
        self.authorizer.state_changed()
        while self.loop._timers:
            self.loop.turn(0)

    @property
    def reasons(self) -> list[str]:
        return [guard.record.reason for guard in self.guards]

    def close(self) -> None:
        for guard in self.guards:
            guard.close(Reason.CLOSED)


@pytest.fixture
def judging(config: WorkerConfig, clock: Callable[[], float]) -> Iterator[Judging]:
    made = Judging(config, clock)
    yield made
    made.close()
    assert made.loop.bugs == 0
    assert len(made.emitted) == len(made.guards)


def test_a_verdict_is_the_evaluators(judging: Judging) -> None:
    assert judging.judge(WEB) == Allow(None)
    judging.change(Changes(policies=(policy(Action.ALLOW, WEB),)))
    assert judging.judge(WEB) == Allow("apps/rule")
    assert judging.guards[-1].record.policy == "apps/rule"
    assert judging.judge(DB) == Deny(None, Reason.POLICY_NOT_ALLOWED)
    named = msgspec.structs.replace(SERVER, policies=("apps/late",))
    judging.change(Changes(workloads=(named,)))
    assert judging.judge(WEB) == Pending(("apps/late",))


def test_a_change_cuts_exactly_what_it_denies(judging: Judging) -> None:
    judging.judge(WEB)
    judging.judge(DB)
    judging.judge(None)
    judging.change(Changes(policies=(policy(Action.DENY, DB),)))
    assert judging.reasons == ["", "policy_changed", ""]
    assert judging.guards[1].record.policy == "apps/rule"
    judging.change(Changes(policies=(policy(Action.ALLOW, DB, "only-db"),)))
    assert judging.reasons == ["policy_changed"] * 3


def test_what_was_never_allowed_is_not_judged_again(judging: Judging) -> None:
    """It is being refused, or held until its policy comes; either leaves its own reason."""
    judging.change(Changes(policies=(policy(Action.DENY, WEB),)))
    judging.judge(WEB)
    judging.change(Changes(policies=(policy(Action.DENY, DB),)))
    assert judging.reasons == [""]


def test_a_policy_that_is_missing_cuts_nothing_until_it_comes(judging: Judging) -> None:
    judging.judge(WEB)
    judging.change(Changes(workloads=(msgspec.structs.replace(SERVER, policies=("apps/late",)),)))
    assert judging.reasons == [""]
    late = msgspec.structs.replace(policy(Action.DENY, WEB, "late"), scope=PolicyScope.WORKLOAD_SELECTOR)
    judging.change(Changes(policies=(late,)))
    assert judging.reasons == ["policy_changed"]


def test_a_pod_that_leaves_takes_its_connections_along(judging: Judging) -> None:
    judging.judge(WEB)
    outbound = judging.connections.begin(Direction.OUTBOUND, (POD, 1), (PEER, 2))
    stranger = judging.connections.begin(Direction.OUTBOUND, (PEER, 1), (POD, 2))
    judging.guards += [outbound, stranger]
    judging.state.local = frozenset({PEER})
    judging.review()
    assert judging.reasons == ["pod_removed", "pod_removed", ""]


def test_a_change_during_a_review_is_reviewed_too(judging: Judging) -> None:
    for _ in range(3000):
        judging.judge(WEB)
    judging.state.mesh.apply(Changes(policies=(policy(Action.DENY, DB),)))
    judging.authorizer.state_changed()
    judging.loop.turn(0)
    judging.state.mesh.apply(Changes(policies=(policy(Action.DENY, WEB, "later"),)))
    judging.review()
    assert set(judging.reasons) == {"policy_changed"}


def test_one_that_breaks_does_not_save_the_others(judging: Judging, caplog: pytest.LogCaptureFixture) -> None:
    judging.judge(WEB)
    judging.judge(WEB)

    def fail(reason: Reason, error: str) -> None:
        raise ZeroDivisionError(reason, error)

    judging.guards[0].ender = fail
    judging.change(Changes(policies=(policy(Action.DENY, WEB),)))
    assert judging.reasons[1] == "policy_changed"
    assert judging.loop.bugs == 1
    assert "ZeroDivisionError" in caplog.text
    judging.loop.bugs = 0


def test_an_allowed_connection_that_is_one_too_many_of_its_source_is_refused(judging: Judging) -> None:
    """Whoever has a place holds it as long as the connection lives; a source without identity is its address."""
    judging.state.mesh.apply(Changes(extensions=(WorkloadLimits(uid="server", concurrent=1),)))
    outcomes: list[str] = []

    def settle(who: Identity | None) -> ConnectionGuard:
        guard = judging.connections.begin(Direction.INBOUND, (PEER, 40000), (POD, 15008))
        judging.guards.append(guard)
        facts = ConnectionFacts(who, PEER, POD, Port(80))
        refused = lambda reason: outcomes.append(reason.value)  # noqa: E731 - one line
        assert judging.authorizer.settle(guard, SERVER, facts, lambda: outcomes.append("allowed"), refused)
        return guard

    first = settle(WEB)
    settle(WEB)
    settle(DB)
    settle(None)
    settle(None)
    assert outcomes == ["allowed", "source_connections", "allowed", "allowed", "source_connections"]
    first.close(Reason.CLOSED)
    settle(WEB)
    assert outcomes[-1] == "allowed"


def test_a_dry_run_is_told_and_changes_nothing(judging: Judging) -> None:
    """Also of connections that are open when it comes, changes or goes."""
    tried = msgspec.structs.replace(policy(Action.DENY, DB, "try"), is_dry_run=True)
    judging.judge(DB)
    judging.change(Changes(extensions=(DryRun(policy=tried, namespace="apps"),)))
    assert judging.judge(WEB) == judging.judge(DB) == Allow(None)
    told = [
        (guard.record.dry_run, guard.record.dry_run_policy, guard.record.is_dry_run_other) for guard in judging.guards
    ]
    assert told == [("denied", "apps/try", True), ("allowed", "", False), ("denied", "apps/try", True)]
    judging.change(Changes(policies=(policy(Action.DENY, DB),)))
    assert judging.reasons == ["policy_changed", "", "policy_changed"]
    assert [guard.record.is_dry_run_other for guard in judging.guards] == [False] * 3
    judging.change(Changes(removed_extensions=("dry-run/apps/try",)))
    assert judging.guards[1].record.dry_run == ""


def test_a_refused_connection_tells_what_a_dry_run_would_let_in(judging: Judging) -> None:
    tried = msgspec.structs.replace(policy(Action.ALLOW, DB, "try"), is_dry_run=True)
    judging.change(Changes(policies=(policy(Action.ALLOW, WEB),), extensions=(DryRun(policy=tried),)))
    assert judging.judge(DB) == Deny(None, Reason.POLICY_NOT_ALLOWED)
    record = judging.guards[0].record
    assert (record.dry_run, record.dry_run_policy, record.is_dry_run_other) == ("allowed", "apps/try", True)
