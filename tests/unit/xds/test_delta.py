# SPDX-License-Identifier: Apache-2.0
"""The rules of delta.py's docstring, one by one, then a law: whatever happens, what is held is what the server has."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import Action, Policy, PolicyScope
from nodeagent.model.traffic import Extension, ServiceTraffic, Subset
from nodeagent.model.workload import Service, Workload
from nodeagent.xds.delta import (
    MAX_REASON_TEXT,
    Abandon,
    Acknowledge,
    Answer,
    Apply,
    Command,
    Delta,
    Kind,
    LastGood,
    Refuse,
    Rejected,
    Resource,
    Subscribe,
    Value,
)

A, P, E = Kind.ADDRESS, Kind.AUTHORIZATION, Kind.EXTENSION


def workload(name: str, revision: str = "") -> Workload:
    return Workload(uid=name, name=name, namespace="shop", canonical_revision=revision)


def service(name: str) -> Service:
    return Service(name=name, namespace="shop", hostname=name)


def policy(name: str, action: Action = Action.ALLOW) -> Policy:
    return Policy(name=name, namespace="shop", scope=PolicyScope.NAMESPACE, action=action)


def resource(value: Value, version: str = "1") -> Resource:
    if isinstance(value, Extension):
        return Resource(value.name, version, value)
    return Resource(value.uid if isinstance(value, Workload) else value.key, version, value)


ROUTES = ServiceTraffic(service="shop/cart", subsets=(Subset("v1", {"version": "v1"}),))
WEB, DB, CART, ALLOW, DENY = workload("web"), workload("db"), service("cart"), policy("allow"), policy("deny")


def held(*values: Value) -> LastGood:
    delta = Delta()
    delta.stream_opened()
    delta.answered(answer(A, *(value for value in values if not isinstance(value, Policy))))
    delta.answered(answer(P, *(value for value in values if isinstance(value, Policy))))
    return delta.last_good()


def answer(kind: Kind, *values: Value, removed: Iterable[str] = ()) -> Answer:
    return Answer(kind, f"nonce-{kind.name}", tuple(resource(value) for value in values), removed=tuple(removed))


def ack(kind: Kind) -> Acknowledge:
    return Acknowledge(kind, f"nonce-{kind.name}")


def resumed(*values: Value) -> Delta:
    delta = Delta()
    delta.restored(held(*values))
    delta.stream_opened()
    return delta


# ---- one stream ---------------------------------------------------------------------------------------------------


def test_a_new_client_subscribes_to_every_type_and_holds_nothing() -> None:
    """Extensions first: a control plane that has any tells them before what they are about."""
    assert Delta().stream_opened() == [Subscribe(E, {}), Subscribe(A, {}), Subscribe(P, {})]


def test_what_is_held_is_told_with_its_versions_when_the_stream_is_resumed() -> None:
    delta = Delta()
    delta.stream_opened()
    delta.answered(Answer(A, "1", (resource(WEB, "v7"), resource(CART, "v8"))))
    delta.answered(Answer(P, "2", (resource(ALLOW, ""),)))
    delta.answered(Answer(E, "3", (resource(ROUTES, "v9"),)))

    assert delta.stream_opened() == [
        Subscribe(E, {"service/shop/cart": "v9"}),
        Subscribe(A, {"web": "v7", "shop/cart": "v8"}),
        Subscribe(P, {"shop/allow": ""}),
    ]


def test_an_answer_is_applied_before_it_is_acknowledged() -> None:
    delta = Delta()
    delta.stream_opened()

    assert delta.answered(answer(A, WEB, CART)) == [Apply(Changes(services=(CART,), workloads=(WEB,))), ack(A)]
    assert delta.answered(answer(P, ALLOW)) == [Apply(Changes(policies=(ALLOW,))), ack(P)]


def test_synced_after_an_acknowledged_answer_of_each_type_even_an_empty_one() -> None:
    delta = Delta()
    delta.stream_opened()
    seen = [delta.is_synced]
    for kind in Kind:
        assert delta.answered(answer(kind)) == [ack(kind)]
        seen.append(delta.is_synced)
    delta.stream_opened()

    assert [*seen, delta.is_synced] == [False, False, False, True, True]


def test_an_istiod_that_does_not_answer_about_extensions_is_enough() -> None:
    delta = Delta()
    delta.stream_opened()
    delta.answered(answer(A, WEB))
    delta.answered(answer(P))

    assert delta.is_synced


def test_who_ends_the_stream_over_extensions_is_asked_without_them_once() -> None:
    delta = Delta()
    delta.stream_opened()
    assert delta.extensions_refused()
    assert delta.stream_opened() == [Subscribe(A, {}), Subscribe(P, {})]
    assert not delta.extensions_refused(), "they were not asked for, so it must be something else"
    assert delta.stream_opened()[0] == Subscribe(E, {})
    delta.answered(answer(E))
    assert not delta.extensions_refused(), "they were answered"


def test_extensions_come_and_go_as_changes() -> None:
    delta = Delta()
    delta.stream_opened()

    assert delta.answered(answer(E, ROUTES)) == [Apply(Changes(extensions=(ROUTES,))), ack(E)]
    gone = delta.answered(answer(E, removed=["service/shop/cart"]))
    assert gone == [Apply(Changes(removed_extensions=("service/shop/cart",))), ack(E)]


def test_a_refused_answer_does_not_sync() -> None:
    delta = Delta()
    delta.stream_opened()
    delta.answered(answer(P))
    delta.answered(Answer(A, "n", rejected=(Rejected("web", "bad"),)))
    was_synced = delta.is_synced
    delta.answered(answer(A))

    assert (was_synced, delta.is_synced) == (False, True)


def test_bad_resources_are_refused_by_name_good_ones_applied_and_the_old_kept() -> None:
    delta = resumed(WEB, DB)
    newer = workload("db", "v2")

    commands = delta.answered(
        Answer(A, "n", (resource(newer, "2"),), (Rejected("web", "port 0"), Rejected("x", "cannot be parsed")))
    )

    assert commands == [Apply(Changes(workloads=(newer,))), Refuse(A, "n", "web: port 0; x: cannot be parsed")]
    assert delta.stream_opened()[1] == Subscribe(A, {"web": "1", "db": "2"})


def test_a_long_refusal_is_cut_at_a_whole_reason() -> None:
    delta = Delta()
    delta.stream_opened()
    rejected = tuple(Rejected(f"workload-{number}", "r" * 100) for number in range(100))

    (command,) = delta.answered(Answer(A, "n", rejected=rejected))

    assert isinstance(command, Refuse)
    assert len(command.reason) < MAX_REASON_TEXT + 100
    shown = command.reason.count("workload-")
    assert command.reason.endswith(f"r; and {100 - shown} more")


def test_a_removal_finds_workload_or_service_by_its_name() -> None:
    delta = resumed(WEB, DB, CART)

    assert delta.answered(answer(A, removed=["shop/cart", "web", "never-heard-of"])) == [
        Apply(Changes(removed_services=("shop/cart",), removed_workloads=("web",))),
        ack(A),
    ]


def test_a_policy_is_removed_by_its_name() -> None:
    delta = resumed(WEB, ALLOW, DENY)

    assert delta.answered(answer(P, removed=["shop/deny"])) == [
        Apply(Changes(removed_policies=("shop/deny",))),
        ack(P),
    ]


def test_a_name_that_was_a_service_may_become_a_workload() -> None:
    delta = resumed(WEB, CART)
    odd = workload("shop/cart")

    assert delta.answered(answer(A, odd)) == [
        Apply(Changes(workloads=(odd,), removed_services=("shop/cart",))),
        ack(A),
    ]


def test_what_is_repeated_unchanged_is_no_change() -> None:
    delta = resumed(WEB, ALLOW)

    assert delta.answered(answer(P, policy("allow"))) == [ack(P)]
    assert delta.answered(Answer(A, "n", (resource(WEB, "another version"),))) == [Acknowledge(A, "n")]
    assert delta.stream_opened()[1] == Subscribe(A, {"web": "another version"})


@pytest.mark.parametrize(
    ("contradiction", "reason"),
    [
        pytest.param(answer(A, workload("web", "2"), DB, removed=["web"]), "sent and removed", id="sent and removed"),
        pytest.param(answer(A, workload("web", "2"), DB, workload("web", "3")), "sent twice", id="sent twice"),
    ],
)
def test_a_name_that_contradicts_itself_is_refused_and_the_rest_applied(contradiction: Answer, reason: str) -> None:
    delta = resumed(WEB)

    commands = delta.answered(contradiction)

    assert commands == [
        Apply(Changes(workloads=(DB,))),
        Refuse(A, contradiction.nonce, f"web: {reason} in one response"),
    ]
    assert WEB in delta.last_good().everything.workloads


# ---- an empty first answer ----------------------------------------------------------------------------------------


def test_an_empty_first_answer_without_removals_means_unchanged() -> None:
    delta = resumed(WEB, ALLOW)

    assert delta.answered(answer(A)) == [ack(A)]
    assert delta.answered(answer(P)) == [ack(P)]
    assert delta.last_good() == held(WEB, ALLOW)


def test_a_first_answer_that_removes_every_address_is_refused_and_the_stream_abandoned() -> None:
    delta = resumed(WEB, CART, ALLOW)

    refuse, abandon = delta.answered(answer(A, removed=["web", "shop/cart"]))

    assert isinstance(refuse, Refuse)
    assert refuse.nonce == "nonce-ADDRESS"
    assert "all 2 addresses" in refuse.reason
    assert abandon == Abandon(refuse.reason)
    assert not delta.is_synced
    # The next stream asks for the difference to the same state.
    assert delta.stream_opened() == [
        Subscribe(E, {}),
        Subscribe(A, {"web": "1", "shop/cart": "1"}),
        Subscribe(P, {"shop/allow": "1"}),
    ]


def test_it_is_refused_too_when_all_that_replaces_it_is_unusable() -> None:
    delta = resumed(WEB)

    commands = delta.answered(Answer(A, "n", rejected=(Rejected("db", "bad"),), removed=("web",)))

    assert isinstance(commands[-1], Abandon)


def test_a_first_answer_that_replaces_every_address_is_believed() -> None:
    delta = resumed(WEB)

    assert delta.answered(answer(A, DB, removed=["web"])) == [
        Apply(Changes(workloads=(DB,), removed_workloads=("web",))),
        ack(A),
    ]


def test_removing_everything_later_on_the_same_stream_is_believed() -> None:
    delta = resumed(WEB)
    delta.answered(answer(A))

    assert delta.answered(answer(A, removed=["web"])) == [Apply(Changes(removed_workloads=("web",))), ack(A)]


def test_the_last_policy_may_be_removed_while_we_were_away() -> None:
    delta = resumed(WEB, ALLOW)
    delta.answered(answer(A))

    assert delta.answered(answer(P, removed=["shop/allow"])) == [
        Apply(Changes(removed_policies=("shop/allow",))),
        ack(P),
    ]


def test_removing_every_policy_waits_for_the_judgement_about_the_addresses() -> None:
    delta = resumed(WEB, ALLOW)
    assert delta.answered(answer(P, removed=["shop/allow"])) == []
    assert delta.answered(Answer(P, "later", (resource(DENY),))) == []

    assert delta.answered(answer(A)) == [
        ack(A),
        Apply(Changes(removed_policies=("shop/allow",))),
        ack(P),
        Apply(Changes(policies=(DENY,))),
        Acknowledge(P, "later"),
    ]


def test_a_control_plane_that_came_up_empty_removes_no_policy_either() -> None:
    delta = resumed(WEB, ALLOW)

    assert delta.answered(answer(P, removed=["shop/allow"])) == []
    assert isinstance(delta.answered(answer(A, removed=["web"]))[-1], Abandon)
    assert delta.last_good() == held(WEB, ALLOW)
    # What waited belonged to that stream.
    delta.stream_opened()
    assert delta.answered(answer(A)) == [ack(A)]


def test_without_addresses_there_is_nothing_to_judge_by() -> None:
    delta = resumed(ALLOW)

    assert delta.answered(answer(P, removed=["shop/allow"])) == [
        Apply(Changes(removed_policies=("shop/allow",))),
        ack(P),
    ]


# ---- restart ------------------------------------------------------------------------------------------------------


def test_what_was_saved_is_what_is_restored() -> None:
    delta = Delta()
    delta.stream_opened()
    delta.answered(Answer(A, "1", (resource(WEB, "v7"), resource(CART, "v8"))))
    delta.answered(Answer(P, "2", (resource(policy("cart"), "v9"),)))
    delta.answered(Answer(E, "3", (resource(ROUTES, "v3"),)))
    saved = delta.last_good()

    successor = Delta()
    successor.restored(saved)

    assert successor.last_good() == saved
    assert not successor.is_synced
    # A service and a policy may have the same name, and different versions.
    assert successor.stream_opened() == [
        Subscribe(E, {"service/shop/cart": "v3"}),
        Subscribe(A, {"web": "v7", "shop/cart": "v8"}),
        Subscribe(P, {"shop/cart": "v9"}),
    ]
    assert (successor.count(A), successor.count(P)) == (2, 1)


# ---- the law ------------------------------------------------------------------------------------------------------


class Server:
    """A control plane in a few lines: what it has, what it has told the client on this stream."""

    def __init__(self) -> None:
        self.now: dict[Kind, dict[str, Resource]] = {kind: {} for kind in Kind}
        self.told: dict[Kind, dict[str, Resource | None]] = {kind: {} for kind in Kind}
        self.version = 0

    def next_version(self) -> str:
        self.version += 1
        return str(self.version)

    def subscribed(self, command: Subscribe) -> Answer:
        self.told[command.kind] = dict.fromkeys(command.versions)
        unchanged = {
            name
            for name, version in command.versions.items()
            if name in self.now[command.kind] and self.now[command.kind][name].version == version != ""
        }
        for name in unchanged:
            self.told[command.kind][name] = self.now[command.kind][name]
        return self.difference(command.kind)

    def difference(self, kind: Kind) -> Answer:
        now, told = self.now[kind], self.told[kind]
        sent = tuple(one for name, one in now.items() if told.get(name) != one)
        removed = tuple(name for name in told if name not in now)
        self.told[kind] = dict(now)
        return Answer(kind, f"{kind.name}-{self.version}", sent, removed=removed)


NAMES = st.sampled_from(["a", "b", "c"])
ORDERS = st.permutations(list(Kind))


class WhateverHappens(RuleBasedStateMachine):
    """Changes, pushes, reconnects, restarts of the agent from disk, and a control plane that comes up empty."""

    def __init__(self) -> None:
        super().__init__()
        self.server, self.delta, self.mesh = Server(), Delta(), Mesh()
        self.converse(Kind)

    @rule(name=NAMES)
    def workload_changes(self, name: str) -> None:
        version = self.server.next_version()
        self.server.now[A][name] = Resource(name, version, workload(name, version))

    @rule(name=NAMES)
    def service_appears(self, name: str) -> None:
        self.server.now[A][f"shop/{name}"] = Resource(f"shop/{name}", self.server.next_version(), service(name))

    @rule(name=NAMES, action=st.sampled_from(Action))
    def policy_changes(self, name: str, action: Action) -> None:
        self.server.now[P][f"shop/{name}"] = Resource(f"shop/{name}", "", policy(name, action))

    @rule(name=NAMES)
    def routes_change(self, name: str) -> None:
        version = self.server.next_version()
        traffic = ServiceTraffic(service=f"shop/{name}", subsets=(Subset(version),))
        self.server.now[E][traffic.name] = Resource(traffic.name, version, traffic)

    @rule(name=NAMES)
    def removed(self, name: str) -> None:
        for kind in Kind:
            self.server.now[kind].pop(name, None)
            self.server.now[kind].pop(f"shop/{name}", None)
            self.server.now[kind].pop(f"service/shop/{name}", None)

    @rule(order=ORDERS)
    def pushed(self, order: Sequence[Kind]) -> None:
        if self.is_followed:
            for kind in order:
                assert self.do(self.delta.answered(self.server.difference(kind)))
            self.require_equality()

    @rule(order=ORDERS)
    def reconnected(self, order: Sequence[Kind]) -> None:
        self.converse(order)

    @rule(order=ORDERS)
    def restarted(self, order: Sequence[Kind]) -> None:
        saved, self.delta, self.mesh = self.delta.last_good(), Delta(), Mesh()
        self.delta.restored(saved)
        self.mesh.apply(saved.everything)
        self.converse(order)

    @rule(order=ORDERS)
    def control_plane_came_up_empty(self, order: Sequence[Kind]) -> None:
        before, full = self.delta.last_good(), self.server
        self.server = Server()
        self.converse(order)
        if before.address_versions:
            assert self.delta.last_good() == before
        self.server = full
        self.converse(order)

    @invariant()
    def the_agent_has_been_told_what_is_held(self) -> None:
        assert _texts(_values(self.mesh.everything())) == _texts(_values(self.delta.last_good().everything))

    def teardown(self) -> None:
        # A mesh that was emptied while we were away is kept, see delta.py; one address and it is known to be meant.
        self.server.now[A]["last"] = Resource("last", self.server.next_version(), workload("last"))
        self.converse(Kind)
        assert self.is_followed
        assert self.delta.is_synced
        self.the_agent_has_been_told_what_is_held()

    def converse(self, order: Iterable[Kind]) -> None:
        """A new stream and its first answers."""
        subscriptions = {one.kind: one for one in self.delta.stream_opened() if isinstance(one, Subscribe)}
        answers = [self.server.subscribed(subscriptions[kind]) for kind in order]
        self.is_followed = all(self.do(self.delta.answered(one)) for one in answers)
        if self.is_followed:
            self.require_equality()

    def require_equality(self) -> None:
        wanted = [one.value for kind in Kind for one in self.server.now[kind].values()]
        assert _texts(_values(self.delta.last_good().everything)) == _texts(wanted)

    def do(self, commands: list[Command]) -> bool:
        """Whether the stream goes on."""
        for command in commands:
            if isinstance(command, Apply):
                self.mesh.apply(command.changes)
        refused = any(isinstance(command, Refuse) for command in commands)
        abandoned = any(isinstance(command, Abandon) for command in commands)
        assert refused == abandoned  # this server sends nothing else to refuse
        return not abandoned


TestWhateverHappens = WhateverHappens.TestCase
TestWhateverHappens.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def _values(everything: Changes) -> list[object]:
    return [*everything.workloads, *everything.services, *everything.policies, *everything.extensions]


def _texts(values: list[object] | list[Value]) -> list[str]:
    return sorted(map(repr, values))
