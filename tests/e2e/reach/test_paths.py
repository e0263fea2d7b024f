# SPDX-License-Identifier: Apache-2.0
"""What lies between two pods: narrow links of which only ICMP tells, MTUs, and devices without offloads."""

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from nodeagent.lab import bridged
from nodeagent.lab.demo import application
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import download, upload
from nodeagent.lab.demo.stage import OUR_DEVICE
from nodeagent.lab.link import BRIDGE_DEVICE, UPLINK_DEVICE
from nodeagent.lab.namespaces import Namespace, Node
from nodeagent.lab.topology import PodNetwork, PodSpec, device_name
from tests.e2e.reach.applications import PATIENCE_SECONDS
from tests.e2e.reach.cluster import Cluster, running
from tests.e2e.reach.devices import read_mtu, read_offloads, set_mtu, set_offloads

pytestmark = pytest.mark.e2e

BULK_PORT = 5050
BULK_BYTES = 3 << 20
"""Of many sizes of segment, in several chunks and with a rest."""
APPLICATIONS = ("api", "db", "legacy")
MTU = 1500
MTUS = (1300, 1400, 9000, 65535)
EXTRA_PODS = tuple(
    PodSpec(name=f"mtu{mtu}", node="node-a", namespace="shop", service_account="web", labels={"app": "mtu"})
    for mtu in MTUS
)
"""A client for each, since a tunnel belongs to a pod's address and keeps what its ends agreed on."""


