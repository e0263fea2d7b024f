# SPDX-License-Identifier: Apache-2.0
"""The command `translate`: lines of JSON, findings beside them, exit status."""

import json
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]
BASIC = ROOT / "tests/data/istiod/basic"
Call = Callable[..., tuple[int, str, str]]


def test_a_line_for_each_resource_and_then_for_each_step(call: Call) -> None:
    steps = ("step-01-apply-new-pod.yaml", "step-04-delete-pod.yaml")
    arguments = [part for step in steps for part in ("--step", str(BASIC / step))]
    status, out, _ = call(
        "translate", str(BASIC / "input.yaml"), *arguments, "--enrolment", "annotation", "-o", "jsonl"
    )
    lines = [json.loads(line) for line in out.splitlines()]
    resources, (added, gone) = lines[:-2], lines[-2:]
    assert status == 0
    assert {tuple(line) for line in resources} == {("type", "name", "json")}
    (web,) = [line for line in resources if line["name"] == "Kubernetes//Pod/shop/web-6d4f-aaaaa"]
    assert web["type"] == "istio.workload.Address"
    assert web["json"]["workload"]["tunnelProtocol"] == "HBONE"
    assert (added["step"], [line["name"] for line in added["changed"]], added["removed"]) == (
        steps[0],
        ["Kubernetes//Pod/shop/web-6d4f-ccccc"],
        [],
    )
    assert gone == {"step": steps[1], "changed": [], "removed": ["Kubernetes//Pod/shop/web-6d4f-bbbbb"]}


def test_policies_are_of_their_own_type(call: Call) -> None:
    _, out, _ = call("translate", str(ROOT / "tests/data/istiod/authz/input.yaml"))
    types = {json.loads(line)["type"] for line in out.splitlines()}
    assert types == {"istio.workload.Address", "istio.security.Authorization"}


def test_what_an_istiod_has_no_words_for_is_shown_on_request(call: Call) -> None:
    """Dry runs here: an istiod tells nobody of them, and is to be compared with."""
    _, out, _ = call("translate", str(ROOT / "tests/data/istiod/authz/input.yaml"), "--extensions")
    extensions = [one for line in out.splitlines() if "nodeagent" in (one := json.loads(line))["type"]]
    assert {one["type"] for one in extensions} == {"nodeagent.extension.v1.Extension"}
    assert "dry-run/shop/wl-dry-run" in {one["name"] for one in extensions}


def test_findings_are_told_beside_the_answer(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: x}\n")
    status, out, err = call("translate", str(path))
    assert (status, out) == (0, "")
    assert f"{path}:4: error IST0106 Pod default/a status.podIP" in err


def test_a_file_that_cannot_be_read_is_told_with_what_to_check(call: Call, tmp_path: Path) -> None:
    status, out, err = call("translate", str(tmp_path / "none"))
    assert (status, out) == (2, "")
    assert "no such file or directory" in err
    assert "check: Is the path right?" in err


def test_another_form_is_a_wrong_flag(call: Call) -> None:
    status, _, err = call("translate", str(BASIC), "-o", "yaml")
    assert status == 2
    assert "jsonl" in err


def test_steps_may_stand_behind_one_flag_or_each_behind_its_own(call: Call) -> None:
    path, first, second, third = (
        str(BASIC / name)
        for name in (
            "input.yaml",
            "step-01-apply-new-pod.yaml",
            "step-02-apply-pod-ready.yaml",
            "step-03-apply-pod-not-ready.yaml",
        )
    )
    expected = call("translate", path, "--step", first, "--step", second, "--step", third, "-o", "jsonl")
    assert len([line for line in expected[1].splitlines() if line.startswith('{"step"')]) == 3
    for arguments in (
        (path, "--step", first, second, third, "-o", "jsonl"),
        (path, "--step", first, second, "-o", "jsonl", "--step", third),
        ("-o", "jsonl", path, "--step", first, "--step", second, third),
        ("--step", first, path, "--step", second, third),
    ):
        assert call("translate", *arguments) == expected


def test_a_second_path_is_a_mistake(call: Call) -> None:
    status, _, err = call("translate", str(BASIC), str(BASIC))
    assert status == 2
    assert "unexpected extra argument" in err
