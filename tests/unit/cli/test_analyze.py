# SPDX-License-Identifier: Apache-2.0
"""`nodeagent analyze`: forms of the answer, exit statuses, suppressions, errors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., tuple[int, str, str]]

WARNED = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  selector: {}
"""
REFUSED = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: q, namespace: shop}
spec:
  mtls: {mode: SOMETIMES}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.d"
    path.mkdir()
    (path / "a.yaml").write_text(WARNED)
    return path


def test_a_table_with_place_code_object_and_field(call: Call, directory: Path) -> None:
    (directory / "b.yaml").write_text(REFUSED)
    status, out, _ = call("analyze", str(directory))
    assert status == 1
    lines = out.splitlines()
    assert lines[0].split() == ["PLACE", "SEVERITY", "CODE", "OBJECT", "FIELD", "MESSAGE"]
    assert lines[1].split()[:6] == [
        f"{directory}/a.yaml:5",
        "warning",
        "MN0213",
        "AuthorizationPolicy",
        "shop/p",
        "spec.selector",
    ]
    assert f"{directory}/b.yaml:5" in lines[2]
    assert lines[-1] == "2 files, 1 objects in force: 1 error, 1 warning"


def test_json_has_everything(call: Call, directory: Path) -> None:
    status, out, _ = call("analyze", str(directory), "-o", "json")
    told = json.loads(out)
    assert (status, told["ok"], told["files"], told["objects"]) == (0, True, 1, 1)
    assert told["counts"] == {"error": 0, "warning": 1, "info": 0}
    (finding,) = told["findings"]
    assert finding["line"] == 5
    assert finding["field"] == "spec.selector"
    assert set(finding) == {
        "file",
        "line",
        "severity",
        "code",
        "subject",
        "message",
        "check",
        "is_rejected",
        "field",
    }


@pytest.mark.parametrize(
    ("text", "fail_on", "status"),
    [
        (WARNED, "error", 0),
        (WARNED, "warning", 1),
        (WARNED, "info", 1),
        (REFUSED, "error", 1),
        (REFUSED, "never", 0),
    ],
)
def test_the_exit_status_is_of_the_least_severity_that_fails(
    call: Call, directory: Path, text: str, fail_on: str, status: int
) -> None:
    (directory / "a.yaml").write_text(text)
    assert call("analyze", str(directory), "--fail-on", fail_on)[0] == status


def test_suppressions(call: Call, directory: Path) -> None:
    asked = ("analyze", str(directory), "--fail-on", "warning")
    assert call(*asked, "--suppress", "MN0213")[0] == 0
    assert call(*asked, "--suppress", "MN0213=AuthorizationPolicy shop/*")[1].endswith("nothing to say\n")
    assert call(*asked, "--suppress", "MN0213=AuthorizationPolicy ops/*")[0] == 1


def test_unknown_fields(call: Call, directory: Path) -> None:
    (directory / "a.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {brandNew: 1}\n")
    assert call("analyze", str(directory))[0] == 1
    status, out, _ = call("analyze", str(directory), "--unknown-fields", "warn")
    assert status == 0
    assert "MN0212" in out


def test_a_code_is_explained(call: Call) -> None:
    status, out, _ = call("analyze", "--explain", "MN0201")
    assert status == 0
    assert "**What to do**" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "DIRECTORY"),
        (("nowhere",), "mesh directory nowhere"),
        (("--explain", "MN9999"), "no code 'MN9999'"),
        ((".", "--suppress", "all of them"), "--suppress"),
    ],
)
def test_wrong_use(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, told = call("analyze", *arguments)
    assert status == 2
    assert words in told
