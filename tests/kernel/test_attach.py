# SPDX-License-Identifier: Apache-2.0
"""Programs on real devices: replaced and changed in kind under traffic, beside others', on indexes used again."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from nodeagent.errors import KernelError
from nodeagent.kernel import guard, syscall, tcx
from nodeagent.kernel.attach import Attacher, Hook, Kind, Program
from nodeagent.kernel.netns import MNT_DETACH, enter_netns, mount, unmount
from nodeagent.kernel.pins import Pins
from tests.kernel.conftest import PATIENCE_SECONDS, Node, Pod, load_code, load_verdict
from tests.kernel.namespaces import own_namespaces, run
from tests.kernel.recorded import IN_GUEST

pytestmark = pytest.mark.kernel
needs_tcx = pytest.mark.skipif(not tcx.is_supported(), reason="this kernel has no TCX (Linux 6.6)")
_REMOUNT, _READ_ONLY = 0x20, 0x1
"""MS_REMOUNT and MS_RDONLY."""
BOTH = [pytest.param("tcx", marks=needs_tcx), "clsact"]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Node]:
    """A node for one test."""
    with own_namespaces():
        made = Node(tmp_path, "clsact")
        try:
            yield made
        finally:
            made.close()


def _restart(node: Node, attach: str, *, is_upgraded: bool = False) -> None:
    node.steering.close()
    if is_upgraded:  # programs of the same maps, loaded again: another generation
        programs = Pins(node.bpffs).programs
        programs.rename(programs.with_name("0123456789ab"))
    node.steering = node.make_steering(attach)


# ---- others beside us ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _foreign(device: int, verdict: int, flags: int = 0) -> Iterator[None]:
    """A TCX program of somebody else at the device's ingress; flags 8: before all others."""
    program = load_verdict(verdict)
    try:
        link = syscall.link_create(program, device, 46, flags)
    finally:
        os.close(program)
    try:
        yield
    finally:
        os.close(link)


def _reaches(pod: Pod, target: Pod, port: int, within: float = PATIENCE_SECONDS) -> bool:
    """An address that a drop kept unresolved is asked for again a second later: what is to succeed is given seconds."""
    with target.listen(port):
        try:
            pod.dial(target.addresses[0], port, timeout=within).close()
        except TimeoutError:
            return False
    return True


_PASS, _DROP = -1, 2
TIMES = 12 if IN_GUEST else 100


@needs_tcx
def test_a_foreign_tcx_program_behind_us_gets_its_packets_and_keeps_its_place(own: Node) -> None:
    index = own.ifindex(own.a)
    assert _reaches(own.a, own.x, 8000)
    with _foreign(index, _DROP):
        _restart(own, "tcx")
        own.enrol(own.a)
        before = own.programs(own.a.device)
        assert [name.partition(":")[0] for name in before] == ["nodeagent/from_pod", "", "nodeagent/to_pod"]
        assert not _reaches(own.a, own.x, 8001, 0.5), "what we pass, it drops"
        assert own.counted("UNKNOWN_DESTINATION") != {"UNKNOWN_DESTINATION": 0}
        _restart(own, "tcx", is_upgraded=True)
        own.enrol(own.a)
        after = own.programs(own.a.device)
        assert [name.partition(":")[0] for name in after] == ["nodeagent/from_pod", "", "nodeagent/to_pod"]
        assert after != before
        own.steering.remove()
        assert own.programs(own.a.device) == [""]


@needs_tcx
def test_who_goes_before_us_stays_before_us(own: Node) -> None:
    _restart(own, "tcx")
    own.enrol(own.a)
    with _foreign(own.ifindex(own.a), _PASS, 8):
        _restart(own, "tcx", is_upgraded=True)
        own.enrol(own.a)
        names = [name.partition(":")[0] for name in own.programs(own.a.device)]
        assert names == ["", "nodeagent/from_pod", "nodeagent/to_pod"]


@pytest.mark.parametrize("attach", BOTH)
def test_a_foreign_filter_gets_its_packets(own: Node, attach: str) -> None:
    program = load_verdict(_DROP)
    syscall.pin(program, str(own.bpffs / "foreign"))
    os.close(program)
    run(f"tc qdisc add dev va clsact; tc filter add dev va ingress prio 99 bpf da object-pinned {own.bpffs}/foreign")
    _restart(own, attach)
    own.enrol(own.a)
    assert not _reaches(own.a, own.x, 8000, 0.5), "what we pass, it drops"
    own.steering.remove()
    assert own.programs("va") == ["foreign:[*fsobj]"]
    run("tc qdisc del dev va clsact")
    assert _reaches(own.a, own.x, 8001)


# ---- changes under traffic -------------------------------------------------------------------------------------------


def _send_counted(pod: Pod, during: Callable[[], None]) -> int:
    """Sends packets that from_pod alone counts (TCP behind IP options: dropped), while and until `during` is done."""
    with enter_netns(pod.netns):
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    done = threading.Event()
    sent = 0

    def send() -> None:
        nonlocal sent
        while not done.is_set() or sent < 1000:
            sender.sendto(bytes(20), ("203.0.113.9", 0))
            sent += 1

    with sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\1\1\1\1")
        thread = threading.Thread(target=send)
        thread.start()
        try:
            during()
        finally:
            done.set()
            thread.join()
    return sent


