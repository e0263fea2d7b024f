# SPDX-License-Identifier: Apache-2.0
"""What a new user does, with the lines that the README shows: why is a connection denied, and who tells when it is not?

Its chapter is run as it stands, line by line, against the demo's live view. What each line has to say is here.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from nodeagent.lab.lab import Lab
from tests.observability.conftest import program

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "## Why is it denied?"
WITHIN_SECONDS = 120.0
DEMO = [sys.executable, "-m", "nodeagent.cli.main", "demo", "--live"]


def shown() -> tuple[list[str], list[str]]:
    """The lines of the chapter's two blocks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    chapter = text[text.index(CHAPTER) :].partition("\n## ")[0]
    first, second = re.findall(r"^```\n(.*?)^```", chapter, re.DOTALL | re.MULTILINE)
    return first.splitlines(), second.splitlines()


@dataclass
class Terminal:
    """A shell in which the README's lines mean what they mean to a reader, of whichever lab this is."""

    run: int
    page: str
    said: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)
    """By the line; what it said last."""

    @property
    def environment(self) -> dict[str, str]:
        beside = (str(Path(found).parent) for found in (program("prometheus"),) if found)
        path = os.pathsep.join([*beside, os.environ["PATH"]])
        return {**os.environ, "NODEAGENT_LAB_RUN": str(self.run), "PATH": path}

    def command(self, line: str) -> list[str]:
        """For bash; of an alias a function, which a script knows, too."""
        line = line.replace("/run/nodeagent-lab/1/", f"/run/nodeagent-lab/{self.run}/")
        prelude = f'lab() {{ {sys.executable} -m nodeagent.cli.main lab exec "$@"; }}; sudo() {{ "$@"; }}'
        return ["bash", "-c", f"{prelude}\n{line}"]

    def type(self, line: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(line), capture_output=True, text=True, check=False, cwd=ROOT, env=self.environment, timeout=60
        )
        self.said[line] = done
        return done

    def until(self, line: str, told: Callable[[subprocess.CompletedProcess[str]], bool]) -> str:
        """Types it again until it tells that; what it said then."""
        deadline = time.monotonic() + WITHIN_SECONDS
        while not told(self.type(line)):
            assert time.monotonic() < deadline, f"{line}: {self.said[line]}"
            time.sleep(0.1)
        return self.said[line].stdout


@pytest.fixture(scope="module")
def terminal() -> Iterator[Terminal]:
    """The demo's live view is there for as long."""
    Lab.clean_all()
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True, cwd=ROOT) as demo:
        assert demo.stdout is not None
        try:
            guide = "".join(_until_the_guide_ends(demo.stdout))
            run = re.search(r"lab exec --run (\d+)", guide)
            page = re.search(r"^ +http://(127\.0\.0\.1:\d+) ", guide, re.MULTILINE)
            assert run is not None, guide
            assert page is not None, guide
            yield Terminal(int(run[1]), page[1])
        finally:
            demo.terminate()  # not SIGINT, which who runs in the background is born deaf to
            demo.stdout.read()
            assert demo.wait(WITHIN_SECONDS) == 128 + signal.SIGTERM


