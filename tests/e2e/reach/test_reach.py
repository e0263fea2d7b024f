# SPDX-License-Identifier: Apache-2.0
"""Every way in is guarded, in every surrounding: a test for each of the ways in each configuration and family."""

import pytest

from nodeagent.lab.demo.stage import NODES
from nodeagent.lab.topology import PodNetwork
from tests.e2e.reach.attempt import attempt, judge
from tests.e2e.reach.cluster import Cluster
from tests.e2e.reach.surroundings import CONFIGURATIONS, Configuration
from tests.e2e.reach.ways import WAYS, Way

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def configuration(request: pytest.FixtureRequest, cluster: Cluster) -> Configuration:
    given = request.param
    assert isinstance(given, Configuration)
    cluster.configure(given)
    return given


IN_MACHINES = (
    Configuration(PodNetwork.ROUTED, rp_filter=1),
    Configuration(PodNetwork.BRIDGED, rp_filter=2, is_hostile=True),
)
"""The easiest and the hardest: on each kernel that is claimed."""

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
