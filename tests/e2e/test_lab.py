# SPDX-License-Identifier: Apache-2.0
"""The lab itself: what it builds works, is separate, and is gone afterwards, however the run ended."""

import contextlib
import fcntl
import functools
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nodeagent.errors import NotPossible
from nodeagent.lab.bridged import BRIDGE_DEVICE
from nodeagent.lab.journal import living_runs
from nodeagent.lab.lab import Lab
from nodeagent.lab.machine import difference, machine_state
from nodeagent.lab.namespaces import PODS_FILE, Host, Node, Pod
from nodeagent.lab.topology import PodNetwork, PodSpec, Topology
from nodeagent.model.address import Ip, socket_ip
from nodeagent.model.pod import LocalPod

pytestmark = pytest.mark.e2e

MARKER = b"this must not be readable on the wire"

HOLDER = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and so does nohup
from nodeagent.lab.lab import Lab
from nodeagent.lab.topology import PodSpec, Topology
with Lab(Topology.of(["node-a"], [PodSpec(name="web", node="node-a")])) as lab:
    # The shell ends at once and leaves its child to init, as an agent leaves its workers.
    for place in (lab.nodes["node-a"], lab.pods["web"], lab.control):
        place.run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 &"])
    print(lab.run, lab.nodes["node-a"].cgroup.parent, flush=True)
    time.sleep(1000)
"""


def topology(*, outside: bool = False, mtu: int = 1500, pod_network: PodNetwork = PodNetwork.ROUTED) -> Topology:
    pods = [
        PodSpec(name="web", node="node-a", namespace="shop", service_account="web", labels={"app": "web"}),
        PodSpec(name="api", node="node-a"),
        PodSpec(name="db", node="node-b"),
        PodSpec(name="legacy", node="node-b"),
    ]
    return Topology.of(["node-a", "node-b"], pods, outside=outside, mtu=mtu, pod_network=pod_network)


@pytest.fixture(params=list(PodNetwork))
def pod_network(request: pytest.FixtureRequest) -> PodNetwork:
    return PodNetwork(request.param)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(topology()) as lab:
        yield lab


@pytest.fixture
def unchanged() -> Iterator[None]:
    """The machine is as before when the test is over."""
    Lab.clean_all()
    before = machine_state()
    yield
    assert difference(before, machine_state()) == []


def exchange(client: Host, server: Host, ip: str, payload: bytes = b"hello") -> tuple[str, bytes]:
    """What the server saw: the client's address and its bytes."""
    with server.listen(0) as listener, client.connect(ip, listener.getsockname()[1]) as connection:
        accepted, peer = listener.accept()
        with accepted:
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: accepted.recv(65536), b""))
    return socket_ip(peer[0]), received


# -- what is built ---------------------------------------------------------------------------------------------------


@pytest.mark.vm
def test_everyone_reaches_everyone_in_both_families_with_their_own_address(pod_network: PodNetwork) -> None:
    with Lab(topology(outside=True, pod_network=pod_network)) as lab:
        hosts = [*lab.nodes.values(), *lab.pods.values(), lab.control, lab.outside]
        for client in hosts:
            for server in hosts:
                for source, destination in zip(_seen_as(lab, client, server), server.ips, strict=True):
                    assert exchange(client, server, destination) == (source, b"hello"), (client, server)


def _seen_as(lab: Lab, client: Host, server: Host) -> tuple[Ip, Ip]:
    """A node is its pods' gateway; on a bridge it meets them by that address."""
    if isinstance(client, Node) and isinstance(server, Pod) and server.node == client.name:
        return lab.gateways(client) if lab.topology.pod_network is PodNetwork.BRIDGED else client.ips
    return client.ips