def _until_the_guide_ends(lines: IO[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if "Ctrl-C ends" in line:
            return


@dataclass(frozen=True)
class Walk:
    """What each line of the first block said."""

    refused: str
    why: subprocess.CompletedProcess[str]
    answer: str
    why_not: subprocess.CompletedProcess[str]
    denied: str
    allowed: str
    metrics: str


@pytest.fixture(scope="module")
def walk(terminal: Terminal) -> Walk:
    alias, dial, explain, edit, again, denied, allowed, metrics = shown()[0]
    assert ".venv/bin/nodeagent lab exec" in alias
    assert _without_comment(again) == _without_comment(dial)
    refused = terminal.until(dial, lambda done: done.returncode != 0)  # the visitor's policy may be on its way
    why = terminal.type(explain)
    assert terminal.type(edit).returncode == 0
    return Walk(
        refused=refused,
        why=why,
        answer=terminal.until(again, lambda done: done.returncode == 0),
        why_not=terminal.type(explain),
        denied=terminal.until(denied, lambda done: "shop/db:8080" in done.stdout),
        allowed=terminal.until(allowed, lambda done: "shop/db:8080" in done.stdout),
        metrics=terminal.until(metrics, lambda done: 'response_flags="-"' in done.stdout),
    )


def _without_comment(line: str) -> str:
    return re.sub(r" +# .*", "", line)


def test_a_denied_connection_is_explained(walk: Walk) -> None:
    assert walk.refused == "", "not a byte of the application's"
    assert walk.why.returncode == 1
    assert re.search(r"^verdict +DENIED  reason=policy_denied  denied by shop/db$", walk.why.stdout, re.MULTILINE)
    assert "rule 1: namespaces: backoffice is backoffice" in walk.why.stdout
    assert re.search(
        r"^files +shop/db  /run/nodeagent-lab/\d+/files/mesh.d/30-policy.yaml:3$", walk.why.stdout, re.MULTILINE
    )
    assert "to allow     shop/db denies it: except this connection from rule 1" in walk.why.stdout


def test_it_is_allowed_by_an_edit(walk: Walk) -> None:
    assert re.fullmatch(r"10\.244\.1\.\d+ \d+\n", walk.answer), "who it is, as the application sees it"
    assert walk.why_not.returncode == 0
    assert "ALLOWED" in walk.why_not.stdout


def test_flows_has_both(walk: Walk) -> None:
    assert re.search(r"backoffice/batch:\d+ +shop/db:8080 .* denied +policy_denied +shop/db ", walk.denied)
    assert re.search(r"backoffice/batch:\d+ +shop/db:8080 .* allowed +closed ", walk.allowed)


def test_the_metrics_count_both(walk: Walk) -> None:
    closed = [line for line in walk.metrics.splitlines() if line.startswith("istio_tcp_connections_closed_total")]
    assert {flag for line in closed for flag in re.findall(r'response_flags="([^"]+)"', line)} == {"-", "DENY"}


@pytest.mark.usefixtures("walk")
def test_the_page_has_both(terminal: Terminal) -> None:
    """What its script is told first is all that node-b keeps."""
    page = http.client.HTTPConnection(terminal.page, timeout=60)
    with contextlib.closing(page):
        page.request("GET", "/events?node=node-b")
        stream = page.getresponse()
        first = next(line for line in iter(stream.readline, b"") if line.startswith(b"data: "))
    rows = [row for row in json.loads(first.removeprefix(b"data: "))["flows"] if row["source"]["workload"] == "batch"]
    assert {row["verdict"] for row in rows} >= {"denied", "allowed"}


@pytest.mark.usefixtures("walk")
def test_prometheus_has_both(terminal: Terminal, tmp_path: Path) -> None:
    if not program("prometheus"):
        assert "prometheus" not in os.environ.get("REQUIRE", "").split(","), "`make test` unpacks it"
        pytest.skip("needs prometheus: `make test` unpacks it")
    start, ask = shown()[1]

    def has_both(done: subprocess.CompletedProcess[str]) -> bool:
        found = json.loads(done.stdout or "{}").get("data", {}).get("result", [])
        return {row["metric"]["response_flags"] for row in found if float(row["value"][1]) > 0} == {"-", "DENY"}

    silent = subprocess.DEVNULL
    words = terminal.command(start.replace("/tmp/demo-tsdb", str(tmp_path)))
    with subprocess.Popen(
        words, cwd=ROOT, env=terminal.environment, stdout=silent, stderr=silent, start_new_session=True
    ) as running:
        try:
            terminal.until(ask, has_both)
        finally:
            os.killpg(running.pid, signal.SIGTERM)
