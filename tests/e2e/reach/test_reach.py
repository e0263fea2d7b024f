# SPDX-License-Identifier: Apache-2.0
"""Every way in is guarded, in every surrounding: a test for each of the ways in each configuration and family."""

import contextlib
import functools
import socket
from collections.abc import Iterator

import pytest

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.stage import NODES
from nodeagent.lab.topology import PodNetwork
from tests.e2e.reach.applications import PATIENCE_SECONDS, Accepted
from tests.e2e.reach.attempt import attempt, judge
from tests.e2e.reach.cluster import REVOKED, Cluster
from tests.e2e.reach.surroundings import CONFIGURATIONS, Configuration
from tests.e2e.reach.ways import WAYS, Way

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def configuration(request: pytest.FixtureRequest, cluster: Cluster) -> Configuration:
    given = request.param
    assert isinstance(given, Configuration)
    cluster.configure(given)
    return given


IN_MACHINES = (Configuration(PodNetwork.BRIDGED, rp_filter=2, is_hostile=True),)
"""The hardest: on each kernel that is claimed."""

SURROUNDINGS = pytest.mark.parametrize(
    ("cluster", "configuration"),
    [
        pytest.param(
            configuration.network,
            configuration,
            id=str(configuration),
            marks=[pytest.mark.vm] if configuration in IN_MACHINES else [],
        )
        for configuration in CONFIGURATIONS
    ],
    indirect=True,
)


@SURROUNDINGS
@pytest.mark.parametrize("index", range(2), ids=("IPv4", "IPv6"))
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_way(cluster: Cluster, configuration: Configuration, way: Way, index: int) -> None:
    judge(cluster, way, index, attempt(cluster, way, index))


@SURROUNDINGS
@pytest.mark.parametrize("node", NODES)
def test_the_nodes_own_network_is_untouched(cluster: Cluster, configuration: Configuration, node: str) -> None:
    """Firewall, rules, routes of all tables, sysctls and addresses are as before there was an agent."""
    assert cluster.differences(node) == []


@SURROUNDINGS
def test_what_a_policy_revokes_ends_at_both_ends_and_nothing_else(
    cluster: Cluster, configuration: Configuration
) -> None:
    """Between nodes and on one, in both families, while nobody sends."""
    targets = [(app, index) for app in ("api", "db") for index in range(2)]
    with contextlib.ExitStack() as stack:
        cut = {target: stack.enter_context(_open(cluster, "web", *target)) for target in targets}
        bystanders = {target: stack.enter_context(_open(cluster, "batch", *target)) for target in targets}
        cluster.new_lines("node-b")
        with cluster.revoked():
            for target, connection in cut.items():
                assert _was_aborted(connection), target
            for (app, index), connection in cut.items():
                ended = Accepted(app, REVOKED, cluster.places["web"].ips[index], connection.getsockname()[1])
                has_ended = functools.partial(cluster.applications.aborted.__contains__, ended)
                eventually(has_ended, PATIENCE_SECONDS, f"{ended} ended")
            for target, connection in bystanders.items():
                connection.sendall(b"still here")
                assert connection.recv(100) == b"still here", target
            for target in targets:
                with pytest.raises(ConnectionError), _open(cluster, "web", *target):
                    pass
        for app, index in targets:
            is_served = functools.partial(_is_served, cluster, app, index)
            eventually(is_served, PATIENCE_SECONDS, f"{app} is open again")
        cluster.await_the_kernel()


@contextlib.contextmanager
def _open(cluster: Cluster, source: str, app: str, index: int) -> Iterator[socket.socket]:
    """A connection that the application has greeted. Raises ConnectionError when it is refused."""
    client = cluster.places[source]
    with client.connect(cluster.places[app].ips[index], REVOKED, seconds=PATIENCE_SECONDS) as connection:
        greeting = connection.recv(100)
        if not greeting:
            raise ConnectionError("ended without a greeting")
        assert greeting.split()[0].decode() == client.ips[index]
        yield connection


def _was_aborted(connection: socket.socket) -> bool:
    try:
        connection.recv(1)
    except (ConnectionResetError, ConnectionAbortedError):
        return True
    return False


def _is_served(cluster: Cluster, app: str, index: int) -> bool:
    with contextlib.suppress(ConnectionError), _open(cluster, "web", app, index):
        return True
    return False
