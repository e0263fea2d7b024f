# SPDX-License-Identifier: Apache-2.0
"""The last good version stays in force: every way in which a file can become wrong."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.objects import AuthorizationPolicy, Key
from nodeagent.model.policy import Action

POLICY = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {}}}\nspec: {}\n"
GOOD, BETTER = "{action: DENY, rules: [{}]}", "{action: ALLOW, rules: [{}]}"
BAD = "{action: DENY, rules: [{to: [{operation: {ports: ['70000']}}]}]}"


def policies(*pairs: tuple[str, str]) -> str:
    return "---\n".join(POLICY.format(name, spec) for name, spec in pairs)


def files(**texts: str) -> dict[str, Content]:
    return {f"{name}.yaml": Content(f"mesh.d/{name}.yaml", text) for name, text in texts.items()}


def in_force(catalog: Catalog) -> dict[str, Action]:
    found = {}
    for key, accepted in catalog.objects.items():
        assert isinstance(accepted.value, AuthorizationPolicy)
        assert accepted.value.action is not None
        found[key.name] = accepted.value.action
    return found


def codes(catalog: Catalog) -> list[tuple[str, str, int]]:
    return [(finding.code, finding.file, finding.line) for finding in catalog.findings]


BEFORE = admit(Catalog(), files(a=policies(("one", GOOD), ("two", GOOD)), b=policies(("three", GOOD))))
ALL = {"one": Action.DENY, "two": Action.DENY, "three": Action.DENY}


def test_valid_objects_are_in_force() -> None:
    assert in_force(BEFORE) == ALL
    assert BEFORE.findings == ()


def test_an_invalid_object_keeps_its_version_and_its_neighbours_change() -> None:
    after = admit(BEFORE, files(a=policies(("one", BAD), ("two", BETTER)), b=policies(("three", GOOD))))
    assert in_force(after) == ALL | {"two": Action.ALLOW}
    assert codes(after) == [("IST0106", "mesh.d/a.yaml", 4)]
    again = admit(after, files(a=policies(("one", BAD)), b=policies(("three", GOOD))))
    assert in_force(again) == {"one": Action.DENY, "three": Action.DENY}


def test_an_invalid_object_without_earlier_version_is_not_in_force() -> None:
    assert in_force(admit(Catalog(), files(a=policies(("one", BAD), ("two", GOOD))))) == {"two": Action.DENY}


def test_a_repaired_object_is_in_force() -> None:
    broken = admit(BEFORE, files(a=policies(("one", BAD), ("two", GOOD)), b=policies(("three", GOOD))))
    mended = admit(broken, files(a=policies(("one", BETTER), ("two", GOOD)), b=policies(("three", GOOD))))
    assert in_force(mended) == ALL | {"one": Action.ALLOW}
    assert mended.findings == ()


def test_a_file_that_is_no_yaml_keeps_everything_it_had() -> None:
    after = admit(BEFORE, files(a="spec: [", b=policies(("three", BETTER))))
    assert in_force(after) == ALL | {"three": Action.ALLOW}
    assert codes(after) == [("MN0002", "mesh.d/a.yaml", 2)]


def test_a_file_that_cannot_be_read_keeps_everything_it_had() -> None:
    problem = Finding("mesh.d/a.yaml", 0, Severity.ERROR, "MN0001", "", "gone dark", "Light it.", is_rejected=True)
    contents = files(b=policies(("three", GOOD))) | {"a.yaml": Content("mesh.d/a.yaml", problem=problem)}
    after = admit(BEFORE, contents)
    assert in_force(after) == ALL
    assert after.findings == (problem,)


def test_a_document_that_lost_its_name_removes_nothing() -> None:
    text = policies(("one", GOOD), ("two", GOOD)).replace("name: two", "nam: two")
    after = admit(BEFORE, files(a=text, b=policies(("three", GOOD))))
    assert in_force(after) == ALL
    assert codes(after) == [("MN0005", "mesh.d/a.yaml", 6)]


def test_what_is_deleted_is_gone_even_after_it_was_invalid() -> None:
    broken = admit(BEFORE, files(a=policies(("one", BAD), ("two", GOOD)), b=policies(("three", GOOD))))
    assert in_force(admit(broken, files(b=policies(("three", GOOD))))) == {"three": Action.DENY}
    assert in_force(admit(BEFORE, {})) == {}


def test_an_object_may_move_to_another_file() -> None:
    after = admit(BEFORE, files(a=policies(("two", GOOD)), b=policies(("three", GOOD), ("one", BETTER))))
    assert in_force(after) == ALL | {"one": Action.ALLOW}
    moved_while_invalid = admit(BEFORE, files(a=policies(("two", GOOD)), c=policies(("one", BAD), ("three", GOOD))))
    assert in_force(moved_while_invalid) == ALL


def test_of_two_the_first_counts() -> None:
    after = admit(Catalog(), files(b=policies(("one", GOOD)), a=policies(("one", BETTER), ("one", GOOD))))
    assert in_force(after) == {"one": Action.ALLOW}
    assert codes(after) == [("MN0004", "mesh.d/a.yaml", 6), ("MN0004", "mesh.d/b.yaml", 1)]


def test_unchanged_files_are_not_parsed_again() -> None:
    after = admit(BEFORE, files(a=policies(("one", GOOD), ("two", GOOD)), b=policies(("three", BETTER))))
    key = Key("AuthorizationPolicy", "default", "one")
    assert after.objects[key].value is BEFORE.objects[key].value
    assert after.files["b.yaml"] is not BEFORE.files["b.yaml"]


def test_an_object_that_moved_and_is_invalid_there_outlives_the_file_it_came_from() -> None:
    two = files(a=policies(("two", GOOD)), b=policies(("three", GOOD), ("one", BAD)))
    moved = admit(BEFORE, two)
    assert in_force(moved) == ALL
    gone = admit(moved, {"b.yaml": two["b.yaml"]})
    assert in_force(gone) == {"one": Action.DENY, "three": Action.DENY}


_specs = st.sampled_from([GOOD, BETTER, BAD])
_documents = st.tuples(st.sampled_from(["one", "two", "three", "four"]), _specs)
_texts = st.one_of(
    st.lists(_documents, max_size=3).map(lambda pairs: policies(*pairs)),
    st.just("{"),
    _documents.map(lambda pair: policies(pair) + "---\nkind: AuthorizationPolicy\nspec: {}\n"),
)
_directories = st.dictionaries(st.sampled_from("abc"), _texts)


@given(st.lists(_directories, min_size=2, max_size=6))
def test_a_change_of_some_files_is_admitted_as_if_all_had_been_looked_at(steps: list[dict[str, str]]) -> None:
    patched = whole = Catalog()
    contents: dict[str, Content] = {}
    for step in steps:
        read = files(**step)
        contents = {
            name: contents[name] if contents.get(name) == content else content for name, content in read.items()
        }
        former, patched = patched, admit(patched, contents)
        whole = admit(dataclasses.replace(whole, has_twins=True), contents)
        assert patched.objects == whole.objects
        assert sorted(patched.findings) == sorted(whole.findings)
        assert (patched.claims, patched.from_file) == (whole.claims, whole.from_file)
        if patched.changed is not None:
            both = patched.objects.keys() | former.objects.keys()
            differing = {key for key in both if patched.objects.get(key) != former.objects.get(key)}
            assert differing <= patched.changed