@pytest.fixture(scope="module", params=list(PodNetwork), ids=str)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with running(PodNetwork(request.param), more_pods=EXTRA_PODS) as made:
        for name in APPLICATIONS:
            process = made.pod(name).spawn(
                [sys.executable, "-S", "-E", application.__file__, str(BULK_PORT)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield made


# ---- path MTU ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(2), ids=("IPv4", "IPv6"))
def test_a_narrow_link_behind_the_next_hop(cluster: Cluster, index: int) -> None:
    """Both ends believe in 1500 bytes; the other node's router says that its last link takes less."""
    is_bridged = cluster.lab.topology.pod_network is PodNetwork.BRIDGED
    narrow = bridged.BRIDGE_DEVICE if is_bridged else cluster.pod("legacy").device
    with _mtu(cluster.lab.nodes["node-b"], narrow, 1280), _told_by_icmp(cluster):
        _demand_upload(cluster, "legacy", index)


@pytest.mark.parametrize("app", ["legacy", "db"])
@pytest.mark.parametrize("index", range(2), ids=("IPv4", "IPv6"))
def test_a_narrow_uplink_of_the_own_node(cluster: Cluster, app: str, index: int) -> None:
    """The node itself tells of it: such an error comes from no device. In plain TCP, and through a tunnel."""
    _demand_upload(cluster, app, index)  # the tunnel is there already, and believes in 1500 bytes
    with _mtu(cluster.lab.nodes["node-a"], UPLINK_DEVICE, 1300), _told_by_icmp(cluster):
        _demand_upload(cluster, app, index)


@contextlib.contextmanager
def _told_by_icmp(cluster: Cluster) -> Iterator[None]:
    """The proxy's stack learns of it by an error that to_pod handed over; forgotten at the end."""
    before = cluster.packets("node-a")
    try:
        yield
        after = cluster.packets("node-a")
        assert all(after[name] > before[name] for name in ("ICMP_ERROR", "PROXY_ICMP"))
    finally:
        cluster.in_proxy("node-a", _forget_paths)


def _forget_paths() -> None:
    for family in ("-4", "-6"):
        subprocess.run(["ip", family, "route", "flush", "cache"], check=True, capture_output=True)


# ---- MTUs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mtu", MTUS)
def test_every_mtu_is_byte_exact_and_the_proxys_pair_follows(cluster: Cluster, mtu: int) -> None:
    with contextlib.ExitStack() as stack:
        for place, device in _devices(cluster):
            stack.enter_context(_mtu(place, device, mtu))
        _await_pairs(cluster, mtu)
        _demand_byte_exact(cluster, f"mtu{mtu}")
    _await_pairs(cluster, MTU)


def _await_pairs(cluster: Cluster, mtu: int) -> None:
    for node in cluster.lab.nodes.values():
        has_followed = functools.partial(_has_pair_of, node, mtu)
        eventually(has_followed, PATIENCE_SECONDS, f"{node.name}'s pair has {mtu} bytes")


def _has_pair_of(node: Node, mtu: int) -> bool:
    return node.call(lambda: read_mtu(OUR_DEVICE)) == mtu


def _devices(cluster: Cluster) -> Iterator[tuple[Namespace, str]]:
    lab = cluster.lab
    yield lab.wire, BRIDGE_DEVICE
    for node in lab.nodes.values():
        yield lab.wire, device_name(node.name)
        yield node, UPLINK_DEVICE
        if lab.topology.pod_network is PodNetwork.BRIDGED:
            yield node, bridged.BRIDGE_DEVICE
    for pod in lab.pods.values():
        yield lab.nodes[pod.node], pod.device
        yield pod, "eth0"


@contextlib.contextmanager
def _mtu(place: Namespace, device: str, mtu: int) -> Iterator[None]:
    former = place.call(lambda: set_mtu(device, mtu))
    try:
        yield
    finally:
        place.call(lambda: set_mtu(device, former))


# ---- offloads ------------------------------------------------------------------------------------------------------

_WITHOUT_SEGMENTATION = {"tso": False, "gso": False}
_WITHOUT_ANY = {"tx": False, **_WITHOUT_SEGMENTATION, "gro": False}


@pytest.mark.parametrize(
    ("where", "values"),
    [
        pytest.param("pods", _WITHOUT_SEGMENTATION, id="pods without segmentation"),
        pytest.param("pods", _WITHOUT_ANY, id="pods without any"),
        pytest.param("hosts of pods", _WITHOUT_ANY, id="the pods' devices on the node without any"),
        pytest.param("na0", _WITHOUT_ANY, id="na0 without any"),
        pytest.param("proxy", _WITHOUT_ANY, id="the proxy's device without any"),
        pytest.param("uplinks", _WITHOUT_SEGMENTATION, id="uplinks without segmentation"),
        pytest.param("everywhere", _WITHOUT_ANY, id="nobody has any"),
        pytest.param("everywhere", {"gro": True}, id="GRO everywhere"),
    ],
)
def test_offloads_are_byte_exact(cluster: Cluster, where: str, values: dict[str, bool]) -> None:
    with contextlib.ExitStack() as stack:
        for do, device in _with_offloads(cluster, where):
            stack.enter_context(_offloads(do, device, values))
        _demand_byte_exact(cluster)


Do = Callable[[Callable[[], object]], object]
"""Runs a function in some namespace."""


def _with_offloads(cluster: Cluster, where: str) -> Iterator[tuple[Do, str]]:
    lab = cluster.lab
    for pod in lab.pods.values():
        if where in {"pods", "everywhere"}:
            yield pod.call, "eth0"
        if where in {"hosts of pods", "everywhere"}:
            yield lab.nodes[pod.node].call, pod.device
    for name, node in lab.nodes.items():
        if where in {"na0", "everywhere"}:
            yield node.call, OUR_DEVICE
        if where in {"proxy", "everywhere"}:
            yield lambda function, name=name: cluster.in_proxy(name, function), "eth0"  # type: ignore[misc]
        if where in {"uplinks", "everywhere"}:
            yield node.call, UPLINK_DEVICE


@contextlib.contextmanager
def _offloads(do: Do, device: str, values: dict[str, bool]) -> Iterator[None]:
    former: dict[str, bool] = {}
    do(lambda: former.update(read_offloads(device)))
    do(lambda: set_offloads(device, values))
    try:
        yield
    finally:
        do(lambda: set_offloads(device, former))


# ---- transfers -----------------------------------------------------------------------------------------------------


def _demand_byte_exact(cluster: Cluster, source: str = "web") -> None:
    """Both ways, both families: through a tunnel, on one node, and in plain TCP by the proxy."""
    for app in APPLICATIONS:
        for index in range(2):
            _demand_upload(cluster, app, index, source)
            expected, received, _ = download(cluster.pod(source), cluster.pod(app).ips[index], BULK_PORT, BULK_BYTES)
            assert received == expected, (app, index)


def _demand_upload(cluster: Cluster, app: str, index: int, source: str = "web") -> None:
    sent, told, _ = upload(cluster.pod(source), cluster.pod(app).ips[index], BULK_PORT, BULK_BYTES)
    assert told == sent, (app, index)
