# SPDX-License-Identifier: Apache-2.0
"""What was written is read, wherever the writer was killed: the state before or after, never a part of the whole."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.mesh import Changes
from nodeagent.model.policy import Action, Policy, PolicyScope
from nodeagent.model.traffic import MeshTraffic
from nodeagent.model.workload import Service, Workload
from nodeagent.xds.delta import Answer, Delta, Kind, LastGood, Resource, Step
from nodeagent.xds.saved import PART_VALUES, Owner, Saved, Unusable, decode, encode_step, encode_whole

OWNER = Owner("c", "node-a")
NOW = 1_800_000_000.0


def workloads(count: int) -> LastGood:
    made = tuple(Workload(uid=f"w{n}", name=f"w{n}", namespace="shop") for n in range(count))
    return LastGood(Changes(workloads=made), {one.uid: "1" for one in made})


def whole(state: LastGood) -> bytes:
    return b"".join(encode_whole(OWNER, state, NOW))


@pytest.mark.parametrize("count", [0, 1, PART_VALUES, PART_VALUES + 1, 3 * PART_VALUES])
def test_a_whole_is_read_as_it_was_and_written_in_parts(count: int) -> None:
    state = workloads(count)

    assert decode(whole(state), OWNER) == Saved(NOW, state)
    assert len(list(encode_whole(OWNER, state, NOW))) == 1 + max(1, -(-count // PART_VALUES))


def test_a_whole_that_lacks_a_part_is_none() -> None:
    """A policy would be missing, and what it denies be allowed."""
    parts = list(encode_whole(OWNER, workloads(3 * PART_VALUES), NOW))
    for count in range(len(parts)):
        with pytest.raises(Unusable):
            decode(b"".join(parts[:count]), OWNER)


@given(st.data())
def test_wherever_a_record_is_cut_the_state_before_it_is_read(data: st.DataObject) -> None:
    begun = whole(workloads(2))
    first, second = (
        encode_step(Step(LastGood(Changes(), {"w0": version})), NOW + later) for version, later in (("2", 1), ("3", 2))
    )
    cut = data.draw(st.integers(0, len(first) + len(second) - 1))

    saved = decode(begun + (first + second)[:cut], OWNER)

    is_first_whole = cut >= len(first)
    assert saved.saved_at == NOW + is_first_whole
    assert saved.last_good.address_versions["w0"] == ("2" if is_first_whole else "1")


@given(st.data())
def test_a_byte_that_is_not_as_it_was_written_is_not_read_past(data: st.DataObject) -> None:
    """It refuses the file; or, where it tells of a longer record than there is, it looks like one that was cut."""
    begun, step = whole(workloads(2)), encode_step(Step(LastGood(Changes(), {"w0": "2"})), NOW + 1)
    content = bytearray(begun + step + encode_step(Step(LastGood(Changes(), {"w1": "3"})), NOW + 2))
    at = data.draw(st.integers(len(begun), len(begun) + len(step) - 1))
    content[at] ^= data.draw(st.integers(1, 255))

    try:
        saved = decode(bytes(content), OWNER)
    except Unusable:
        return
    assert saved == Saved(NOW, workloads(2))


def test_another_owners_is_refused() -> None:
    with pytest.raises(Unusable, match="of node 'node-a' in cluster 'c'"):
        decode(whole(workloads(1)), Owner("c", "node-b"))


def policy(name: str) -> Policy:
    return Policy(name=name, namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.DENY)


def values(kind: Kind) -> st.SearchStrategy[Workload | Service | Policy | MeshTraffic]:
    """Few names, so that the same ones come again, as a workload here and as a service there."""
    match kind:
        case Kind.ADDRESS:
            revisions, uids = st.sampled_from("12"), st.sampled_from(["a", "b", "shop/s"])
            return st.one_of(
                st.builds(Workload, uid=uids, name=uids, namespace=st.just("shop"), canonical_revision=revisions),
                st.builds(Service, name=revisions, namespace=st.just("shop"), hostname=st.just("s")),
            )
        case Kind.AUTHORIZATION:
            return st.builds(policy, st.sampled_from("pq"))
        case Kind.EXTENSION:
            return st.builds(MeshTraffic, is_registry_only=st.booleans())


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    kind = draw(st.sampled_from(Kind))
    found = draw(st.lists(values(kind), max_size=3))
    named = {_name(value): Resource(_name(value), draw(st.sampled_from("xy")), value) for value in found}
    gone = draw(st.sets(st.sampled_from(["a", "b", "shop/s", "shop/p", "shop/q", MeshTraffic.NAME]), max_size=3))
    return Answer(kind, "", tuple(named.values()), removed=tuple(gone - named.keys()))


def _name(value: Workload | Service | Policy | MeshTraffic) -> str:
    match value:
        case Workload():
            return value.uid
        case MeshTraffic():
            return value.name
        case _:
            return value.key


@given(st.lists(answers(), max_size=8), st.integers(0, 8))
def test_a_whole_and_the_steps_behind_it_are_what_is_held(history: list[Answer], begun: int) -> None:
    delta = Delta()
    delta.stream_opened()

    def recorded() -> Iterator[bytes]:
        for number, answer in enumerate(history):
            if number == begun:
                yield whole(delta.last_good())
            delta.answered(answer)
            if number >= begun:
                yield encode_step(delta.take_news(), NOW)
        if begun >= len(history):
            yield whole(delta.last_good())

    found = decode(b"".join(recorded()), OWNER).last_good
    held = delta.last_good()

    assert found.address_versions == held.address_versions
    assert found.policy_versions == held.policy_versions
    assert found.extension_versions == held.extension_versions
    for field in ("workloads", "services", "policies", "extensions"):
        here, there = (getattr(state.everything, field) for state in (found, held))
        assert {_name(one): one for one in here} == {_name(one): one for one in there}


def test_news_are_of_what_has_changed_alone() -> None:
    """Not of the mesh; and what is repeated as it was is none."""
    delta, many = Delta(), workloads(1000)
    delta.restored(many)
    delta.stream_opened()
    delta.last_good()
    changed = Workload(uid="w7", name="w7", namespace="shop", canonical_revision="2")
    repeated = Resource("w8", "1", many.everything.workloads[8])
    delta.answered(Answer(Kind.ADDRESS, "", (Resource("w7", "2", changed), repeated), removed=("w9",)))

    news = delta.take_news()

    assert news == Step(LastGood(Changes(workloads=(changed,)), {"w7": "2"}), removed_addresses=("w9",))
    assert delta.take_news() == Step(LastGood(Changes()))
