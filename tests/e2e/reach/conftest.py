# SPDX-License-Identifier: Apache-2.0
"""A cluster per pod network; its surroundings change from test to test, the agents stay."""

from collections.abc import Iterator

import pytest

from nodeagent.lab.topology import PodNetwork
from tests.e2e.reach.cluster import Cluster, running
from tests.e2e.reach.surroundings import CONFIGURATIONS


@pytest.fixture(scope="module", params=list(PodNetwork), ids=str)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    network = PodNetwork(request.param)
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = {params["configuration"] for params in calls if "configuration" in params}
    with running(network, [one for one in CONFIGURATIONS if one in wanted and one.network is network]) as made:
        yield made
