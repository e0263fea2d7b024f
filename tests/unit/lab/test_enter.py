# SPDX-License-Identifier: Apache-2.0
"""Which place of which lab is meant; that one gets there, tests/e2e/test_walk.py says."""

from pathlib import Path

import pytest

from nodeagent.errors import ConfigError
from nodeagent.lab.enter import Place, become, choose_run, find_node, find_place
from nodeagent.lab.journal import Entry, Kind, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Number 2, with one node and one pod, as a lab makes them."""
    (tmp_path / "na-2/node-a/pods/web").mkdir(parents=True)
    entries = (
        Entry(Kind.CGROUP, str(tmp_path / "na-2")),
        Entry(Kind.PINNED, "/run/netns/na-node-a.2"),
        Entry(Kind.LINK, "/run/nodeagent-lab/2/node-a"),
        Entry(Kind.PINNED, "/run/netns/na-web.2"),
    )
    return Run(2, 42, entries)


def test_a_node_has_mounts_of_its_own(run: Run, tmp_path: Path) -> None:
    assert find_place(run, "node-a") == Place(
        Path("/run/netns/na-node-a.2"), Path("/run/nodeagent-lab/2/node-a"), tmp_path / "na-2/node-a"
    )


def test_a_pod_is_in_its_nodes_cgroup_of_pods(run: Run, tmp_path: Path) -> None:
    assert find_place(run, "web") == Place(Path("/run/netns/na-web.2"), None, tmp_path / "na-2/node-a/pods/web")


def test_no_such_place(run: Run) -> None:
    with pytest.raises(ConfigError, match="no node or pod 'db'") as error:
        find_place(run, "db")
    assert error.value.check == "It has node-a, web."


@pytest.mark.parametrize(
    ("numbers", "wanted", "chosen"),
    [([4], None, 4), ([4], 4, 4), ([3, 4], 3, 3), ([], None, None), ([4], 3, None), ([3, 4], None, None)],
)
def test_which_run(numbers: list[int], wanted: int | None, chosen: int | None) -> None:
    runs = [Run(number, 1, ()) for number in numbers]
    if chosen is None:
        with pytest.raises(ConfigError):
            choose_run(runs, wanted)
    else:
        assert choose_run(runs, wanted).number == chosen


def test_a_node_is_found_in_whichever_lab_has_it(run: Run) -> None:
    other = Run(3, 42, (Entry(Kind.PINNED, "/run/netns/na-node-b.3"), Entry(Kind.LINK, "/run/nodeagent-lab/3/node-b")))
    found = find_node([run, other], "node-b", None)
    assert found is not None
    assert found.netns == Path("/run/netns/na-node-b.3")
    assert find_node([run, other], "web", None) is None, "a pod is no node"
    assert find_node([run, other], "node-b", 2) is None
    assert find_node([], "node-a", None) is None
    twin = Run(4, 42, other.entries)
    with pytest.raises(ConfigError, match="2 labs are running: 3, 4") as error:
        find_node([other, twin], "node-b", None)
    assert "NODEAGENT_LAB_RUN" in error.value.check


def test_no_such_program() -> None:
    with pytest.raises(ConfigError, match="no program"):
        become(Place(Path("/nowhere"), None, None), ["no-such-program-at-all"])
