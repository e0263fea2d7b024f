# SPDX-License-Identifier: Apache-2.0
"""One archive with a manifest that is true, and no secret in a single byte of it, whoever had written one anywhere."""

import base64
import gzip
import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodeagent.cli import report
from nodeagent.cli.main import run
from tests.unit.cli.test_forms import validate
from tests.unit.cli.test_redact import DER, KEY, PKCS8, SEC1, TOKEN

Call = Callable[..., tuple[int, str, str]]

SCALAR = KEY.private_numbers().private_value.to_bytes(32, "big")
SECRETS = {
    "the key's number": SCALAR,
    "the key as it is encoded": DER,
    "the number in base64": base64.b64encode(SCALAR).rstrip(b"="),
    "the number in hexadecimal": SCALAR.hex().encode(),
    "the token": TOKEN.encode(),
    "the token's signature": TOKEN.rpartition(".")[2].encode(),
    **{f"line {number} of the key's PEM": line.encode() for number, line in enumerate(PKCS8.splitlines()[1:-1])},
    "a frame": b"PRIVATE KEY",
}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the report goes; of the machine only some is asked."""
    monkeypatch.setattr(report, "SYSTEM", ("uname -a", "no-such-program --at all", "sh -c 'echo out; exit 7'"))
    monkeypatch.setattr(report, "FILES", ("/proc/loadavg", "/nonexistent/file"))
    monkeypatch.setattr(report, "OURS_ALONE", ())
    made = tmp_path / "reports"
    made.mkdir()
    return made


def contents(directory: Path) -> dict[str, bytes]:
    """By name below the archive's one directory."""
    (path,) = directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            stem, _, name = member.name.partition("/")
            assert path.name == f"{stem}.tar.gz"
            file = archive.extractfile(member)
            assert file is not None
            found[name] = file.read()
    return found


