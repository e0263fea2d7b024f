# SPDX-License-Identifier: Apache-2.0
"""Lines of fields, by their paths."""

import pytest

from nodeagent.controlplane.locate import field_line, roots

TEXT = """\
metadata:
  annotations:
    istio.io/dry-run: 'true'
spec:
  rules:
  - from:
    - source:
        principals:
        - a
        - b
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", 1),
        ("metadata", 1),
        ("metadata.annotations[istio.io/dry-run]", 3),
        ("spec.rules[0]", 6),
        ("spec.rules[0].from[0].source.principals[1]", 10),
        pytest.param("spec.rules[0].from[0].source.namespaces[0]", 7, id="as far as it is written"),
        pytest.param("spec.rules[3].from", 5, id="a place that the list does not have"),
        pytest.param("metadata.annotations.x.y", 2, id="below what is not there"),
    ],
)
def test_the_line_of_a_field(path: str, line: int) -> None:
    (root,) = roots(TEXT)
    assert field_line(root, path) == line


def test_the_objects_of_a_text() -> None:
    text = "a: 1\n---\nkind: List\nitems:\n- b: 1\n- 7\n- c: 1\n---\njust text\n"
    assert [list(root.entries) for root in roots(text)] == [["a"], ["b"], ["c"]]


def test_a_text_that_is_no_yaml_has_none() -> None:
    assert list(roots("a: *elsewhere")) == []
