# SPDX-License-Identifier: Apache-2.0
"""ConnectionLimit, a kind of our own: what is read, and every mistake with its line."""

import pytest

from nodeagent.controlplane.objects import ConnectionLimit
from tests.unit.controlplane.served import Read

LIMIT = """
apiVersion: nodeagent/v1
kind: ConnectionLimit
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  perSource: {connectionsPerSecond: 2.5, burst: 20, concurrent: 100}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", ({"app": "db"}, 2.5, 20, 100)),
        ("  selector: {matchLabels: {app: db}}\n", "", ({}, 2.5, 20, 100)),
        (", burst: 20, concurrent: 100", "", ({"app": "db"}, 2.5, 3, 0)),
        ("connectionsPerSecond: 2.5, burst: 20, ", "", ({"app": "db"}, 0.0, 0, 100)),
        ("2.5", "7", ({"app": "db"}, 7.0, 20, 100)),
    ],
)
def test_a_limit_is_read(read: Read, old: str, new: str, expected: tuple[dict[str, str], float, int, int]) -> None:
    (found,), findings = read(LIMIT.replace(old, new, 1))
    assert isinstance(found, ConnectionLimit)
    assert findings == []
    assert (found.selector, found.per_second, found.burst, found.concurrent) == expected


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("2.5", "0", 7, "connectionsPerSecond: a number from 0.001 to 1000000 is expected"),
        ("2.5", "-1", 7, "connectionsPerSecond: a number"),
        ("2.5", "2000000", 7, "connectionsPerSecond: a number"),
        ("2.5", "fast", 7, "connectionsPerSecond: a number"),
        ("2.5", "true", 7, "connectionsPerSecond: a number"),
        ("2.5", ".nan", 7, "connectionsPerSecond: a number"),
        ("burst: 20", "burst: 0", 7, "burst: is above 0, and of a rate"),
        ("connectionsPerSecond: 2.5, ", "", 7, "burst: is above 0, and of a rate"),
        ("concurrent: 100", "concurrent: many", 7, "concurrent: 'many' is not a whole number"),
        ("{connectionsPerSecond: 2.5, burst: 20, concurrent: 100}", "{}", 7, "spec.perSource: limits nothing"),
        ("perSource:", "perClient:", 6, "spec.perSource: a limit is needed"),
        ("concurrent:", "simultaneous:", 7, "perSource.simultaneous: there is no such field"),
        ("{matchLabels: {app: db}}", "{}", 6, "spec.selector: selects nothing"),
        ("matchLabels", "matchExpressions", 6, "selector.matchExpressions: there is no such field"),
    ],
)
def test_a_mistake_is_refused_with_its_line(read: Read, old: str, new: str, line: int, words: str) -> None:
    found, findings = read(LIMIT.replace(old, new, 1))
    assert found == []
    assert any(words in f"{finding.field}: {finding.message}" and finding.line == line for finding in findings), (
        findings
    )


def test_without_a_spec_it_is_refused(read: Read) -> None:
    found, findings = read(LIMIT[: LIMIT.index("spec:")])
    assert found == []
    assert [(finding.field, finding.message) for finding in findings] == [("spec", "a limit is needed")]


def test_another_group_has_another_kind_of_this_name(read: Read) -> None:
    found, findings = read(LIMIT.replace("nodeagent/v1", "example.com/v1"))
    assert (found, [finding.code for finding in findings]) == ([], ["MN0006"])