def _generations(node: Node) -> list[Program]:
    """from_pod as it is, and loaded once more with the same maps."""
    pins = Pins(node.bpffs)
    _restart(node, node.attach, is_upgraded=True)
    found = []
    for path in (pins.programs.with_name("0123456789ab") / "from_pod", pins.programs / "from_pod"):
        with syscall.opened(str(path)) as descriptor:
            found.append(Program("from_pod", syscall.program_info(descriptor).id, str(path)))
    return found


def _change(node: Node, turns: list[tuple[Kind, Program]]) -> None:
    """Each turn leaves exactly one attachment, the wanted one."""
    hook = Hook(is_in_proxy=False, device=node.ifindex(node.a))
    links = tcx.Links(Pins(node.bpffs).links)
    with contextlib.closing(links), IPRoute() as link:
        for kind, program in turns:
            attacher = Attacher(kind, links, link, link, node.steering.netns_path())
            attacher.attach(hook, program)
            (only,) = attacher.find(hook)
            assert (only.kind, only.program) == (kind, program.id)


@pytest.mark.parametrize("attach", BOTH)
def test_replacing_in_place_misses_no_packet(own: Node, attach: str) -> None:
    _restart(own, attach)
    own.enrol(own.a)
    generations = _generations(own)
    assert _reaches(own.a, own.x, 8000), "the gateway is known: what waits for that may be thrown away"
    before = own.counted("IP_OPTIONS")["IP_OPTIONS"]
    sent = _send_counted(own.a, lambda: _change(own, [(Kind(attach), program) for program in generations * TIMES]))
    assert own.counted("IP_OPTIONS")["IP_OPTIONS"] - before == sent