def test_a_pods_next_hop_is_its_node(pod_network: PodNetwork) -> None:
    with Lab(topology(pod_network=pod_network)) as lab:
        web, node = lab.pods["web"], lab.nodes["node-a"]
        with node.listen(0) as listener:
            port = listener.getsockname()[1]
            for gateway in lab.gateways(node):
                target = (f"{gateway}%eth0" if gateway.startswith("fe80") else gateway, port)
                # Inside, since that is where the name of the device means something.
                web.call(functools.partial(socket.create_connection, target, 60)).close()
                accepted, peer = listener.accept()
                accepted.close()
                assert gateway.startswith("fe80") or socket_ip(peer[0]) in web.ips


def test_bridged_pods_are_ports_of_one_bridge_whose_mac_stays() -> None:
    with Lab(topology(pod_network=PodNetwork.BRIDGED, mtu=1400)) as lab:
        node = lab.nodes["node-a"]
        before, ports = node.call(_bridge)
        assert ports == {lab.pods["web"].device, lab.pods["api"].device}
        assert node.call(lambda: _mtu(BRIDGE_DEVICE)) == 1400
        late = lab.add_pod(PodSpec(name="late", node="node-a"))
        lab.remove_pod(lab.pods["web"])
        assert node.call(_bridge) == (before, {lab.pods["api"].device, late.device})
        for ip in late.ips:  # neighbours: their frames go through the bridge, not through the node's routes
            assert exchange(lab.pods["api"], late, ip)[1] == b"hello"


def _bridge() -> tuple[str, set[str]]:
    bridge = Path("/sys/class/net", BRIDGE_DEVICE)
    return (bridge / "address").read_text(), {path.name for path in (bridge / "brif").iterdir()}


@pytest.mark.parametrize("mtu", [1280, 1400, 9000])
def test_every_device_on_the_way_has_the_mtu(mtu: int, pod_network: PodNetwork) -> None:
    with Lab(topology(mtu=mtu, pod_network=pod_network)) as lab:
        web, db, node = lab.pods["web"], lab.pods["db"], lab.nodes["node-a"]
        assert web.call(lambda: _mtu("eth0")) == mtu
        assert node.call(lambda: (_mtu(web.device), _mtu("na-uplink"))) == (mtu, mtu)
        assert lab.wire.call(lambda: _mtu("na-node-b")) == mtu
        bulk = os.urandom(100_000)  # fits into the buffers, so that one thread can do both ends
        for ip in db.ips:
            with lab.wire.tap() as tap:
                assert exchange(web, db, ip, bulk)[1] == bulk
            assert tap.result().count(ip=ip).payload_bytes >= len(bulk)


def _mtu(device: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, 0x8921, struct.pack("16s16x", device.encode()))  # SIOCGIFMTU
        return int(struct.unpack_from("i", answer, 16)[0])


def test_a_node_has_its_own_bpffs_run_directory_and_sysfs(lab: Lab) -> None:
    a, b = lab.nodes["node-a"], lab.nodes["node-b"]
    made = a.run(["sh", "-c", "mkdir -p /sys/fs/bpf/nodeagent/pins && echo here > /run/nodeagent/state"])
    assert made.returncode == 0, made.stderr

    look = ["sh", "-c", "ls -d /sys/fs/bpf/nodeagent/pins; cat /run/nodeagent/state; ls /sys/class/net"]
    # Another process of the node: pins and files outlived the one that made them.
    assert {"/sys/fs/bpf/nodeagent/pins", "here", "na-web", "na-uplink"} <= set(a.run(look).stdout.split())
    assert not {"/sys/fs/bpf/nodeagent/pins", "here", "na-web"} & set(b.run(look).stdout.split())
    assert not Path("/sys/fs/bpf/nodeagent/pins").exists()
    assert not Path("/run/nodeagent/state").exists()


def test_what_a_node_mounts_stays_there(lab: Lab) -> None:
    made = lab.nodes["node-a"].run(["mount", "-t", "tmpfs", "na-probe", "/mnt"])
    assert made.returncode == 0, made.stderr
    assert "na-probe" in lab.nodes["node-a"].read("/proc/thread-self/mounts").decode()
    assert "na-probe" not in Path("/proc/self/mounts").read_text()
    assert "na-probe" not in lab.nodes["node-b"].read("/proc/thread-self/mounts").decode()


