# SPDX-License-Identifier: Apache-2.0
"""What a client wants and has: whole or by name, changes of mind, limits; and that a change costs what it is worth."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.controlplane import subscription as module
from nodeagent.controlplane.encode import Resource
from nodeagent.controlplane.snapshot import Snapshot
from nodeagent.controlplane.subscription import Subscription, TooMuchAsked
from nodeagent.proto import xds_pb2

OTHER = "type.googleapis.com/example.Other"


def snapshot_of(generation: int, *names: str, history: tuple[set[str], ...] = ()) -> Snapshot:
    """Resources of type OTHER by name; a name with `=` has its version behind it."""
    found = {name: Resource(name, version or "1", b"") for name, _, version in (text.partition("=") for text in names)}
    return Snapshot(generation, resources={OTHER: found}, history=tuple({OTHER: frozenset(step)} for step in history))


def asking(
    subscribe: tuple[str, ...] = (), unsubscribe: tuple[str, ...] = (), held: Mapping[str, str] | None = None
) -> xds_pb2.DeltaDiscoveryRequest:
    return xds_pb2.DeltaDiscoveryRequest(
        type_url=OTHER,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        initial_resource_versions=held or {},
    )


Ask = xds_pb2.DeltaDiscoveryRequest
Told = tuple[list[str], list[str]] | None


@pytest.mark.parametrize(
    ("requests", "told"),
    [
        pytest.param([asking()], (["a", "b"], []), id="no names: everything"),
        pytest.param([asking(("*",))], (["a", "b"], []), id="`*`: everything"),
        pytest.param([asking(("*",), ("*",))], ([], []), id="`*` and given back at once: nothing"),
        pytest.param([asking(("b",))], (["b"], []), id="a name: that one"),
        pytest.param([asking(("x",))], ([], ["x"]), id="a name of nothing is answered as removed"),
        pytest.param([asking(held={"a": "1", "b": "1"})], ([], []), id="resume: nothing changed"),
        pytest.param([asking(held={"a": "0", "c": "1"})], (["a", "b"], ["c"]), id="resume: changed, missed and gone"),
        pytest.param([asking(("*",), ("*",), {"a": "1"})], ([], []), id="resume by names: goes on asking for them"),
        pytest.param([asking(("*",), ("*",), {"a": "0", "c": "1"})], (["a"], ["c"]), id="resume by names: changes"),
        pytest.param(
            [asking(("*", "b"), held={"a": "1", "b": "1"})], (["b"], []), id="whole, and a name is sent again"
        ),
        pytest.param([asking(), None, asking(("a",))], (["a"], []), id="a name later, though it is held"),
        pytest.param([asking(), None, asking((), ("*",))], ([], ["a", "b"]), id="`*` given back: all is taken away"),
        pytest.param([asking(), None, asking(("a",), ("*",))], (["a"], ["b"]), id="`*` given back, one kept by name"),
        pytest.param([asking(("a",)), None, asking(("*",))], (["b"], []), id="`*` later: the rest"),
        pytest.param([asking(("a", "b")), None, asking((), ("a",))], ([], ["a"]), id="a name given back"),
        pytest.param([asking(("a",)), None, asking(("b",), ("b",))], None, id="a name asked and given back: nothing"),
        pytest.param(
            [asking(), None, asking((), ("*",)), None, asking(("*",))], (["a", "b"], []), id="`*` away and back"
        ),
        pytest.param([asking(), None, asking()], None, id="an acknowledgement calls for nothing"),
    ],
)
def test_a_rule(requests: list[Ask | None], told: Told) -> None:
    """None between two requests: what was due until then has been sent."""
    snapshot = snapshot_of(1, "a", "b")
    first, *others = requests
    assert first is not None
    subscription = Subscription("node-a", first)
    for request in others:
        if request is None:
            subscription.compare(snapshot)
        else:
            subscription.asked(request)
    change = subscription.compare(snapshot)
    if told is None:
        assert not change
    else:
        assert ([resource.name for resource in change.upserts], list(change.removals)) == told
        assert change
    assert not subscription.compare(snapshot)


def test_the_first_answer_is_due_even_when_it_is_empty() -> None:
    subscription = Subscription("node-a", asking())
    change = subscription.compare(snapshot_of(1))
    assert (change.is_first, list(change.upserts), bool(change)) == (True, [], True)


def test_clients_of_a_whole_type_share_what_they_have() -> None:
    snapshot = snapshot_of(1, *(f"r{number}" for number in range(1000)))
    clients = [Subscription("node-a", asking()) for _ in range(2)]
    for client in clients:
        client.compare(snapshot)
    assert [client.held for client in clients] == [1000, 1000]
    assert {id(client._has_all_of) for client in clients} == {id(snapshot.of_type(OTHER))}
    changed = Subscription("node-a", asking(("*",), ("*",), {"a": "1"}))
    assert changed.held == 1


class Watched(dict[str, Resource]):
    """Counts how often it is gone through."""

    walks = 0

    def values(self):  # type: ignore[no-untyped-def]
        Watched.walks += 1
        return super().values()


def test_a_change_costs_what_it_is_worth() -> None:
    subscription = Subscription("node-a", asking())
    subscription.compare(snapshot_of(1, *(f"r{number}" for number in range(1000))))
    known = Watched({f"r{number}": Resource(f"r{number}", "1", b"") for number in range(1, 1000)})
    known["r7"] = Resource("r7", "2", b"")
    Watched.walks = 0
    later = Snapshot(2, resources={OTHER: known}, history=({OTHER: frozenset({"r0", "r7"})},))
    change = subscription.compare(later)
    assert ([resource.name for resource in change.upserts], list(change.removals)) == (["r7"], ["r0"])
    assert Watched.walks == 0, "everything was compared"


@pytest.mark.parametrize(
    ("generation", "history"),
    [
        pytest.param(4, ({"c"}, {"b"}, {"a"}), id="all steps are known"),
        pytest.param(9, ({"c"},), id="left too far behind: everything is compared"),
        pytest.param(1, (), id="a generation that was lost: everything is compared"),
    ],
)
def test_whatever_was_missed_is_made_up_for(generation: int, history: tuple[set[str], ...]) -> None:
    subscription = Subscription("node-a", asking())
    subscription.compare(snapshot_of(1 if generation > 1 else 2, "a", "b"))
    change = subscription.compare(snapshot_of(generation, "a=2", "c", history=history))
    assert ([resource.name for resource in change.upserts], list(change.removals)) == (["a", "c"], ["b"])


def test_names_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NAMES", 3)
    subscription = Subscription("node-a", asking(("a", "b", "c")))
    subscription.asked(asking(("d",), ("a",)))
    with pytest.raises(TooMuchAsked, match="more than 3"):
        subscription.asked(asking(("e",)))


MESHES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3).map(str), max_size=6)


@given(
    st.dictionaries(st.sampled_from("abcdefx"), st.integers(1, 3).map(str)), st.lists(st.tuples(MESHES, st.booleans()))
)
def test_whatever_happens_a_client_has_what_is_in_force_when_it_was_told(
    held: dict[str, str], steps: list[tuple[dict[str, str], bool]]
) -> None:
    """The law: what a client had, with what it was sent, is the snapshot. It may be told seldom, or miss history."""
    client, subscription = dict(held), Subscription("node-a", asking(held=held))
    snapshot = Snapshot()
    for versions, is_told in [*steps, ({"a": "1"}, True)]:
        former = snapshot.of_type(OTHER)
        known = {
            name: former[name] if name in former and former[name].version == version else Resource(name, version, b"")
            for name, version in versions.items()
        }
        changed = {name for name in {**former, **known} if former.get(name) is not known.get(name)}
        history = (*snapshot.history, {OTHER: frozenset(changed)})[-2:]
        snapshot = Snapshot(snapshot.generation + 1, resources={OTHER: known}, history=history)
        if is_told:
            change = subscription.compare(snapshot)
            for name in change.removals:
                del client[name]
            client |= {resource.name: resource.version for resource in change.upserts}
            assert client == versions
            assert subscription.held == len(client)