@needs_tcx
def test_changing_the_kind_misses_no_packet(own: Node) -> None:
    """Upgrade and rollback, with another generation each time."""
    own.enrol(own.a)
    first, second = _generations(own)
    assert _reaches(own.a, own.x, 8000), "the gateway is known: what waits for that may be thrown away"
    before = own.counted("IP_OPTIONS")["IP_OPTIONS"]
    turns = [(Kind.TCX, first), (Kind.CLSACT, second), (Kind.TCX, second), (Kind.CLSACT, first)]
    sent = _send_counted(own.a, lambda: _change(own, turns * (TIMES // 4)))
    assert own.counted("IP_OPTIONS")["IP_OPTIONS"] - before == sent


@needs_tcx
def test_an_agent_that_changes_the_kind_leaves_one(own: Node) -> None:
    own.enrol(own.a, own.b)
    for attach in ("tcx", "clsact", "auto"):
        _restart(own, attach)
        assert own.enrol(own.a, own.b) != []
        for device in ("va", "vb"):
            names = [name.partition(":")[0] for name in own.programs(device)]
            assert names == ["nodeagent/from_pod", "nodeagent/to_pod"]
        assert len(own.programs("na0")) == 1
        assert len(own.programs("eth0", Path(own.steering.netns_path()))) == 1
        assert own.enrol(own.a, own.b) == []
    _restart(own, "tcx")
    own.enrol(own.b)
    assert own.programs("va") == []


@needs_tcx
def test_an_upgrade_keeps_the_link(own: Node) -> None:
    _restart(own, "tcx")
    own.enrol(own.a)
    index = own.ifindex(own.a)
    ((program, link),) = tcx.entries(index, is_egress=False)
    _restart(own, "tcx", is_upgraded=True)
    own.enrol(own.a)
    ((later, same),) = tcx.entries(index, is_egress=False)
    assert link == same
    assert program != later


# ---- devices that go -------------------------------------------------------------------------------------------------


@needs_tcx
def test_a_link_never_serves_the_next_device_of_its_index(own: Node) -> None:
    _restart(own, "tcx")
    own.enrol(own.a, own.b)
    index, links = own.ifindex(own.a), Pins(own.bpffs).links
    pin = links / f"node-{index}-ingress"
    assert pin.exists()
    run(f"ip link del va; ip link add vnew index {index} type veth peer name vother; ip link set vnew up")
    assert own.programs("vnew") == []
    own.enrol(own.b)
    assert own.programs("vnew") == []
    assert not pin.exists(), "a link without its device is let go"
    assert own.enrol(own.b) == []


@pytest.mark.parametrize("attach", BOTH)
def test_a_read_only_bpffs_is_named_costs_no_capture_and_heals(own: Node, attach: str) -> None:
    _restart(own, attach)
    own.enrol(own.b)
    mount("bpf", own.bpffs, "bpf", flags=_REMOUNT | _READ_ONLY)
    try:
        with pytest.raises(KernelError, match="Read-only") as caught:
            own.enrol(own.a, own.b)
        assert f"mount -o remount,rw {own.bpffs}" in caught.value.check
        assert own.programs("va") == []
        assert len(own.programs("vb")) == 2
    finally:
        mount("bpf", own.bpffs, "bpf", flags=_REMOUNT)
    own.enrol(own.a, own.b)
    assert [pod.reason for pod in own.steering.pods()] == ["", ""]


@pytest.mark.parametrize("attach", BOTH)
def test_a_bpffs_that_was_unmounted_is_named_and_heals(own: Node, attach: str) -> None:
    """Its pins are gone for good, and nothing is unguarded: programs and maps are made again, in the same places."""
    _restart(own, attach)
    own.enrol(own.a)
    before, links = own.programs("va"), _links(own)
    unmount(own.bpffs, MNT_DETACH)
    assert own.programs("va") == before
    with pytest.raises(KernelError, match="bpffs") as caught:
        own.enrol(own.a)
    assert f"mount -t bpf bpf {own.bpffs}" in caught.value.check
    mount("bpf", own.bpffs, "bpf")
    own.enrol(own.a)
    assert [pod.reason for pod in own.steering.pods()] == [""]
    after = own.programs("va")
    assert [name.partition(":")[0] for name in after] == ["nodeagent/from_pod", "nodeagent/to_pod"]
    assert set(after).isdisjoint(before)
    assert _links(own) == links
    assert own.enrol(own.a) == []
    own.enrol(own.b)
    assert own.programs("va") == []


def _links(node: Node) -> list[int]:
    """Of pod a, where there are any."""
    return [
        link
        for is_egress in (False, True)
        for _, link in (tcx.entries(node.ifindex(node.a), is_egress=is_egress) if tcx.is_supported() else ())
    ]


@needs_tcx
def test_what_somebody_detaches_is_attached_anew(own: Node) -> None:
    """A descriptor of ours does not keep a link where it is no more."""
    _restart(own, "tcx")
    own.enrol(own.a)
    other = own.make_steering("tcx")
    other.remove()
    assert own.programs("va") == []
    with contextlib.closing(other):
        own.enrol(own.a)
    assert len(own.programs("va")) == 2


@pytest.mark.parametrize("attach", BOTH)
def test_a_device_that_vanishes_while_it_is_looked_at(own: Node, attach: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between discovery and attachment: that pod has a named state, the others are captured."""
    _restart(own, attach)
    attached = Attacher.attach

    def vanish(self: Attacher, hook: Hook, program: Program) -> None:
        if hook.device == own.ifindex(own.x) and "vx" in run("ip -o link"):
            run("ip link del vx")
        attached(self, hook, program)

    index = own.ifindex(own.x)
    monkeypatch.setattr(own, "ifindex", lambda _pod: index)
    monkeypatch.setattr(Attacher, "attach", vanish)
    own.enrol(own.a, own.x)
    assert [(pod.name, pod.reason) for pod in own.steering.pods()] == [("a", ""), ("x", "ATTACH_FAILED")]
    own.enrol(own.a, own.x)
    assert [(pod.name, pod.reason) for pod in own.steering.pods()] == [("a", ""), ("x", "NO_DEVICE")]


# ---- a CNI that goes past us -----------------------------------------------------------------------------------------


def _redirect_into(device: int) -> int:
    """What a CNI with eBPF host routing does with IPv4: into the pod, past its device's egress."""
    lines = [
        (0x61, 0x12, 16, 0),  # r2 = protocol of the packet
        (0xB7, 0x00, 0, _PASS),
        (0x55, 0x02, 3, socket.htons(0x0800)),  # else: exit
        (0xB7, 0x01, 0, device),
        (0xB7, 0x02, 0, 0),
        (0x85, 0x00, 0, 155),  # bpf_redirect_peer
        (0x95, 0x00, 0, 0),
    ]
    return load_code(b"".join(struct.pack("=BBhi", *line) for line in lines))


@pytest.mark.parametrize("attach", BOTH)
def test_an_egress_that_is_skipped_is_seen_by_counting_and_heals(
    own: Node, attach: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "INTERVAL_SECONDS", 0.0)
    _restart(own, attach)
    listener = own.a.listen(8000)
    own.enrol(own.a)

    def reasons() -> list[str]:
        return [pod.reason for pod in own.steering.pods()]

    with listener:
        assert reasons() == [""]
        program = _redirect_into(own.ifindex(own.a))
        syscall.pin(program, str(own.bpffs / "hostrouting"))
        os.close(program)
        run(f"tc qdisc add dev vx clsact; tc filter add dev vx ingress bpf da object-pinned {own.bpffs}/hostrouting")
        own.x.dial(own.a.addresses[0], 8000).close()
        assert reasons() == ["EGRESS_SKIPPED"]
        assert "host routing" in own.steering.pods()[0].words
        own.enrol(own.a)
        assert reasons() == ["EGRESS_SKIPPED"], "as long as nothing proves the contrary"
        run("tc qdisc del dev vx clsact")
        with pytest.raises(TimeoutError):  # steered; no worker is there
            own.x.dial(own.a.addresses[0], 8000, timeout=0.5)
        assert reasons() == [""]
