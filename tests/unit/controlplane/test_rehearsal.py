# SPDX-License-Identifier: Apache-2.0
"""Steps: what they change, what of an invalid one counts, and what cannot be read."""

from pathlib import Path

import pytest

from nodeagent.controlplane.objects import Enrolment
from nodeagent.controlplane.rehearsal import Change, rehearse
from nodeagent.errors import ConfigError

POD = """
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: shop}
status: {podIP: 10.244.1.7}
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: NAME, namespace: shop}
spec: {mtls: {mode: MODE}}
"""


def played(folder: Path, *texts: tuple[str, str]) -> list[Change]:
    """The first is the beginning."""
    paths = [folder / name for name, _ in texts]
    for path, (_, text) in zip(paths, texts, strict=True):
        path.write_text(text)
    return list(rehearse(paths[0], tuple(paths[1:]), None))


def told(change: Change) -> tuple[str, list[str], tuple[str, ...]]:
    return change.name, [resource.name for _, resource in change.changed], change.removed


def test_a_step_is_applied_or_deleted_by_its_name(tmp_path: Path) -> None:
    changes = played(
        tmp_path,
        ("begin.yaml", POD.replace("NAME", "a")),
        ("1-add.yaml", POD.replace("NAME", "b")),
        ("2-same.yaml", POD.replace("NAME", "b")),
        ("3-delete.yaml", POD.replace("NAME", "a")),
    )
    a, b = (f"Kubernetes//Pod/shop/{name}" for name in "ab")
    assert [told(change) for change in changes] == [
        ("", [a], ()),
        ("1-add.yaml", [b], ()),
        ("2-same.yaml", [], ()),
        ("3-delete.yaml", [], (a,)),
    ]


def test_the_beginning_may_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POD.replace("NAME", "a"))
    (tmp_path / "b.yaml").write_text(POD.replace("NAME", "b"))
    (change,) = rehearse(tmp_path, (), None)
    assert len(change.changed) == 2


def test_what_is_refused_leaves_what_was_there(tmp_path: Path) -> None:
    bad = POD.replace("NAME", "a").replace("10.244.1.7", "10.244.1.777")
    beginning, step = played(tmp_path, ("begin.yaml", POD.replace("NAME", "a")), ("1.yaml", bad))
    assert beginning.findings == ()
    assert (step.changed, step.removed) == ((), ())
    (finding,) = step.findings
    assert (finding.file, finding.line) == (str(tmp_path / "1.yaml"), 5)


def test_what_is_refused_can_be_deleted(tmp_path: Path) -> None:
    bad = POD.replace("NAME", "a").replace("10.244.1.7", "10.244.1.777")
    _, step = played(tmp_path, ("begin.yaml", POD.replace("NAME", "a")), ("delete.yaml", bad))
    assert step.removed == ("Kubernetes//Pod/shop/a",)


def test_an_object_is_as_old_as_the_step_in_which_it_came(tmp_path: Path) -> None:
    """Of two PeerAuthentications of a namespace the oldest counts, however often it is changed."""
    first, second = STRICT.replace("NAME", "z"), STRICT.replace("NAME", "a")
    *_, added, changed = played(
        tmp_path,
        ("begin.yaml", POD.replace("NAME", "a")),
        ("1.yaml", first.replace("MODE", "PERMISSIVE")),
        ("2.yaml", second.replace("MODE", "STRICT")),
        ("3.yaml", first.replace("MODE", "STRICT")),
    )
    assert added.changed == ()
    assert [resource.name for _, resource in changed.changed] == ["Kubernetes//Pod/shop/a"]


def test_enrolment_goes_before_the_meshs_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(
        POD.replace("NAME", "a").replace("shop}", "shop, annotations: {ambient.istio.io/redirection: enabled}}")
    )
    (by_label,) = rehearse(path, (), None)
    (by_annotation,) = rehearse(path, (), Enrolment.ANNOTATION)
    assert by_label.changed != by_annotation.changed


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.yaml", None, "none.yaml: no such file or directory"),
        ("bad.yaml", "a: [", "bad.yaml:2: not YAML"),
    ],
)
def test_what_cannot_be_read_ends_it_before_anything_is_told(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    begin, step = tmp_path / "begin.yaml", tmp_path / name
    begin.write_text(POD.replace("NAME", "a"))
    if text is not None:
        step.write_text(text)
    with pytest.raises(ConfigError, match=message):
        next(rehearse(begin, (step,), None))


def test_a_step_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: is a directory"):
        list(rehearse(tmp_path, (tmp_path,), None))