def test_a_process_is_in_the_namespaces_and_the_cgroup_of_its_place(lab: Lab) -> None:
    node, pod = lab.nodes["node-a"], lab.pods["web"]
    for place, cgroup in ((node, node.cgroup), (pod, node.cgroup / "pods" / "web"), (lab.control, lab.control.cgroup)):
        process = place.spawn(["sleep", "1000"])
        assert Path(f"/proc/{process.pid}/ns/net").stat().st_ino == place.netns.stat().st_ino
        assert str(process.pid) in (cgroup / "cgroup.procs").read_text().split()
        own_mounts = Path(f"/proc/{process.pid}/ns/mnt").stat().st_ino != Path("/proc/self/ns/mnt").stat().st_ino
        assert own_mounts is (place is node)


def test_a_process_that_cannot_start_is_an_error_here(lab: Lab) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        lab.pods["web"].spawn(["no-such-program"])
    assert lab.pods["web"].run(["sh", "-c", "exit 7"]).returncode == 7
    with pytest.raises(subprocess.TimeoutExpired):
        lab.pods["web"].run(["sleep", "1000"], seconds=0.05)


def test_the_pods_file_lists_the_nodes_pods_and_follows_them(lab: Lab) -> None:
    node = lab.nodes["node-a"]

    def listed() -> list[tuple[str, str, str]]:
        return [tuple(pod.values()) for pod in yaml.safe_load(node.read(PODS_FILE))]

    web, api = ("shop", "web", str(lab.pods["web"].netns)), ("default", "api", str(lab.pods["api"].netns))
    assert listed() == [web, api]

    late = lab.add_pod(PodSpec(name="late", node="node-a"))
    assert listed() == [web, api, ("default", "late", str(late.netns))]
    inode = late.netns.stat().st_ino
    assert node.call(lambda: late.netns.stat().st_ino) == inode  # the same namespace by the same path
    for ip in late.ips:
        assert exchange(lab.pods["db"], late, ip)[1] == b"hello"

    process = late.spawn(["sleep", "1000"])
    lab.remove_pod(late)
    assert listed() == [web, api]
    assert process.poll() == -signal.SIGKILL
    assert not late.netns.exists()
    assert node.run(["ls", "/run/netns"]).stdout.split() == [lab.pods["api"].netns.name, lab.pods["web"].netns.name]
    assert "na-late" not in node.run(["ls", "/sys/class/net"]).stdout.split()

    successor = lab.add_pod(PodSpec(name="successor", node="node-a"))
    assert successor.ips == late.ips
    assert exchange(lab.pods["db"], successor, successor.ipv6)[1] == b"hello"

    node.write_pods([LocalPod("else", "where", "/run/netns/x")])
    assert listed() == [("else", "where", "/run/netns/x")]


def test_a_nodes_network_state_shows_what_was_added_to_it(lab: Lab) -> None:
    node = lab.nodes["node-a"]
    before = node.network_state()
    assert exchange(lab.pods["web"], lab.pods["db"], lab.pods["db"].ipv4)[1] == b"hello"
    assert difference(before, node.network_state()) == []

    node.call(lambda: Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("0"))
    assert difference(before, node.network_state()) == [
        "appeared: sysctl: net.ipv4.conf.all.rp_filter = 0",
        "vanished: sysctl: net.ipv4.conf.all.rp_filter = 1",
    ]
    assert difference(before, lab.nodes["node-b"].network_state())  # another node is another state

    before = node.network_state()
    assert node.run(["ip", "address", "add", "192.0.2.7/32", "dev", "lo"]).returncode == 0
    assert "appeared: address: lo 192.0.2.7/32" in difference(before, node.network_state())


# -- the tap ---------------------------------------------------------------------------------------------------------


