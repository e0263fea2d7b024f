# SPDX-License-Identifier: Apache-2.0
"""Upgrades and rollbacks between layouts: what is shared, what is converted, and that no connection notices."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.kernel import syscall
from nodeagent.kernel.codings import Flow, FlowKey, Source, of_flow_key
from nodeagent.kernel.maps import Maps
from nodeagent.kernel.pins import Pins, describe, program_ids, read_description
from nodeagent.kernel.sources import layout_text
from nodeagent.kernel.succession import Succession, find_former, make_way
from nodeagent.lab.demo.versions import OTHER_FLOWS, OTHER_SETTINGS, Version, make_version
from nodeagent.model.address import Ip
from nodeagent.policy.verdict_table import VerdictRow
from tests.kernel.conftest import PATIENCE_SECONDS, Kernel, Node, Packet
from tests.kernel.namespaces import own_namespaces
from tests.kernel.recorded import COMPILE_ONCE

pytestmark = pytest.mark.kernel

CHECKOUT = Path(__file__).resolve().parents[2]
PORT = 8080
FLOW = FlowKey(Ip("10.99.1.3"), Ip("10.99.1.2"), 8080, 40000)

OF_ANOTHER_VERSION = f"""
import json, os, sys
if {COMPILE_ONCE!r} in os.environ:
    sys.path.append({str(CHECKOUT)!r})  # the version that is on PYTHONPATH stays the first
    from nodeagent.kernel import programs
    from tests.kernel import recorded
    programs.load_programs = recorded.load_programs
from nodeagent.kernel.listeners import ListenerKind
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.wanted import Wanted, WantedPod
given = json.load(sys.stdin)
steering = Steering(bpffs=given["bpffs"], run_dir=given["run_dir"], attach=given["attach"], cgroup="na-none")
steering.start()
listeners = steering.make_listeners()  # as the fleet does, before the first reconcile
for kind, listener in listeners.items():
    steering.put_listener(kind, 0, listener)
pods = tuple(WantedPod("default", name, netns, tuple(addresses)) for name, netns, addresses in given["pods"])
known = frozenset(ip for pod in pods for ip in pod.addresses)
print(json.dumps(steering.reconcile(Wanted(pods, known, given["adoption_seconds"]))))
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Node]:
    with own_namespaces():
        made = Node(tmp_path)
        try:
            yield made
        finally:
            made.close()


CHANGES = {"settings": OTHER_SETTINGS, "flows": OTHER_FLOWS}
"""What differs in the other layout: the map of that name."""
OF_THE_STRUCT = {"settings": {"settings"}, "flows": {"flows", "kept_flows"}}
"""All maps that differ with it."""
DIFFERING = [pytest.param("settings", marks=pytest.mark.any_kernel), "flows"]
"""An upgrade and a rollback are made on every kernel once; all else here is what the agent does with the maps."""


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Version]:
    return {name: make_version(tmp_path_factory.mktemp("version"), changes) for name, changes in CHANGES.items()}


