# SPDX-License-Identifier: Apache-2.0
"""The proxy namespace: made, adopted, repaired, removed; and the node's namespace has one device and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import congestion
from nodeagent.kernel.netns import MNT_DETACH, unmount
from nodeagent.kernel.proxy_namespace import SYSCTLS, ProxyNamespace
from tests.kernel.namespaces import own_namespaces, run

pytestmark = pytest.mark.kernel


@pytest.fixture
def own_node() -> Iterator[None]:
    with own_namespaces():
        run("ip link set lo up")
        yield


@pytest.fixture
def namespace(own_node: None, tmp_path: Path) -> Iterator[ProxyNamespace]:
    made = ProxyNamespace(str(tmp_path))
    yield made
    made.remove()


def test_everything_is_there_and_a_second_look_changes_nothing(namespace: ProxyNamespace) -> None:
    crossing = namespace.ensure()
    before = _inside(namespace.path)
    assert namespace.ensure() == crossing
    assert _inside(namespace.path) == before


def test_the_way_in_and_out(namespace: ProxyNamespace) -> None:
    namespace.ensure()
    for family in ("-4", "-6"):
        rules = run(f"ip {family} rule", namespace.path).splitlines()
        assert [rule.split(":")[0] for rule in rules][:2] == ["10", "20"]
        assert "iif eth0 lookup local" in rules[0]
        assert "lookup main" in rules[1]
        assert "default dev eth0" in run(f"ip {family} route", namespace.path)
        assert "local default dev lo" in run(f"ip {family} route show table local", namespace.path)
    for name, value in SYSCTLS.items():
        assert run(f"cat /proc/sys/{name}", namespace.path).split() == value.split(), name
    chosen = run("cat /proc/sys/net/ipv4/tcp_congestion_control", namespace.path).strip()
    assert chosen == congestion.read().near
    assert not chosen.startswith("bbr")


def test_devices_answer_no_arp_and_take_no_address(namespace: ProxyNamespace) -> None:
    namespace.ensure()
    for device, where in (("na0", None), ("eth0", namespace.path)):
        shown = run(f"ip -d link show {device}", where)
        assert "NOARP" in shown
        assert "addrgenmode none" in shown
        assert "UP" in shown
        assert run(f"ip -o addr show {device}", where) == ""


def test_the_nodes_namespace_gets_one_device_and_nothing_else(own_node: None, tmp_path: Path) -> None:
    everything = (
        "ip rule; ip -6 rule; ip route show table all | grep -v 'ff00::/8 dev na0';"  # the kernel's, for any device
        "sysctl -a 2>/dev/null | grep -v '[./]na0[./]' | grep '^net' | grep -v -e nf_conntrack_count -e _hash_entries"
    )
    before = run(everything)
    namespace = ProxyNamespace(str(tmp_path))
    namespace.ensure()
    assert run(everything) == before
    assert run("ip -o link | cut -d: -f2").split() == ["lo", "na0@if2"]
    namespace.remove()


def test_an_unprivileged_socket_binds_a_pods_address(namespace: ProxyNamespace) -> None:
    namespace.ensure()
    for family, address in (("AF_INET", "10.99.1.2"), ("AF_INET6", "fd99::2")):
        program = f"import socket; socket.socket(socket.{family}).bind(('{address}', 40000))"
        run(f'setpriv --reuid 65534 --clear-groups --inh-caps=-all /usr/bin/python3 -c "{program}"', namespace.path)


def test_a_successor_adopts_it(namespace: ProxyNamespace, tmp_path: Path) -> None:
    crossing = namespace.ensure()
    inode = namespace.path.stat().st_ino
    successor = ProxyNamespace(str(tmp_path))
    assert successor.ensure() == crossing
    assert successor.path.stat().st_ino == inode
    successor.close()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("ip link del eth0", id="devices gone"),
        pytest.param("ip link set eth0 down", id="device down"),
        pytest.param("ip link set eth0 arp on", id="ARP on"),
        pytest.param("ip link set eth0 mtu 1300", id="another MTU"),
        pytest.param("ip -6 route del default", id="a route gone"),
        pytest.param("ip route del local default dev lo table local", id="the local route gone"),
        pytest.param("ip rule del pref 10; ip rule add pref 0 lookup local", id="rules as a namespace begins"),
        pytest.param("sysctl -qw net.ipv4.conf.eth0.rp_filter=1 net.ipv4.tcp_syncookies=0", id="sysctls"),
    ],
)
def test_damage_is_repaired(namespace: ProxyNamespace, damage: str) -> None:
    namespace.ensure()
    before = _inside(namespace.path)
    run(damage, namespace.path)
    assert _inside(namespace.path) != before
    namespace.ensure()
    assert _inside(namespace.path) == before


def test_an_unmounted_namespace_is_mounted_again_and_not_replaced(namespace: ProxyNamespace) -> None:
    crossing = namespace.ensure()
    inode = namespace.path.stat().st_ino
    unmount(namespace.path, MNT_DETACH)
    namespace.path.unlink()
    assert namespace.ensure() == crossing
    assert namespace.path.stat().st_ino == inode


def test_na0_of_a_namespace_that_is_gone_is_replaced(namespace: ProxyNamespace, tmp_path: Path) -> None:
    namespace.ensure()
    (tmp_path / "other").mkdir()
    successor = ProxyNamespace(str(tmp_path / "other"))
    crossing = successor.ensure()
    assert crossing.namespace >= 0
    assert "eth0" in run("ip -o link", successor.path)
    successor.remove()


def test_hostile_settings_of_the_node_do_not_come_along(own_node: None, tmp_path: Path) -> None:
    run("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 net.ipv4.conf.all.src_valid_mark=1")
    namespace = ProxyNamespace(str(tmp_path))
    namespace.ensure()
    for name in ("all/rp_filter", "eth0/rp_filter", "all/src_valid_mark"):
        assert run(f"cat /proc/sys/net/ipv4/conf/{name}", namespace.path).strip() == "0"
    namespace.remove()


def test_a_device_of_somebody_else_is_left_alone(namespace: ProxyNamespace) -> None:
    run("ip link add na0 type bridge")
    with pytest.raises(KernelError, match="na0 exists and is not ours"):
        namespace.ensure()
    assert "na0" in run("ip -o link show type bridge")


def test_removal_leaves_nothing_and_twice_is_fine(namespace: ProxyNamespace) -> None:
    namespace.ensure()
    assert namespace.remove() != []
    assert not namespace.path.exists()
    assert run("ip -o link | cut -d: -f2").split() == ["lo"]
    assert str(namespace.path) not in Path("/proc/thread-self/mounts").read_text(encoding="utf-8")
    assert namespace.remove() == []


def _inside(path: Path) -> str:
    """Everything that is set up inside, without what differs between two devices of one name."""
    names = " ".join(f"/proc/sys/{name}" for name in SYSCTLS)
    shown = run(
        "ip -o -d link | sed -e 's/^[0-9]*: //' -e 's/@if[0-9]*//' -e 's/link.ether [^ ]*//'"
        " -e 's/ state [A-Z]*//' -e 's/NO-CARRIER,//' -e 's/,LOWER_UP//';"
        f"ip rule; ip -6 rule; ip route show table all | sort; cat {names} 2>/dev/null || true",
        path,
    )
    lines = shown.replace(" linkdown", "").splitlines()
    return "\n".join(line for line in lines if "ff00::/8" not in line)  # the kernel's own, when it likes
