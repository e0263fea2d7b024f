# SPDX-License-Identifier: Apache-2.0
"""Plans: what is done, what is left alone, and in which order."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.kernel.attach import Attachment, Hook, Kind, Program
from nodeagent.kernel.codings import NO_NUMBER, PodCount, PodRow, Settings, Source, SourceRow
from nodeagent.kernel.netlink import PodDevice
from nodeagent.kernel.proxy_namespace import Crossing
from nodeagent.kernel.reconcile import (
    Attach,
    CapturedPod,
    Detach,
    Forget,
    Found,
    Put,
    PutKnown,
    Remove,
    Step,
    Target,
    number_pods,
    plan,
    wanted_filters,
)
from nodeagent.model.address import Cidr, Ip
from nodeagent.model.exclusion import Exclusion

PROGRAMS = {
    name: Program(name, number, f"/pins/{name}")
    for number, name in enumerate(("from_pod", "to_pod", "from_proxy", "at_proxy"), start=1)
}
CROSSING = Crossing(node_device=2, proxy_device=3, namespace=7)
GATEWAY, MAC = b"gatewy", b"podmac"
IPS = (Ip("10.0.0.1"), Ip("fd00::1"))
NOTHING = Target(CROSSING, PROGRAMS, Kind.TCX, (), frozenset(), frozenset(), source_number=77)
ADOPT_UNTIL = 12345


def _pod(device: int = 10, *addresses: Ip, name: str = "a", number: int = 0) -> CapturedPod:
    place = PodDevice(device, f"v{device}", 1500, GATEWAY, MAC)
    return CapturedPod("default", name, f"/netns/{name}", addresses or IPS, place, number)


def _node(device: int, *, is_egress: bool = False) -> Hook:
    return Hook(is_in_proxy=False, device=device, is_egress=is_egress)


def _after(target: Target, found: Found, steps_done: int | None = None) -> Found:
    """What is found when all steps of the plan have been done, or as many."""
    tables: dict[str, dict[object, object]] = {
        "settings": {0: found.settings},
        "sources": dict(found.sources.items()),
        "pods": dict(found.pods.items()),
        "pod_counts": dict.fromkeys(found.counted),
        "known": dict.fromkeys(found.known),
        "node_addresses": dict.fromkeys(found.node_addresses),
        "excluded": dict.fromkeys(found.excluded),
        "known_blocks": dict.fromkeys(found.known_blocks),
    }
    filters = dict(found.filters)
    for step in plan(target, found)[:steps_done]:
        match step:
            case Put():
                tables[step.table][step.key] = step.value
            case PutKnown(addresses):
                tables["known"].update(dict.fromkeys(addresses))
            case Remove():
                del tables[step.table][step.key]
            case Attach():
                filters[step.hook] = frozenset({Attachment(target.kind, step.program.id)})
            case Detach():
                del filters[step.hook]
            case Forget():
                assert step.addresses
    return Found(
        tables["settings"][0],  # type: ignore[arg-type]
        tables["sources"],  # type: ignore[arg-type]
        tables["pods"],  # type: ignore[arg-type]
        frozenset(tables["pod_counts"]),  # type: ignore[arg-type]
        frozenset(tables["known"]),  # type: ignore[arg-type]
        frozenset(tables["node_addresses"]),  # type: ignore[arg-type]
        frozenset(tables["excluded"]),  # type: ignore[arg-type]
        frozenset(tables["known_blocks"]),  # type: ignore[arg-type]
        filters,
    )


def test_an_empty_node_gets_settings_and_the_crossing() -> None:
    settings = Settings(proxy_device=2, proxy_namespace=7, generation=1, slots=0, registry_only=0)
    assert plan(NOTHING, Found()) == [
        Attach(Hook(is_in_proxy=True, device=3), PROGRAMS["at_proxy"]),
        Attach(_node(2), PROGRAMS["from_proxy"]),
        Put("settings", 0, settings),
        Put("settings", 0, settings._replace(sources=77)),
    ]


def test_nothing_is_sent_to_a_new_crossing_before_its_programs_are_there() -> None:
    settled = _after(replace(NOTHING, pods=(_pod(),)), Found())
    again = replace(NOTHING, pods=(_pod(),), crossing=Crossing(5, 6, 8))
    assert plan(again, settled)[:3] == [
        Attach(Hook(is_in_proxy=True, device=6), PROGRAMS["at_proxy"]),
        Attach(_node(5), PROGRAMS["from_proxy"]),
        Put("settings", 0, settled.settings._replace(proxy_device=5, proxy_namespace=8)),
    ]


def test_a_pod_is_known_before_it_is_captured_and_guarded_before_it_is_steered() -> None:
    settled = _after(NOTHING, Found())
    target = replace(NOTHING, pods=(_pod(),), known=frozenset(IPS), adopt_until=ADOPT_UNTIL)
    row = PodRow(10, GATEWAY, MAC, 0)
    assert plan(target, settled) == [
        PutKnown(tuple(sorted(IPS))),
        Put("pod_counts", 10, PodCount()),
        Put("sources", Source(10, IPS[0]), SourceRow(ADOPT_UNTIL, 0)),
        Put("sources", Source(10, IPS[1]), SourceRow(ADOPT_UNTIL, 0)),
        Put("pods", IPS[0], row),
        Put("pods", IPS[1], row),
        Attach(_node(10, is_egress=True), PROGRAMS["to_pod"]),
        Attach(_node(10), PROGRAMS["from_pod"]),
    ]


def test_a_pod_is_let_go_before_it_is_forgotten() -> None:
    settled = _after(replace(NOTHING, pods=(_pod(),)), Found())
    steps = plan(NOTHING, settled)
    assert steps[1:3] == [Detach(_node(10)), Detach(_node(10, is_egress=True))]
    assert steps[3] == Forget(frozenset(IPS))
    assert {type(step) for step in steps[4:-1]} == {Remove}
    assert len(steps) == 1 + 2 + 1 + 2 + 2 + 1 + 1


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param((), id="a pod goes"),
        pytest.param((_pod(10, IPS[0]),), id="an address goes"),
        pytest.param((_pod(11),), id="it moves to another device"),
    ],
)
def test_nothing_is_remembered_of_sources_while_one_goes(pods: tuple[CapturedPod, ...]) -> None:
    settled = _after(replace(NOTHING, pods=(_pod(),)), Found())
    target = replace(NOTHING, pods=pods, source_number=78)
    steps = plan(target, settled)
    gone = [place for place, step in enumerate(steps) if isinstance(step, Remove) and step.table == "sources"]
    told = {place: step.value for place, step in enumerate(steps) if isinstance(step, Put) and step.table == "settings"}
    forgets, remembers = sorted(told)
    assert forgets < min(gone)
    assert max(gone) < remembers
    assert told[forgets] == settled.settings._replace(sources=0)
    assert told[remembers] == settled.settings._replace(sources=78)


def test_a_successor_ends_what_its_predecessor_had_begun_with_the_sources() -> None:
    settled = _after(replace(NOTHING, pods=(_pod(),)), Found())
    died = _after(NOTHING, settled, len(plan(NOTHING, settled)) - 1)
    assert died.settings.sources == 0
    assert plan(NOTHING, died) == [Put("settings", 0, settled.settings)]


@pytest.mark.parametrize(
    "successor",
    [
        pytest.param(_pod(11, number=1), id="another device"),
        pytest.param(_pod(10, number=1), id="the same index of a device"),
    ],
)
def test_an_address_that_passes_to_another_pod_is_forgotten_first(successor: CapturedPod) -> None:
    settled = _after(replace(NOTHING, pods=(_pod(),)), Found())
    assert plan(replace(NOTHING, pods=(successor,)), settled)[0] == Forget(frozenset(IPS))


@pytest.mark.parametrize(("former", "own"), [(1, 2), (2, 1)])
def test_an_heir_gets_neither_a_longer_window_than_its_own_nor_the_former_pods(former: int, own: int) -> None:
    settled = _after(replace(NOTHING, pods=(_pod(),), adopt_until=former), Found())
    steps = plan(replace(NOTHING, pods=(_pod(number=1),), adopt_until=own), settled)
    assert Put("sources", Source(10, IPS[0]), SourceRow(1, 1)) in steps


def test_a_new_mac_forgets_nothing() -> None:
    settled = _after(replace(NOTHING, pods=(_pod(),)), Found())
    moved = replace(_pod(), device=replace(_pod().device, pod_mac=b"newmac"))
    assert {type(step) for step in plan(replace(NOTHING, pods=(moved,)), settled)} == {Put}


def test_an_adoption_window_is_not_opened_again() -> None:
    settled = _after(replace(NOTHING, pods=(_pod(),), adopt_until=1), Found())
    assert plan(replace(NOTHING, pods=(_pod(),), adopt_until=2), settled) == []


@pytest.mark.parametrize("registry_only", [True, False])
def test_what_a_pod_may_reach_is_a_pods_own(registry_only: bool) -> None:  # noqa: FBT001
    other = _pod(11, Ip("10.0.0.9"), number=1)
    before, after = (replace(_pod(10, IPS[0]), registry_only=is_on) for is_on in (not registry_only, registry_only))
    settled = _after(replace(NOTHING, pods=(before, other), adopt_until=1), Found())
    steps = plan(replace(NOTHING, pods=(after, other), adopt_until=2), settled)
    assert steps == [Put("sources", Source(10, IPS[0]), SourceRow(1, 0, int(registry_only)))]


def test_a_new_address_of_a_running_pod_has_a_window_of_its_own() -> None:
    settled = _after(replace(NOTHING, pods=(_pod(10, IPS[0]),), adopt_until=1), Found())
    steps = plan(replace(NOTHING, pods=(_pod(10, *IPS),), adopt_until=2), settled)
    assert steps == [
        Put("sources", Source(10, IPS[1]), SourceRow(2, 0)),
        Put("pods", IPS[1], PodRow(10, GATEWAY, MAC, 0)),
    ]


def test_a_pod_that_comes_back_on_another_device_moves() -> None:
    settled = _after(replace(NOTHING, pods=(_pod(10),)), Found())
    steps = plan(replace(NOTHING, pods=(_pod(11),)), settled)
    assert Put("pods", IPS[0], PodRow(11, GATEWAY, MAC, 0)) in steps
    assert Detach(_node(10)) in steps
    assert Remove("sources", Source(10, IPS[0])) in steps
    assert not [step for step in steps if isinstance(step, Remove) and step.table == "pods"]


def test_of_two_pods_with_one_address_the_newer_device_gets_its_packets() -> None:
    target = replace(NOTHING, pods=(_pod(12, name="new"), _pod(11, name="old")))
    found = _after(target, Found())
    assert found.pods[IPS[0]].device == 12
    assert {Source(11, IPS[0]), Source(12, IPS[0])} <= found.sources.keys()


def test_another_generation_of_a_program_is_replaced_in_place() -> None:
    settled = _after(NOTHING, Found())
    other = Program("from_proxy", 99, "/pins/from_proxy")
    assert plan(replace(NOTHING, programs=PROGRAMS | {"from_proxy": other}), settled) == [Attach(_node(2), other)]


def test_another_kind_or_two_of_them_are_made_one() -> None:
    settled = _after(NOTHING, Found())
    by_clsact, both = replace(NOTHING, kind=Kind.CLSACT), frozenset(Attachment(kind, 3) for kind in Kind)
    hook, program = _node(2), PROGRAMS["from_proxy"]
    assert Attach(hook, program) in plan(by_clsact, settled)
    assert plan(NOTHING, replace(settled, filters={**settled.filters, hook: both})) == [Attach(hook, program)]


def test_a_predecessors_filters_elsewhere_are_detached() -> None:
    settled = _after(NOTHING, Found())
    found = replace(settled, filters={**settled.filters, _node(40): frozenset({Attachment(Kind.CLSACT, 3)})})
    assert plan(NOTHING, found) == [Detach(_node(40))]


def test_the_generation_of_the_flows_is_kept() -> None:
    settled = _after(NOTHING, Found())
    older = replace(settled, settings=settled.settings._replace(generation=41))
    assert plan(replace(NOTHING, slots=2), older) == [
        Put("settings", 0, Settings(proxy_device=2, proxy_namespace=7, generation=41, slots=2, sources=77))
    ]


@pytest.mark.parametrize("is_egress", [True, False])
def test_hooks_of_a_pod(is_egress: bool) -> None:  # noqa: FBT001
    """What a pod sends comes in by its device on the node."""
    filters = wanted_filters(replace(NOTHING, pods=(_pod(),)))
    assert filters[_node(10, is_egress=is_egress)].name == ("to_pod" if is_egress else "from_pod")


_ips = st.integers(1, 30).map(lambda number: Ip(f"10.0.0.{number}"))
_pods = st.lists(
    st.builds(lambda device, ips: _pod(device, *sorted(ips)), st.integers(10, 15), st.sets(_ips, min_size=1)),
    unique_by=lambda pod: pod.device.index,
).map(tuple)
_exclusions = st.sets(st.sampled_from([Exclusion(Cidr.parse("10.0.0.0/8")), Exclusion(Cidr.parse("fd00::/8"))]))
_targets = st.builds(
    Target,
    crossing=st.sampled_from([CROSSING, Crossing(5, 6, 8)]),
    programs=st.just(PROGRAMS),
    kind=st.sampled_from(Kind),
    pods=_pods,
    known=st.frozensets(_ips),
    node_addresses=st.frozensets(_ips),
    excluded=_exclusions.map(frozenset),
    known_blocks=_exclusions.map(frozenset),
    slots=st.integers(0, 4),
    registry_only=st.booleans(),
    is_settling=st.booleans(),
    source_number=st.integers(1, 3),
)


@given(_targets, _targets)
def test_whatever_was_there_one_plan_is_enough_and_the_order_is_safe(before: Target, after: Target) -> None:
    settled = _after(before, Found())
    steps = plan(after, settled)
    assert plan(after, _after(after, settled)) == []
    ranks = [_rank(step) for step in steps if not isinstance(step, Forget)]
    if any(isinstance(step, Remove) and step.table == "sources" for step in steps):
        assert ranks.pop() == _rank(Put("settings", 0, None)), "and settings again"
    assert ranks == sorted(ranks), "additions, crossing, settings, pods, detachments, removals"


@given(_targets, _targets)
def test_what_is_to_be_forgotten_is_not_lost_when_a_step_fails(before: Target, after: Target) -> None:
    settled = _after(before, Found())
    steps = plan(after, settled)
    for done in range(len(steps)):
        left = _forgotten(plan(after, _after(after, settled, done)))
        assert _forgotten(steps[done:]) <= left, steps[:done]


def test_a_suspended_table_of_verdicts_stays_so() -> None:
    settled = _after(NOTHING, Found())
    suspended = replace(settled, settings=settled.settings._replace(is_changing=1))
    assert plan(NOTHING, suspended) == []
    (step,) = plan(replace(NOTHING, slots=2), suspended)
    assert step == Put("settings", 0, suspended.settings._replace(slots=2))


def _forgotten(steps: Iterable[Step]) -> set[Ip]:
    return {ip for step in steps if isinstance(step, Forget) for ip in step.addresses}


def _rank(step: Put | PutKnown | Remove | Attach | Detach) -> int:
    match step:
        case Put("settings"):
            return 2
        case Put() | PutKnown():
            return 0
        case Attach():
            return 1 if step.program.name in {"at_proxy", "from_proxy"} else 3
        case Detach():
            return 4
        case Remove():
            return 5


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_a_captured_pod_keeps_its_number() -> None:
    found = _after(replace(NOTHING, pods=(_pod(number=7),)), Found())
    (pod,) = number_pods([_pod(number=NO_NUMBER)], found, judged={7}, known={})
    assert pod.number == 7


def test_a_pod_that_comes_gets_a_number_that_no_verdict_is_about() -> None:
    found = _after(replace(NOTHING, pods=(_pod(number=0),)), Found())
    (pod,) = number_pods([_pod(11, name="b")], found, judged={1, 2}, known={})
    assert pod.number == 3, "0 is another pod's still, 1 and 2 are in the table"


def test_a_new_device_with_the_index_and_address_of_an_old_one_gets_another_number() -> None:
    found = _after(replace(NOTHING, pods=(_pod(number=0),)), Found())
    without_filters = replace(found, filters={})
    (pod,) = number_pods([_pod()], without_filters, judged={0}, known={})
    assert pod.number == 1


def test_a_number_never_passes_to_another_pod_on_the_same_device() -> None:
    found = _after(replace(NOTHING, pods=(_pod(number=0),)), Found())
    (pod,) = number_pods([_pod(name="heir")], found, judged=(), known={0: _pod().owner})
    assert pod.number == 1


def test_beyond_the_bits_of_a_verdict_a_pod_has_no_number() -> None:
    pods = number_pods(
        [_pod(device, Ip(f"10.0.0.{device}"), name=f"p{device}") for device in (1, 2)], Found(), range(1023), {}
    )
    assert [pod.number for pod in pods] == [1023, NO_NUMBER]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 20)), unique_by=lambda pair: pair[0], max_size=12), st.data()
)
def test_numbers_are_unique_and_never_stale(devices: list[tuple[int, int]], data: st.DataObject) -> None:
    before = [_pod(device, Ip(f"10.0.0.{device}"), name=f"p{device}", number=number) for device, number in devices]
    found = _after(replace(NOTHING, pods=tuple(before)), Found())
    wanted = [pod for pod in before if data.draw(st.booleans())] + [_pod(40, Ip("10.0.1.1"), name="new")]
    judged = {number for _, number in devices}
    numbers = {pod.device.index: pod.number for pod in number_pods(wanted, found, judged, {})}
    assert len(set(numbers.values())) == len(wanted)
    assert numbers[40] not in judged
