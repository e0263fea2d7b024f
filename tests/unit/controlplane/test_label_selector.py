# SPDX-License-Identifier: Apache-2.0
"""Selectors with expressions."""

import pytest

from nodeagent.controlplane.label_selector import LabelSelector, Operator, Requirement, SelectorIndex

LABELS = {"team": "a", "env": "prod"}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param(LabelSelector(), True, id="empty selects everything"),
        pytest.param(LabelSelector({"team": "a"}), True, id="a label"),
        pytest.param(LabelSelector({"team": "a", "env": "test"}), False, id="all labels count"),
        pytest.param(LabelSelector({}, (Requirement("env", Operator.IN, ("test", "prod")),)), True, id="in"),
        pytest.param(LabelSelector({}, (Requirement("zone", Operator.IN, ("x",)),)), False, id="in, without the label"),
        pytest.param(LabelSelector({}, (Requirement("env", Operator.NOT_IN, ("prod",)),)), False, id="not in"),
        pytest.param(LabelSelector({}, (Requirement("zone", Operator.NOT_IN, ("x",)),)), True, id="not in, without it"),
        pytest.param(LabelSelector({}, (Requirement("env", Operator.EXISTS),)), True, id="exists"),
        pytest.param(LabelSelector({}, (Requirement("env", Operator.DOES_NOT_EXIST),)), False, id="does not exist"),
        pytest.param(
            LabelSelector({"team": "a"}, (Requirement("zone", Operator.EXISTS),)), False, id="labels and expressions"
        ),
    ],
)
def test_what_is_selected(*, selector: LabelSelector, expected: bool) -> None:
    assert selector.selects(LABELS) is expected


def test_an_index_finds_what_a_look_at_each_would() -> None:
    selectors: list[dict[str, str]] = [{}, {"team": "a"}, {"env": "prod", "team": "a"}, {"team": "b"}, {"env": "prod"}]
    selectors.append({"env": "prod", "zone": "z"})
    index = SelectorIndex((selector, number) for number, selector in enumerate(selectors))
    for labels in ({}, LABELS, {"team": "a"}, {"zone": "z", **LABELS}):
        expected = [number for number, one in enumerate(selectors) if one and one.items() <= labels.items()]
        assert sorted(index.selecting(labels)) == expected


def test_an_index_tells_everything_that_a_selector_belongs_to() -> None:
    index = SelectorIndex([({"app": "db"}, "db"), ({"app": "db", "tier": "a"}, "both"), ({}, "nothing")])
    assert sorted(index.values()) == ["both", "db"]