def test_no_private_key_and_no_token_is_in_it(
    agent: dict[str, Any], call: Call, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though an answer, a command, an error and a log have them."""
    secrets = f"{PKCS8}\n{SEC1}\nBearer {TOKEN}\n{base64.b64encode(DER).decode()}\n"
    pod = {"namespace": secrets, "pod": TOKEN, "ips": [], "netns": "", "captured": "no", "reason": PKCS8}
    agent["/pods"] = {"pods": [pod | {"identity": "", "device": "", "hits": 0}]}
    agent["/dump"] = {"kind": "dump", "words": secrets}
    agent["/certs"] = RuntimeError(secrets)
    (tmp_path / "agent.log").write_text(f"{PKCS8[40:]}one line\n{secrets}{PKCS8[:150]}")
    monkeypatch.setattr(report, "SYSTEM", ("cat agent.log",))
    monkeypatch.chdir(tmp_path)
    status, out, _ = call("report", "--to", str(directory), "--log", "agent.log")
    assert status == 0
    (path,) = directory.iterdir()
    found = contents(directory)
    assert b"one line" in found["logs/0-agent.log"]
    for haystack in (gzip.decompress(path.read_bytes()), out.encode(), *found.values()):
        for what, secret in SECRETS.items():
            assert secret not in haystack, what
    rows = {row["name"]: row for row in json.loads(found["manifest.json"])["files"]}
    assert rows["nodeagent/dump.json"]["redactions"] >= 4
    assert rows["logs/0-agent.log"]["redactions"] >= 5


def test_an_archive_goes_where_the_output_goes(
    agent: dict[str, Any], directory: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    del agent
    assert run(["report", "--to", "-", "--dry-run"]) == 0
    assert capfdbinary.readouterr().out.startswith(b"FILE ")
    assert run(["report", "--to", "-", "--redact", "secrets"]) == 0
    said = capfdbinary.readouterr()
    assert said.err == b""
    with tarfile.open(fileobj=io.BytesIO(said.out)) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert "nodeagent/status.txt" in names
    assert names[-1] == "manifest.json"
    assert list(directory.iterdir()) == []


def test_the_manifest_says_what_is_in_it(agent: dict[str, Any], call: Call, directory: Path) -> None:
    agent["/version"] = {"version": "0.1.0"}
    status, out, err = call("report", "--to", str(directory), "-o", "json")
    assert (status, err) == (0, "")
    found = contents(directory)
    manifest = json.loads(found.pop("manifest.json"))
    assert json.loads(out) == manifest
    validate(manifest, "Report")
    rows = {row["name"]: row for row in manifest["files"]}
    assert list(rows) == list(found), "in the order of the archive"
    for name, content in found.items():
        assert rows[name]["size"] == len(content)
    assert {name.partition("/")[0] for name in rows} == {"nodeagent", "system", "files"}
    assert (rows["nodeagent/version.txt"]["exit_code"], rows["nodeagent/pods.txt"]["exit_code"]) == (0, 3)
    assert b"no agent answers" in found["nodeagent/pods.txt"]
    assert rows["system/no-such-program-at-all.txt"]["exit_code"] == 127
    assert (rows["system/sh-c-echo-out-exit-7.txt"]["exit_code"], found["system/sh-c-echo-out-exit-7.txt"]) == (
        7,
        b"out\n",
    )
    assert rows["files/nonexistent-file.txt"]["exit_code"] == 1


def test_a_long_file_is_cut_at_its_beginning(
    agent: dict[str, Any], call: Call, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MOST_BYTES", 10)
    (tmp_path / "log").write_text("x" * 100 + "the latest")
    call("report", "--to", str(directory), "--log", str(tmp_path / "log"))
    found = contents(directory)
    assert found["logs/0-log"] == b"the latest"
    rows = {row["name"]: row for row in json.loads(found["manifest.json"])["files"]}
    assert (rows["logs/0-log"]["is_cut"], rows["logs/0-log"]["size"]) == (True, 10)


def test_a_command_that_hangs_is_ended(
    agent: dict[str, Any], call: Call, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(report, "SYSTEM", ("sleep 600",))
    assert call("report", "--to", str(directory))[0] == 0
    assert b"ended after 0.05 s" in contents(directory)["system/sleep-600.txt"]


def test_a_dry_run_takes_nothing(call: Call, directory: Path) -> None:
    status, out, _ = call("report", "--to", str(directory), "--dry-run")
    assert (status, list(directory.iterdir())) == (0, [])
    assert re.search(r"^nodeagent/dump\.json +nodeagent dump --socket /run/nodeagent/admin\.sock", out, re.MULTILINE)


def test_where_nothing_can_be_written(call: Call, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    status, _, err = call("report", "--to", str(directory))
    assert status == 2
    assert "Permission denied" in err
    assert "--to" in err
    monkeypatch.undo()
    assert call("report", "--to", "/nonexistent")[0] == 2


NEW, OLD = "2999-01-01T00:00:00.000000Z", "2001-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        pytest.param(f"{OLD} a\n\ttrace\n{NEW} b\n\ttrace of b\n", f"{NEW} b\n\ttrace of b\n", id="text"),
        pytest.param(f'{{"time": "{OLD}"}}\n{{"time": "{NEW}"}}\n', f'{{"time": "{NEW}"}}\n', id="JSON"),
        pytest.param("no moment\n", "no moment\n", id="tells no time"),
        pytest.param(f"{OLD} a\n", "", id="all is older"),
        pytest.param("", "", id="empty"),
    ],
)
def test_of_a_log_its_last_while(
    agent: dict[str, Any], call: Call, directory: Path, tmp_path: Path, content: str, kept: str
) -> None:
    (tmp_path / "agent.log").write_text(content)
    status, out, _ = call(
        "report", "--to", str(directory), "--log", str(tmp_path / "agent.log"), "--since", "1h", "-o", "json"
    )
    assert status == 0
    assert contents(directory)["logs/0-agent.log"].decode() == kept
    manifest = json.loads(out)
    assert (manifest["since"], manifest["redacted"]) == ("1h", "secrets")
    (flows,) = [row["command"] for row in manifest["files"] if row["command"].startswith("nodeagent flows")]
    assert flows.startswith("nodeagent flows --since 1h -o jsonl ")


def test_a_while_that_is_none(call: Call, directory: Path) -> None:
    assert call("report", "--to", str(directory), "--since", "soon")[0] == 2
    assert list(directory.iterdir()) == []


NAMES = ("secretshop", "secretweb", "secretnode", "secretdb", "10.244.7.7", "fd00::77")


def test_strict_leaves_no_name_and_no_address(
    agent: dict[str, Any], call: Call, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing of ours wrote them; and who is the same before is the same after."""
    agent["/workloads"] = {"workloads": [{"name": "secretweb", "namespace": "secretshop", "node": "secretnode"}]}
    agent["/services"] = {"services": [{"name": "secretdb", "namespace": "secretshop", "hostname": "secretdb.local"}]}
    agent["/policies"] = {"policies": [], "missing": []}
    agent["/pods"] = {"pods": []}
    agent["/dump"] = {"kind": "dump", "words": {name: name for name in NAMES}}
    (tmp_path / "secretweb.log").write_text(f"{' '.join(NAMES)}\n")
    monkeypatch.setattr(report, "SYSTEM", ("cat secretweb.log",))
    monkeypatch.setattr("platform.node", lambda: "secretnode")
    monkeypatch.chdir(tmp_path)
    status, _, err = call("report", "--to", str(directory), "--log", "secretweb.log", "--redact", "strict")
    assert (status, err) == (0, "")
    (path,) = directory.iterdir()
    haystack = gzip.decompress(path.read_bytes()).decode()
    for name in NAMES:
        assert name not in haystack
        assert name not in path.name
    found = contents(directory)
    (log,) = [content for name, content in found.items() if name.startswith("logs/")]
    assert log == next(content for name, content in found.items() if name.startswith("system/"))
    assert set(json.loads(found["nodeagent/dump.json"])["words"]) == set(log.decode().split())


def test_strict_without_an_agent_warns(agent: dict[str, Any], call: Call, directory: Path) -> None:
    del agent
    status, _, err = call("report", "--to", str(directory), "--redact", "strict")
    assert status == 0
    assert err.startswith("warning: no agent answers at ")