def take_over(node: Node, version: Version) -> list[str]:
    """As an agent of another version does; what it did, in words."""
    given = {
        "bpffs": str(node.bpffs),
        "run_dir": str(node.run_dir),
        "attach": node.attach,
        "pods": [(pod.name, str(pod.netns), pod.addresses) for pod in (node.a, node.b)],
        "adoption_seconds": 0,
    }
    done = subprocess.run(
        [sys.executable, "-c", OF_ANOTHER_VERSION],
        input=json.dumps(given),
        env=version.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words: list[str] = json.loads(done.stdout.splitlines()[-1])
    return words


def take_back(node: Node) -> list[str]:
    node.steering.close()
    node.steering = node.make_steering()
    with listening(node):
        return node.enrol(node.a, node.b)


@contextlib.contextmanager
def listening(node: Node) -> Iterator[None]:
    made = node.steering.make_listeners()
    for kind, listener in made.items():
        node.steering.put_listener(kind, 0, listener)
    try:
        yield
    finally:
        for listener in made.values():
            listener.close()


@contextlib.contextmanager
def connected(node: Node, *, is_ipv6: bool) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A direct connection from a to b."""
    with node.b.listen(PORT + is_ipv6) as listener:
        client = node.a.dial(node.b.addresses[is_ipv6], PORT + is_ipv6)
        server, _ = listener.accept()
    with client, server:
        server.settimeout(PATIENCE_SECONDS)
        yield client, server


def talk(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    server.sendall(b"answer")
    assert client.recv(100) == b"answer"


def test_the_layout_describes_itself(own: Node) -> None:
    pins = Pins(own.bpffs)
    assert read_description(pins.directory) == layout_text()
    describe(pins)
    with pytest.raises(FileNotFoundError):
        read_description(pins.root)


@pytest.mark.parametrize("differing", DIFFERING)
def test_everything_that_matters_goes_on_in_another_layout_and_back(
    own: Node, versions: dict[str, Version], differing: str
) -> None:
    own.enrol(own.a, own.b, adoption_seconds=3600)
    own.steering.put_verdicts([VerdictRow(own.number(own.b), 0, 1 << own.number(own.a))])
    pins, maps = Pins(own.bpffs), Maps(Pins(own.bpffs).maps)
    kept = maps.sources.rows(), maps.pods.rows(), maps.verdicts.rows(), maps.read_settings().generation
    before = own.counted("LOCAL_ALLOWED", "LOCAL_FLOW")
    with connected(own, is_ipv6=False) as of_ipv4, connected(own, is_ipv6=True) as of_ipv6:
        flows = {key: unchecked(flow) for key, flow in maps.flows.rows().items() if flow.kind == 1}
        maps.close()
        for is_back in (False, True):
            done = take_back(own) if is_back else take_over(own, versions[differing])
            assert len([words for words in done if words.startswith("attached")]) == 6, done
            assert any("brought over" in words for words in done), done
            assert any("unpinned" in words for words in done), done
            talk(*of_ipv4)
            talk(*of_ipv6)
    ours = Maps(pins.maps)
    assert (ours.sources.rows(), ours.pods.rows(), ours.verdicts.rows(), ours.read_settings().generation) == kept
    assert {key: unchecked(flow) for key, flow in ours.flows.rows().items()}.items() >= flows.items()
    assert ours.read_settings().is_settling == 0
    assert len(flows) == 2
    ours.close()
    assert own.counted("LOCAL_ALLOWED", "UNKNOWN_FLOW", "ADOPTED") == {
        "LOCAL_ALLOWED": before["LOCAL_ALLOWED"] + 2,
        "UNKNOWN_FLOW": 0,
        "ADOPTED": 0,
    }
    assert {path.name for path in pins.root.iterdir()} - {"links"} == {pins.directory.name}


def unchecked(flow: Flow) -> Flow:
    """Without what from_pod remembers of the source addresses: with the settings' number it may be another."""
    return flow._replace(first_checked=0, second_checked=0)


@pytest.mark.any_kernel
@pytest.mark.parametrize("differing", DIFFERING)
def test_a_map_of_the_same_shape_is_the_same_map(own: Node, versions: dict[str, Version], differing: str) -> None:
    own.enrol(own.a, own.b)
    pins, mine = Pins(own.bpffs), {path.name: path for path in Pins(own.bpffs).maps.iterdir()}
    before = {name: map_id(path) for name, path in mine.items()}
    take_over(own, versions[differing])
    (theirs,) = pins.others()
    after = {path.name: map_id(path) for path in (theirs / "maps").iterdir()}
    assert {name for name in before if before[name] != after[name]} == OF_THE_STRUCT[differing]


def map_id(path: Path) -> int:
    with syscall.opened(str(path)) as descriptor:
        return syscall.map_info(descriptor).id


# ---- between two looks -----------------------------------------------------------------------------------------------


@pytest.fixture
def between(own: Node, versions: dict[str, Version]) -> Iterator[tuple[Maps, Succession]]:
    """The former maps are of our layout, ours are of the other's; both are pinned, nothing is brought yet."""
    take_over(own, versions["flows"])
    own.steering.close()
    own.steering = own.make_steering()
    pins = Pins(own.bpffs)
    (other,) = pins.others()
    former = find_former(pins, program_ids(other))
    assert former is not None
    ours = Maps(pins.maps)
    yield ours, Succession(former, pins, program_ids(other))
    ours.close()


def former_flows(succession: Succession) -> tuple[int, bytes]:
    descriptor = syscall.open_pinned(str(succession.former.directory / "maps" / "flows"))
    return descriptor, succession.former.shapes.structs["flow"].pack(
        of_another_version=7, generation=5, kind=1, from_second=1, held=0, first_checked=0, second_checked=0
    )


@pytest.mark.any_kernel
def test_flows_that_begin_end_or_change_meanwhile_follow(own: Node, between: tuple[Maps, Succession]) -> None:
    ours, succession = between
    descriptor, row = former_flows(succession)
    begun, ended, changed, newer = (FLOW._replace(second_port=port) for port in (1, 2, 3, 4))
    key = {flow: _encoded(flow) for flow in (begun, ended, changed, newer)}
    for flow in (ended, changed, newer):
        syscall.map_update(descriptor, key[flow], row)
    assert succession.has_flows
    assert succession.bring()["flows"] == 3
    assert ours.flows.find(ended) == Flow(5, 1, 1)

    syscall.map_update(descriptor, key[begun], row)
    syscall.map_delete(descriptor, key[ended])
    other = succession.former.shapes.structs["flow"].pack(
        of_another_version=7, generation=5, kind=4, from_second=1, held=1, first_checked=0, second_checked=0
    )
    syscall.map_update(descriptor, key[changed], other)
    syscall.map_update(descriptor, key[newer], other)
    ours.flows.put(newer, Flow(6, 3, 0))  # by our programs, after they have taken over
    assert succession.settle()["flows"] == 4
    assert ours.flows.rows() == {begun: Flow(5, 1, 1), changed: Flow(5, 4, 1, 1), newer: Flow(6, 3, 0)}
    assert succession.settle()["flows"] == 0

    ours.flows.remove(newer)  # by our programs, again
    syscall.map_update(descriptor, key[newer], row)
    succession.settle()
    assert ours.flows.find(newer) is None
    os.close(descriptor)


def _encoded(flow: FlowKey) -> bytes:
    return of_flow_key().encode(flow)


@pytest.mark.any_kernel
def test_what_a_pod_that_left_had_open_is_not_brought_late(
    own: Node, versions: dict[str, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It connects once more while an upgrade copies, and is gone when that is done: its address may be another's."""
    own.enrol(own.a, own.b)
    take_over(own, versions["flows"])
    own.steering.close()
    own.steering = own.make_steering()
    settle = Succession.settle

    def late(succession: Succession) -> dict[str, int]:
        descriptor, row = former_flows(succession)
        for flow in (FLOW, FLOW._replace(first=Ip("10.99.2.2"), second=Ip("10.99.1.3"))):
            syscall.map_update(descriptor, _encoded(flow), row)
        os.close(descriptor)
        return settle(succession)

    monkeypatch.setattr(Succession, "settle", late)
    with listening(own):
        done = own.enrol(own.b)
    assert "flows: 2 brought over late" in done
    maps = Maps(Pins(own.bpffs).maps)
    assert [(key.first, key.second) for key in maps.flows.rows()] == [(Ip("10.99.2.2"), Ip("10.99.1.3"))]
    maps.close()


@pytest.mark.any_kernel
def test_an_upgrade_that_stopped_halfway_is_gone_on_with(own: Node, between: tuple[Maps, Succession]) -> None:
    """Some of our programs run already: what they wrote is newer than what the former layout has."""
    ours, succession = between
    descriptor, row = former_flows(succession)
    only_there, in_both = FLOW._replace(second_port=1), FLOW._replace(second_port=2)
    for flow in (only_there, in_both):
        syscall.map_update(descriptor, _encoded(flow), row)
    ours.flows.put(in_both, Flow(9, 3, 0))
    pins = Pins(own.bpffs)
    running = program_ids(pins.directory) | succession.former.programs
    again = Succession(succession.former, pins, running)
    assert again.bring() == {"flows": 1, "kept_flows": 0}
    assert ours.flows.rows() == {only_there: Flow(5, 1, 1), in_both: Flow(9, 3, 0)}
    os.close(descriptor)


@pytest.mark.any_kernel
def test_what_an_attempt_left_that_came_to_nothing_is_not_believed(own: Node, between: tuple[Maps, Succession]) -> None:
    ours, succession = between
    ours.flows.put(FLOW, Flow(1, 1, 0))
    pins = Pins(own.bpffs)
    assert "sources" in make_way(pins, succession.former.programs)
    assert not pins.has_programs()
    own.steering.close()
    own.steering = own.make_steering()
    own.enrol(own.a, own.b)
    maps = Maps(pins.maps)
    assert maps.flows.find(FLOW) is None
    maps.close()


@pytest.mark.any_kernel
def test_a_layout_without_a_description_is_left_behind(own: Node, caplog: pytest.LogCaptureFixture) -> None:
    pins = Pins(own.bpffs)
    shutil.copytree(pins.maps, pins.root / "0123456789ab" / "maps", copy_function=_pin_again)
    shutil.copytree(pins.programs, pins.root / "0123456789ab" / "programs" / "0", copy_function=_pin_again)
    assert find_former(pins, program_ids(pins.root / "0123456789ab")) is None
    assert "0123456789ab is left behind" in caplog.text


def _pin_again(source: str, target: str) -> None:
    with syscall.opened(source) as descriptor:
        syscall.pin(descriptor, target)


# ---- what the programs do meanwhile ----------------------------------------------------------------------------------


@pytest.fixture
def settling(kernel: Kernel) -> Iterator[Kernel]:
    settings = kernel.maps.read_settings()
    kernel.maps.settings.put(0, settings._replace(is_settling=1))
    yield kernel
    kernel.maps.settings.put(0, settings)


def test_nobodys_packet_is_dropped_while_flows_are_brought_over(settling: Kernel) -> None:
    data = Packet("10.99.1.2", "10.99.2.2", flags=0x10)
    assert settling.from_pod(data)[:2] == ("SETTLING", 2)
    settling.maps.flows.put(FlowKey(Ip("10.99.2.2"), Ip("10.99.1.2"), 80, 40000), Flow(1, 3, 0))
    settling.maps.flows.put(FlowKey(Ip("10.99.1.2"), Ip("10.99.2.2"), 40000, 80), Flow(1, 3, 0))
    assert settling.from_pod(data).reason in {"LOCAL_FLOW", "FLOW_RENEWED"}


def test_it_is_not_adopted_either(settling: Kernel) -> None:
    """It may be the proxy's: then the note of that is still to come."""
    source = Source(settling.a, Ip("10.99.1.2"))
    row = settling.maps.sources.find(source)
    assert row is not None
    settling.maps.sources.put(source, row._replace(adopt_until=1 << 62))
    try:
        assert settling.from_pod(Packet("10.99.1.2", "10.99.2.2", flags=0x10)).reason == "SETTLING"
    finally:
        settling.maps.sources.put(source, row)


def test_everybody_elses_packets_go_on(settling: Kernel) -> None:
    outside = Packet("10.99.1.2", "203.0.113.9", flags=0x10)
    assert settling.from_pod(outside).reason == "OUTSIDE_FLOW"
    assert settling.from_pod(Packet("10.99.1.2", "10.99.2.2")).reason == "STEERED"
    held = Packet("10.99.1.2", "10.99.2.2", flags=0x10)
    with settling.proxy_socket(held):
        assert settling.from_pod(held).reason == "PROXY_FLOW"


def test_what_may_be_a_hairpins_answer_waits(settling: Kernel) -> None:
    between = Packet("10.99.1.3", "10.99.1.2", flags=0x10)
    assert settling.from_proxy(between)[:2] == ("SETTLING", 2)
    assert settling.from_proxy(Packet("10.99.1.3", "10.99.1.2")).reason == "INTO_POD"
    assert settling.from_proxy(Packet("10.99.2.2", "10.99.1.2", flags=0x10)).reason == "INTO_POD"