def test_a_tap_sees_every_frame_once_and_counts_markers(lab: Lab, tmp_path: Path) -> None:
    web, api, db = lab.pods["web"], lab.pods["api"], lab.pods["db"]
    pcap = tmp_path / "wire.pcap"
    with lab.wire.tap(MARKER, pcap=pcap) as tap:
        for ip in db.ips:
            exchange(web, db, ip, MARKER)
        first = tap.result()
        assert [first.count(version=4).markers, first.count(version=6).markers] == [1, 1]
        assert first.count(ip=web.ipv4).payload_bytes == len(MARKER)
        exchange(web, api, api.ipv4, MARKER)  # on one node: it must not cross the link
        exchange(web, db, db.ipv4, b"something else")
    result = tap.result()
    assert result.markers == 2
    assert (result.dropped, result.truncated) == (0, 0)
    assert result.count(ip=web.ipv4).payload_bytes == len(MARKER) + len(b"something else")
    assert result.count(ip=api.ipv4).packets == 0
    assert pcap.read_bytes().count(MARKER) == 2


def test_a_tap_that_loses_packets_says_so(lab: Lab) -> None:
    web, db = lab.pods["web"], lab.pods["db"]
    bulk = bytes(64 << 20)
    with lab.wire.tap(MARKER, ring_bytes=2 << 20) as tap:
        os.kill(tap.pid, signal.SIGSTOP)
        received = db.spawn([sys.executable, "-c", RECEIVE, str(len(bulk))], stdout=subprocess.PIPE)
        assert received.stdout is not None
        port = int(received.stdout.readline())
        with web.connect(db.ipv4, port, seconds=60) as connection:
            connection.sendall(bulk)
        assert received.stdout.readline() == b"%d\n" % len(bulk)
        os.kill(tap.pid, signal.SIGCONT)
    assert tap.result().dropped > 0


RECEIVE = """
import socket, sys
listener = socket.create_server(("0.0.0.0", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
total = 0
while some := connection.recv(1 << 20):
    total += len(some)
print(total, flush=True)
"""


def test_a_tap_whose_process_is_gone_says_so(lab: Lab) -> None:
    with pytest.raises(NotPossible, match="does not answer"), lab.wire.tap() as tap:
        os.kill(tap.pid, signal.SIGKILL)


# -- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
def test_nothing_is_left_after_a_run_in_which_everything_was_used(pod_network: PodNetwork) -> None:
    with Lab(topology(outside=True, pod_network=pod_network)) as lab:
        node = lab.nodes["node-a"]
        node.run(["sh", "-c", "mkdir /sys/fs/bpf/pins; mount -t tmpfs x /mnt; sleep 1000 >/dev/null 2>&1 &"])
        left_running = lab.pods["web"].spawn(["sleep", "1000"])
        lab.remove_pod(lab.pods["db"])
        with lab.wire.tap():
            exchange(lab.pods["web"], lab.outside, lab.outside.ipv6)
        held = lab.pods["web"].socket()  # an open socket keeps the namespace, but not its name
    held.close()
    assert left_running.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("unchanged")
def test_nothing_is_left_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), Lab(topology()):
        _ = 1 // 0


@pytest.mark.usefixtures("unchanged")
def test_nothing_is_left_when_building_fails_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nodeagent.lab.routed.wire_pod", refuse)
    with pytest.raises(NotPossible, match="cannot be built"), Lab(topology()):
        pytest.fail("it must not have been built")


@contextlib.contextmanager
def holder() -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process that has a lab with three orphaned processes in it, and the lab's cgroup."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            _, cgroup = process.stdout.readline().split()
            yield process, Path(cgroup)
        finally:
            process.kill()


