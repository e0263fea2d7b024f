# SPDX-License-Identifier: Apache-2.0
"""A cluster per pod network; its surroundings change from test to test, the agents stay."""

from collections.abc import Iterator

import pytest

from nodeagent.lab.topology import PodNetwork
from tests.e2e.reach.cluster import Cluster, running


@pytest.fixture(scope="module", params=list(PodNetwork), ids=str)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with running(PodNetwork(request.param)) as made:
        yield made
