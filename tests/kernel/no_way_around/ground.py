# SPDX-License-Identifier: Apache-2.0
"""The ground of the vectors: a node as conftest.py has it, a host behind its wire, a worker's listeners, and silence.

Silent, because exactly the named counters may move: neighbours are known beforehand, nobody looks for routers or
duplicates, and the stacks of the pods and of the host take nothing in (what reaches them is seen before). The node
checks no reverse path and its firewall is empty, so nothing but the programs stops anything.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodeagent.kernel.listeners import ListenerKind
from nodeagent.kernel.netns import MNT_DETACH, unmount
from nodeagent.model.address import Cidr, Port, parse_ip
from nodeagent.model.exclusion import Exclusion
from nodeagent.policy.verdict_table import VerdictRow
from tests.kernel.conftest import FAMILIES, Node, Pod, inside
from tests.kernel.namespaces import ip, mac, make_namespace, sysctl
from tests.kernel.no_way_around.vector import ALLOWED_PORT, BACK_PORT, Cast

_QUIET = {
    "accept_dad": 0,
    "router_solicitations": 0,
    "accept_ra": 0,
    "addr_gen_mode": 1,
    "mldv2_unsolicited_report_interval": 1,  # reports of groups are repeated at once, not within a second
}
_GATEWAYS = {"IPv4": "169.254.1.1", "IPv6": "fe80::ee"}
_WIRE = {"IPv4": ("198.51.100.1", "198.51.100.2"), "IPv6": ("2001:db8:1::1", "2001:db8:1::2")}
"""The node's end and the host's."""
EXCLUDED = frozenset(Exclusion(Cidr.parse(block), Port(0)) for block in ("10.97.0.0/16", "fd97::/16"))
KNOWN = tuple(str(address) for family in FAMILIES.values() for address in (family.remote, family.excluded))


class Ground(Node):
    def __init__(self, run_dir: Path, *, is_bridged: bool) -> None:
        self.is_bridged = is_bridged
        _quieten(None)
        if is_bridged:
            ip("link add br0 type bridge mcast_snooping 0", "link set br0 up")
        super().__init__(run_dir)
        self.wire = self._make_wire()
        for device in Path("/proc/sys/net/ipv4/conf").iterdir():
            for silenced in ("rp_filter", "send_redirects"):
                (device / silenced).write_text("0\n", encoding="ascii")
        self.proxy = Path(self.steering.netns_path())
        # An answer that nobody acknowledges is not sent again, in the midst of a later vector.
        sysctl(self.proxy, ipv4__tcp_synack_retries=0)
        self.listeners = self.steering.make_listeners()
        for kind, listener in self.listeners.items():
            self.steering.put_listener(kind, 0, listener)
        self.capture()

    def capture(self, adoption_seconds: int = 0) -> None:
        """Pods a and b; their adoption window is that of a new enrolment."""
        self.enrol()
        self.enrol(self.a, self.b, known=KNOWN, adoption_seconds=adoption_seconds, excluded=EXCLUDED)
        self.allow()

    def allow(self) -> None:
        """What vector.py says of its allowed port."""
        numbers = {pod.name: pod.number for pod in self.steering.pods()}
        a, b = numbers["a"], numbers["b"]
        self.steering.put_verdicts(
            [
                *(VerdictRow(number, 15008, 0) for number in (a, b)),  # as the agent closes it
                VerdictRow(b, ALLOWED_PORT, 1 << a),
                VerdictRow(a, BACK_PORT, 1 << b),
            ]
        )

    def pod(self, name: str, number: int) -> Pod:
        ipv4, ipv6 = f"10.99.1.{number}", f"fd99:1::{number:x}"
        pod = Pod(name, make_namespace(self.run_dir / f"na-t-{name}"), (parse_ip(ipv4), parse_ip(ipv6)))
        self.plug(pod)
        return pod

    def plug(self, pod: Pod, ifindex: int = 0) -> None:
        """Gives it a device, by its addresses."""
        device, leads = pod.device, "br0" if self.is_bridged else pod.device
        gateways = ("addr add fe80::ee/64 dev {} nodad", "addr add 169.254.1.1/32 dev {}")
        own = _join(pod.netns, device, ifindex)
        ip(
            f"link set {device} up",
            *([f"link set {device} master br0"] if self.is_bridged else [line.format(device) for line in gateways]),
            *(f"route add {address} dev {leads}" for address in pod.addresses),
            *(_known(address, leads, own) for address in pod.addresses),
        )
        ip(
            *inside(pod),
            *(_known(gateway, "eth0", mac(leads)) for gateway in _GATEWAYS.values()),
            netns=pod.netns,
        )
        _silence(pod.netns)

    def _make_wire(self) -> Pod:
        wire = Pod("w", make_namespace(self.run_dir / "na-t-w"), ())
        own = _join(wire.netns, wire.device, 0)
        ip("link set lo up", "link set eth0 up", netns=wire.netns)
        (here, there), (here6, there6) = _WIRE["IPv4"], _WIRE["IPv6"]
        ip(
            f"link set {wire.device} up",
            f"addr add {here} dev {wire.device}",
            f"addr add {here6} dev {wire.device} nodad",
            *(f"route add default via {host} dev {wire.device} onlink" for host in (there, there6)),
            *(_known(host, wire.device, own) for host in (there, there6)),
        )
        _silence(wire.netns)
        return wire

    def cast(self, family: str) -> Cast:
        named = FAMILIES[family]
        is_ipv6 = int(named.is_ipv6)
        pods = {"a": self.a, "b": self.b, "x": self.x, "wire": self.wire}
        macs = {name: mac("eth0", pod.netns) for name, pod in pods.items()}
        macs |= {
            f"{name}'": mac("br0" if self.is_bridged and name != "wire" else pod.device) for name, pod in pods.items()
        }
        macs |= {"worker": mac("eth0", self.proxy), "worker'": mac("na0")}
        return Cast(
            is_ipv6=named.is_ipv6,
            pod=str(named.pod),
            neighbour=str(named.neighbour),
            stranger=str(self.x.addresses[is_ipv6]),
            remote=str(named.remote),
            outside=str(named.outside),
            node=str(named.node),
            gateway=_GATEWAYS[family],
            excluded=str(named.excluded),
            macs=macs,
            listeners=tuple(self.listeners[kind].getsockname()[1] for kind in ListenerKind),
        )

    def close(self) -> None:
        for listener in self.listeners.values():
            listener.close()
        super().close()
        unmount(self.wire.netns, MNT_DETACH)


@contextmanager
def on_one_processor() -> Iterator[None]:
    """Whatever this thread sends is worked off in the order in which it was sent."""
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(former)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)


def _join(netns: Path, device: str, ifindex: int) -> bytes:
    """A pair of devices: `device` on the node, eth0 in `netns`, whose address is returned."""
    index = f"index {ifindex}" if ifindex else ""
    _quieten(netns)
    ip(f"link add {device} {index} type veth peer name eth0 netns {netns}")
    return mac("eth0", netns)


def _quieten(netns: Path | None) -> None:
    """Devices that are made from here on."""
    sysctl(netns, **{f"ipv6__conf__default__{name}": value for name, value in _QUIET.items()})


def _known(address: str, device: str, link: bytes) -> str:
    return f"neigh replace {address} lladdr {link.hex(':')} dev {device} nud permanent"


def _silence(netns: Path) -> None:
    """What comes in by eth0 is seen by taps and by nobody else: no route leads it on, and it is not answered."""
    for family in ("-4", "-6"):
        ip(
            "rule add pref 1 lookup local",
            "rule del pref 0",
            "rule add pref 0 iif eth0 blackhole",
            netns=netns,
            family=family,
        )
