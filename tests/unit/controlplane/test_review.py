# SPDX-License-Identifier: Apache-2.0
"""Every planted fault is told with its code, file, line and field, and nothing else is; the examples are clean."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.files import read_directory
from nodeagent.controlplane.finding import CODES, Finding
from nodeagent.controlplane.review import review
from nodeagent.controlplane.suppress import Suppression
from nodeagent.controlplane.translate import translate

ROOT = Path(__file__).parents[3]
BAD = ROOT / "tests/data/bad"
_PLANTED = re.compile(r"# <- (?P<code>\w+)(?: (?P<field>\S+))?$")
Fault = tuple[str, int, str, str]


def reviewed(directory: Path, *suppressions: str) -> tuple[Finding, ...]:
    catalog = admit(Catalog(), read_directory(directory, {}, None))
    return review(
        catalog, catalog.values, translate(catalog.values), [Suppression.parse(text) for text in suppressions]
    )


def planted() -> set[Fault]:
    faults = {("MN0001.yaml", 0, "MN0001", "")}
    for path in BAD.glob("*.yaml"):
        for number, line in enumerate(path.read_text().splitlines() if path.is_file() else (), 1):
            found = _PLANTED.search(line)
            if found is not None:
                faults.add((path.name, number, found["code"], found["field"] or ""))
    return faults


def test_each_planted_fault_is_told_with_code_file_line_and_field_and_nothing_else_is() -> None:
    told = {
        (Path(one.file).name, one.line, one.code, one.field)
        for one in reviewed(BAD)
        if one.code != "MN0006" or Path(one.file).stem == "MN0006"
    }
    assert told == planted()


def test_each_code_has_a_planted_fault() -> None:
    assert {code for _, _, code, _ in planted()} == set(CODES)
    assert {code for name, _, code, _ in planted() if name != f"{code}.yaml"} == set()


def test_the_examples_are_clean() -> None:
    assert reviewed(ROOT / "examples/mesh.d") == ()


POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  selector:
    matchLabels: {app: nobody}
"""


@pytest.fixture
def found() -> Callable[[str], list[tuple[str, int, str]]]:
    """Code, line and field of each finding about a text."""

    def find(text: str) -> list[tuple[str, int, str]]:
        catalog = admit(Catalog(), {"a.yaml": Content("mesh.d/a.yaml", text)})
        return [(one.code, one.line, one.field) for one in review(catalog, catalog.values, translate(catalog.values))]

    return find


Found = Callable[[str], list[tuple[str, int, str]]]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param(POLICY, 5, id="alone"),
        pytest.param(f"# a comment\n\n---\n{POLICY}", 8, id="after others"),
        pytest.param(
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: node}}\n- "
            + POLICY.replace("\n", "\n  "),
            9,
            id="in a list",
        ),
    ],
)
def test_a_finding_about_several_objects_has_the_line_of_its_field(found: Found, text: str, line: int) -> None:
    assert found(text) == [("IST0127", line, "spec.selector")]


def test_what_the_file_says_no_more_has_the_line_of_the_version_in_force() -> None:
    """The file is invalid by now; what is in force is judged, and its place is where it stood."""
    before = admit(Catalog(), {"a.yaml": Content("mesh.d/a.yaml", POLICY)})
    after = admit(before, {"a.yaml": Content("mesh.d/a.yaml", POLICY.replace("selector", "selecting"))})
    assert {(one.code, one.line) for one in review(after, after.values, translate(after.values))} == {
        ("IST0127", 5),
        ("MN0212", 5),
    }


def test_a_suppressed_finding_is_not_told_and_a_refusal_always_is() -> None:
    everything = reviewed(BAD)
    rest = reviewed(BAD, "*")
    assert rest == tuple(one for one in everything if one.is_rejected)
    without = reviewed(BAD, "MN0204=AuthorizationPolicy mn0204/*")
    assert {one.code for one in everything} - {one.code for one in without} == {"MN0204"}
