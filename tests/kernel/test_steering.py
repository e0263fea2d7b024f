# SPDX-License-Identifier: Apache-2.0
"""Steering against a real kernel: idempotence, damage, pods that come and go, restarts, removal."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import tcx
from nodeagent.kernel.codings import Flow, FlowKey, Source
from nodeagent.kernel.listeners import ListenerKind
from nodeagent.kernel.maps import Maps
from nodeagent.kernel.netns import MNT_DETACH, unmount
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.wanted import Wanted
from nodeagent.model.address import Ip, parse_ip
from tests.kernel.conftest import Node
from tests.kernel.namespaces import mac, own_namespaces, run

pytestmark = pytest.mark.kernel


@pytest.fixture(params=["tcx", "clsact"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    """A node for one test, which may damage it."""
    if request.param == "tcx" and not tcx.is_supported():
        pytest.skip("this kernel has no TCX (Linux 6.6)")
    with own_namespaces():
        made = Node(tmp_path, request.param)
        try:
            yield made
        finally:
            made.close()


def _names(programs: list[str]) -> list[str]:
    return [name.partition(":")[0] for name in programs]


def test_a_second_reconcile_has_nothing_to_do(node: Node) -> None:
    node.enrol(node.a, node.b, known=("10.99.2.2",))
    assert node.enrol(node.a, node.b, known=("10.99.2.2",)) == []


def test_each_device_has_one_generation_of_each_program(node: Node) -> None:
    node.enrol(node.a, node.b)
    for device in ("va", "vb"):
        assert _names(node.programs(device)) == ["nodeagent/from_pod", "nodeagent/to_pod"]
    assert _names(node.programs("na0")) == ["nodeagent/from_proxy"]
    assert _names(node.programs("eth0", Path(node.steering.netns_path()))) == ["nodeagent/at_proxy"]
    assert node.programs("vx") == []


def test_a_pod_that_leaves_is_let_go_entirely(node: Node) -> None:
    node.enrol(node.a, node.b)
    node.enrol(node.b)
    assert node.programs("va") == []
    maps = Maps(Pins(node.bpffs).maps)
    assert maps.pods.rows().keys() == set(node.b.addresses)
    assert {source.device for source in maps.sources.rows()} == {node.ifindex(node.b)}
    maps.close()


@pytest.mark.parametrize("table", ["flows", "kept_flows", "inbound_flows"])
def test_what_a_pod_that_leaves_had_open_is_forgotten_and_others_is_not(node: Node, table: str) -> None:
    node.enrol(node.a, node.b)
    maps = Maps(Pins(node.bpffs).maps)
    elsewhere = Ip("10.99.2.2")
    pairs = {(node.a.addresses[0], elsewhere), (elsewhere, node.a.addresses[0]), (elsewhere, node.b.addresses[0])}
    value = 1 if table == "inbound_flows" else Flow(1, 4, 0)
    for first, second in pairs:
        getattr(maps, table).put(FlowKey(first, second, 80, 40000), value)
    number = maps.read_settings().sources
    assert number
    node.enrol(node.b)
    assert {(key.first, key.second) for key in getattr(maps, table).rows()} == {(elsewhere, node.b.addresses[0])}
    assert maps.read_settings().sources not in {0, number}
    getattr(maps, table).remove(FlowKey(elsewhere, node.b.addresses[0], 80, 40000))
    maps.close()


def test_pods_say_what_they_are(node: Node) -> None:
    missing = replace(node.x.wanted, name="gone", netns="/nowhere")
    wanted = Wanted((node.a.wanted, missing), frozenset(), 0)
    node.steering.reconcile(wanted)
    captured, gone = node.steering.pods()
    assert captured.is_captured
    assert (captured.device, captured.ifindex) == ("va", node.ifindex(node.a))
    assert (gone.is_captured, gone.reason) == (False, "NO_NETNS")
    assert "/nowhere" in gone.words


def test_a_namespace_without_a_device_on_this_node(own: Node) -> None:
    run("ip link del va")
    own.enrol(own.a, own.b)
    assert [(pod.name, pod.reason) for pod in own.steering.pods()] == [("a", "NO_DEVICE"), ("b", "")]


def test_a_pod_cannot_pretend_to_be_behind_another_pods_device(own: Node) -> None:
    """Inside its own namespace a pod makes devices with whatever indexes it likes, and names one of them eth0."""
    theirs, host = 77, own.ifindex(own.b)
    run(
        f"ip link set eth0 down; ip link set eth0 name real; ip link set real up;"
        f"ip link add eth0 index {theirs} type veth peer name other index {host}",
        own.a.netns,
    )
    own.enrol(own.a)
    (pod,) = own.steering.pods()
    assert pod.device == "va"


def test_a_vanished_pod_leaves_the_others_alone(own: Node) -> None:
    own.enrol(own.a, own.b)
    unmount(own.a.netns, MNT_DETACH)
    run("ip link del va 2>/dev/null || true")  # the last reference may have taken it already
    own.enrol(own.a, own.b)
    assert [(pod.name, pod.is_captured) for pod in own.steering.pods()] == [("a", False), ("b", True)]
    maps = Maps(Pins(own.bpffs).maps)
    assert maps.pods.rows().keys() == set(own.b.addresses)
    maps.close()


def test_a_new_mac_is_noticed(node: Node) -> None:
    node.enrol(node.a)
    run("ip link set eth0 address 02:00:00:00:00:aa", node.a.netns)
    assert node.enrol(node.a) == ["pods: 2 set"]
    maps = Maps(Pins(node.bpffs).maps)
    row = maps.pods.find(node.a.addresses[0])
    maps.close()
    assert row is not None
    assert row.pod_mac == mac("eth0", node.a.netns)


def test_a_bridges_mac_is_the_gateways(own: Node) -> None:
    run("ip link add br0 type bridge; ip link set br0 address 02:00:00:00:00:bb; ip link set va master br0")
    own.enrol(own.a)
    maps = Maps(Pins(own.bpffs).maps)
    row = maps.pods.find(own.a.addresses[0])
    maps.close()
    assert row is not None
    assert row.gateway_mac == bytes.fromhex("0200000000bb")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            "{detach}/node-{a}-ingress && rm {links}/node-{a}-ingress || tc filter del dev va ingress",
            id="one removed",
        ),
        pytest.param("{detach}/node-{a}-egress || tc qdisc del dev va clsact", id="detached"),
        pytest.param("ip link del na0", id="na0 removed"),
    ],
)
def test_damage_is_repaired(own: Node, damage: str) -> None:
    own.enrol(own.a, own.b)
    links = Pins(own.bpffs).links
    run(damage.format(detach=f"bpftool link detach pinned {links}", links=links, a=own.ifindex(own.a)))
    assert own.enrol(own.a, own.b) != []
    assert len(own.programs("va")) == 2
    assert len(own.programs("na0")) == 1
    assert own.enrol(own.a, own.b) == []


def test_a_filter_of_somebody_else_stays(own: Node) -> None:
    program = Pins(own.bpffs).programs / "to_pod"
    run(f"tc qdisc add dev va clsact; tc filter add dev va ingress prio 99 bpf da object-pinned {program}")
    own.enrol(own.a)
    own.enrol()
    assert own.steering.remove() != []
    assert "pref 99" in run("tc filter show dev va ingress")


def test_an_ingress_qdisc_refuses_one_pod_by_name(own: Node) -> None:
    """Kind `ingress` takes clsact's place and has no egress side; TCX needs neither."""
    run("tc qdisc add dev va ingress")
    own.enrol(own.a, own.b)
    refused = "" if own.attach == "tcx" else "ATTACH_FAILED"
    assert [(pod.name, pod.reason) for pod in own.steering.pods()] == [("a", refused), ("b", "")]
    run("tc qdisc del dev va ingress")
    own.enrol(own.a, own.b)
    assert [pod.reason for pod in own.steering.pods()] == ["", ""], "and it heals"