def pids_below(cgroup: Path) -> set[str]:
    return {pid for file in cgroup.glob("**/cgroup.procs") for pid in file.read_text().split()}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_after_a_signal(number: signal.Signals) -> None:
    with holder() as (process, cgroup):
        orphans = pids_below(cgroup)
        assert len(orphans) == 3
        process.send_signal(number)
        process.wait()
    assert process.returncode == (-signal.SIGINT if number is signal.SIGINT else 128 + number)
    assert not any(_is_running(pid) for pid in orphans)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("cleaner", ["the next start", "clean_all"])
def test_a_killed_run_is_cleaned_by(cleaner: str) -> None:
    with holder() as (process, cgroup):
        orphans = pids_below(cgroup)
        assert len(orphans) == 3
        process.kill()
        process.wait()
    assert all(_is_running(pid) for pid in orphans)  # the kernel does not do it for us
    if cleaner == "clean_all":
        assert any(str(cgroup) == entry.path for entry in Lab.clean_all().removed)
    else:
        with Lab(topology()):
            pass
    assert not any(_is_running(pid) for pid in orphans)
    assert not cgroup.exists()


def _is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.usefixtures("unchanged")
def test_a_living_run_is_left_alone_by_others() -> None:
    with holder() as (process, cgroup):
        before = pids_below(cgroup)
        assert process.pid in {run.pid for run in Lab.clean_all().alive}
        with Lab(topology()) as lab:
            assert lab.nodes["node-a"].cgroup.parent != cgroup
            assert exchange(lab.pods["web"], lab.pods["db"], lab.pods["db"].ipv4)[1] == b"hello"
        assert pids_below(cgroup) == before
        process.terminate()
        process.wait()


@pytest.mark.usefixtures("unchanged")
def test_two_labs_beside_each_other_have_the_same_addresses_and_do_not_meet() -> None:
    with Lab(topology()) as one, Lab(topology()) as two:
        assert one.run != two.run
        assert one.pods["db"].ips == two.pods["db"].ips
        with one.pods["db"].listen(5432), two.pods["web"].socket() as stranger:
            stranger.settimeout(60)
            with pytest.raises(ConnectionRefusedError):
                stranger.connect((two.pods["db"].ipv4, 5432))
        assert {one.run, two.run} <= {run.number for run in living_runs()}


@pytest.mark.usefixtures("unchanged")
def test_starts_at_the_same_moment_get_distinct_names() -> None:
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True))
            for _ in range(3)
        ]
        for process in processes:
            stack.callback(process.kill)
        runs = {process.stdout.readline().split()[0] for process in processes if process.stdout is not None}
        assert len(runs) == 3
        for process in processes:
            process.terminate()
        for process in processes:
            assert process.wait() == 128 + signal.SIGTERM


@pytest.mark.usefixtures("unchanged")
def test_a_lab_works_where_all_mounts_are_shared() -> None:
    """As systemd has them; and in a mount namespace of its own, as a container has."""
    script = 'mount --make-rshared / && exec "$0" -c "$1"'
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, sys.executable, HOLDER], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split()
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM


def test_a_nodes_mounts_can_be_entered_by_name(lab: Lab) -> None:
    node = lab.nodes["node-a"]
    made = node.run(["sh", "-c", "echo here > /run/nodeagent/state"])
    assert made.returncode == 0, made.stderr
    command = ["nsenter", f"--mount={node.mounts}", "cat", "/run/nodeagent/state"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "here\n"


@pytest.mark.usefixtures("unchanged")
def test_a_namespace_of_somebody_else_is_neither_used_nor_removed(lab: Lab) -> None:
    directory = lab.pods["web"].netns.parent
    theirs = [directory / "na-theirs", *(directory / f"na-theirs.{number}" for number in range(2, 30))]
    try:
        for path in theirs:
            path.touch()
        mine = Topology.of(["node-a"], [PodSpec(name="theirs", node="node-a")])
        with pytest.raises(NotPossible, match="no lab's journal knows it"), Lab(mine):
            pytest.fail("it must not have been built")
        assert all(path.exists() for path in theirs)
    finally:
        for path in theirs:
            path.unlink()