def test_a_restart_compiles_nothing_and_changes_nothing(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.enrol(node.a, node.b)
    before = node.programs("va") + node.programs("na0")
    node.steering.close()
    with caplog.at_level("INFO"):
        node.steering = node.make_steering()
    assert "compiling" not in caplog.text
    assert node.enrol(node.a, node.b) == []
    assert node.programs("va") + node.programs("na0") == before


def test_a_predecessors_filters_and_layouts_go_after_the_switch(own: Node) -> None:
    own.enrol(own.a, own.x)
    pins = Pins(own.bpffs)
    (pins.root / "0123456789ab" / "maps").mkdir(parents=True)
    (pins.programs.parent / "ba9876543210").mkdir()
    own.steering.close()
    own.steering = own.make_steering()
    own.enrol(own.a, own.b)
    assert own.programs("vx") == []
    assert {path.name for path in pins.root.iterdir()} - {"links"} == {pins.directory.name}
    assert [path.name for path in pins.programs.parent.iterdir()] == [pins.programs.name]


def test_pins_that_were_taken_away_are_made_again(own: Node) -> None:
    own.enrol(own.a)
    listeners = own.steering.make_listeners()
    for kind, listener in listeners.items():
        own.steering.put_listener(kind, 1, listener)
    Pins(own.bpffs).remove()
    own.enrol(own.a)
    assert Pins(own.bpffs).has_programs()
    maps = Maps(Pins(own.bpffs).maps)
    assert maps.pods.rows().keys() == set(own.a.addresses)
    assert maps.listeners.find(ListenerKind.HBONE * 4 + 1) is not None, "workers are reached as before"
    assert maps.read_settings().slots == 2
    maps.close()
    assert own.enrol(own.a) == []
    for listener in listeners.values():
        listener.close()


def test_the_adoption_window_is_opened_once(node: Node) -> None:
    node.enrol()
    node.enrol(node.a, adoption_seconds=60)
    maps = Maps(Pins(node.bpffs).maps)
    source = Source(node.ifindex(node.a), node.a.addresses[0])
    opened = maps.sources.find(source)
    node.enrol(node.a, adoption_seconds=60)
    assert maps.sources.find(source) == opened
    maps.close()


def test_new_addresses_of_the_node_are_followed(node: Node) -> None:
    node.enrol(node.a)
    run("ip addr add 192.0.2.77/32 dev lo")
    assert node.enrol(node.a) == ["node_addresses: 1 set"]
    run("ip addr del 192.0.2.77/32 dev lo")
    assert node.enrol(node.a) == ["node_addresses: 1 removed"]


def test_slots_follow_the_listeners(node: Node) -> None:
    maps = Maps(Pins(node.bpffs).maps)
    sets = [node.steering.make_listeners() for _ in range(4)]
    ports = {listener.getsockname()[1] for made in sets for listener in made.values()}
    assert len(ports) == 12
    assert max(ports) < 1024
    for slot, made in enumerate(sets):
        for kind, listener in made.items():
            node.steering.put_listener(kind, slot, listener)
        assert maps.read_settings().slots == slot + 1
    for slot in (3, 2, 1, 0):
        for kind in ListenerKind:
            node.steering.put_listener(kind, slot, None)
        assert maps.read_settings().slots == slot
    maps.close()
    for made in sets:
        for listener in made.values():
            listener.close()


def test_a_slot_beyond_the_last_is_a_mistake_of_the_caller(node: Node) -> None:
    with pytest.raises(ValueError, match="slot 4"):
        node.steering.put_listener(ListenerKind.HBONE, 4, None)


@pytest.mark.any_kernel
def test_a_full_map_closes_the_way_out_and_says_so(own: Node, caplog: pytest.LogCaptureFixture) -> None:
    """An address of the mesh that the kernel does not know would be reached in plain text."""
    many = frozenset(Ip(f"10.{a}.{b}.{c}") for a in (1, 2) for b in range(256) for c in range(256))
    too_many = many | {parse_ip("10.3.0.1"), parse_ip("10.3.0.2")}
    own.steering.reconcile(Wanted((), too_many, 0))
    assert own.steering.overflow() == {"known": 2}
    assert "known is full" in caplog.text
    maps = Maps(Pins(own.bpffs).maps)
    assert maps.read_settings().registry_only == 1
    own.steering.reconcile(Wanted((), many, 0))
    own.steering.reconcile(Wanted((), many, 0))
    assert own.steering.overflow() == {}
    assert maps.read_settings().registry_only == 0
    maps.close()


@pytest.mark.any_kernel
def test_only_addresses_in_question_are_looked_at_and_none_is_lost(own: Node) -> None:
    """What did not fit, or what the maps had that were made again, stays owed until it is there."""

    def known() -> set[Ip]:
        maps = Maps(Pins(own.bpffs).maps)
        found = maps.known.keys()
        maps.close()
        return found

    def ask(*addresses: str, gone: tuple[str, ...] = ()) -> None:
        there = frozenset(map(parse_ip, addresses))
        own.steering.reconcile(Wanted((), there, 0, in_question=there | frozenset(map(parse_ip, gone))))

    own.steering.reconcile(Wanted((), frozenset(map(parse_ip, ("10.0.0.1", "10.0.0.2"))), 0))
    ask("10.0.0.3", gone=("10.0.0.1", "10.0.0.9"))
    assert known() == {"10.0.0.2", "10.0.0.3"}
    Pins(own.bpffs).remove()
    ask("10.0.0.4", gone=("10.0.0.3",))
    assert known() == {"10.0.0.2", "10.0.0.4"}


@pytest.mark.any_kernel
def test_an_address_that_did_not_fit_is_put_when_there_is_room(own: Node) -> None:
    many = frozenset(Ip(f"10.{a}.{b}.{c}") for a in (1, 2) for b in range(256) for c in range(256))
    late = parse_ip("10.3.0.1")
    own.steering.reconcile(Wanted((), many, 0))
    own.steering.reconcile(Wanted((), frozenset({late}), 0, in_question=frozenset({late})))
    assert own.steering.overflow() == {"known": 1}
    own.steering.reconcile(Wanted((), frozenset(), 0, in_question=frozenset({Ip("10.1.0.0")})))
    own.steering.reconcile(Wanted((), frozenset(), 0, in_question=frozenset()))
    assert own.steering.overflow() == {}
    maps = Maps(Pins(own.bpffs).maps)
    assert maps.known.has(late)
    assert not maps.known.has(Ip("10.1.0.0"))
    maps.close()


def test_removal_leaves_nothing_of_ours(own: Node) -> None:
    own.enrol(own.a, own.b)
    path = own.steering.netns_path()
    assert own.steering.remove() != []
    assert own.programs("va") + own.programs("vb") == []
    assert "na0" not in run("ip -o link")
    assert not Path(path).exists()
    assert not Pins(own.bpffs).root.exists()
    assert own.steering.remove() == []


def test_before_the_start_there_is_nothing_to_read(tmp_path: Path) -> None:
    steering = Steering(bpffs=str(tmp_path), run_dir=str(tmp_path))
    assert steering.pods() == []
    with pytest.raises(KernelError, match="not open yet"):
        steering.counters()


def test_no_bpffs_is_refused_at_the_start(own: Node, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="no bpffs is mounted") as caught:
        Steering(bpffs=str(tmp_path), run_dir=str(tmp_path)).start()
    assert f"mount -t bpf bpf {tmp_path}" in caught.value.check
