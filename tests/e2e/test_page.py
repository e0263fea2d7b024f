# SPDX-License-Identifier: Apache-2.0
"""The page as a person sees it: a real browser, real connections of the demo's pods, pictures in build/pages."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.client import Fate, fate, read_all
from nodeagent.lab.demo.page import shown
from nodeagent.lab.demo.program import Program
from nodeagent.lab.demo.stage import NODES, PORT, Stage, running
from nodeagent.lab.namespaces import RUN_DIR
from tests.e2e.browser import Browser, browsing

pytestmark = [pytest.mark.e2e, pytest.mark.any_kernel]

PICTURES = Path(__file__).resolve().parents[2] / "build/pages"
WITHIN_SECONDS = 60.0
SOCKET = RUN_DIR / "page.sock"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.prepare()
        allowed = mesh.rule(principals=["cluster.local/ns/shop/sa/web"])
        plain = mesh.rule(ip_blocks=[f"{stage.pod('legacy').ips[0]}/32"])
        stage.write("30-policy.yaml", [mesh.authorization("db-web", "shop", "db", "ALLOW", [allowed, plain])])
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node, page=str(SOCKET))
        yield stage


@pytest.fixture(scope="module")
def address(stage: Stage) -> Iterator[str]:
    with shown(stage) as address:
        yield address


@pytest.fixture
def browser(address: str) -> Iterator[Browser]:
    """Looks at node-a."""
    with browsing() as browser:
        browser.visit(f"{address}/")
        browser.until("document.body && document.body.dataset.state === 'live'", "the page follows the node")
        yield browser
        assert browser.complaints == []


_HIT = """[...at('policies').rows].some(
    row => row.cells[0].textContent === 'shop/db-web' && Number(row.cells[3].textContent) > 0
)"""


def _connect(stage: Stage, source: str, target: str) -> Fate:
    return fate(stage.pod(source), stage.pod(target).ipv4, PORT)


def _has_edge(as_: str, edge: str) -> str:
    return f"""document.querySelector('#graph path.{as_}[data-edge="{edge}"]') !== null"""


def _look_at(browser: Browser, node: str) -> None:
    browser.evaluate(f"at('node').value = '{node}'; at('node').dispatchEvent(new Event('change')); 0")


def test_edges_are_drawn_by_what_protects_them(stage: Stage, browser: Browser) -> None:
    assert _connect(stage, "web", "db") is Fate.SERVED
    # A program of its pod, since what the kernel carries is seen in the pods' cgroup alone.
    Program(stage.pod("api"), stage.pod("web").ipv4, PORT, "WHO", 0).finish()
    assert _connect(stage, "batch", "db") is Fate.REFUSED
    assert _connect(stage, "legacy", "db") is Fate.SERVED
    browser.until(_has_edge("mtls", "shop/web shop/db"), "the tunnel is drawn")
    browser.until(_has_edge("denied", "backoffice/batch shop/db"), "the refused one is drawn")
    browser.until(_has_edge("local", "shop/api shop/web"), "the one on one node is drawn")
    browser.picture(PICTURES / "node-a.png")
    _look_at(browser, "node-b")
    browser.until(_has_edge("plain", "legacy/legacy shop/db"), "the one in plain text is drawn by the other node")
    browser.until(_HIT, "hits are counted")
    browser.picture(PICTURES / "node-b.png")


def test_pods_and_certificates(browser: Browser) -> None:
    told = browser.evaluate("[...at('pods').rows].map(row => [row.cells[0].textContent, row.cells[1].textContent])")
    assert ["shop/web", "yes"] in told
    assert ["legacy/legacy2", "no: NOT_IN_MESH"] in told
    names = browser.evaluate("[...at('certificates').rows].map(row => row.cells[0].textContent)")
    assert "cluster.local/ns/shop/sa/web" in names
    assert browser.evaluate("document.querySelector('#certificates meter').value") > 0.5
    assert browser.evaluate("at('health').textContent") == "ok"


def test_filters_and_pause(stage: Stage, browser: Browser) -> None:
    assert _connect(stage, "batch", "db") is Fate.REFUSED
    assert _connect(stage, "web", "db") is Fate.SERVED
    browser.until("seen.flows.some(flow => flow.verdict === 'denied')", "a refused one was told")
    browser.until("seen.flows.some(flow => called(flow.source) === 'shop/web')", "a served one was told")
    verdicts = "[...at('flows').tBodies[0].rows].map(row => row.cells[5].textContent)"
    browser.evaluate("at('verdict').value = 'denied'; at('verdict').dispatchEvent(new Event('input')); 0")
    assert set(browser.evaluate(verdicts)) == {"denied"}
    browser.evaluate("at('verdict').value = ''; at('find').value = 'shop/web db'; 0")
    browser.evaluate("at('find').dispatchEvent(new Event('input')); 0")
    assert set(browser.evaluate("[...at('flows').tBodies[0].rows].map(row => row.cells[1].textContent)")) == {
        "shop/web"
    }

    browser.evaluate("at('pause').click(); 0")
    rows, count = browser.evaluate("at('flows').tBodies[0].rows.length"), browser.evaluate("seen.flows.length")
    assert _connect(stage, "web", "db") is Fate.SERVED
    browser.until(f"seen.flows.length > {count}", "the next one was told")
    assert browser.evaluate("at('flows').tBodies[0].rows.length") == rows
    assert "new)" in browser.evaluate("at('pause').textContent")
    browser.evaluate("at('pause').click(); 0")
    browser.until(f"at('flows').tBodies[0].rows.length > {rows}", "what came meanwhile is shown")


def _ask(browser: Browser, source: str, destination: str) -> str:
    values = {"ask-source": source, "ask-destination": destination, "ask-port": str(PORT)}
    for field, value in values.items():
        browser.evaluate(f"at('{field}').value = {json.dumps(value)}; 0")
    browser.evaluate("delete at('answer').dataset.verdict; at('ask').requestSubmit(); 0")
    browser.until("at('answer').dataset.verdict", "there is an answer")
    verdict: str = browser.evaluate("at('answer').dataset.verdict")
    return verdict


def test_what_if(stage: Stage, browser: Browser) -> None:
    assert _ask(browser, "shop/web", "shop/db") == "ALLOWED"
    assert _ask(browser, "backoffice/batch", "shop/db") == "DENIED"
    words = browser.evaluate("at('answer').textContent")
    assert 'add "cluster.local/ns/backoffice/sa/batch" to principals in rule 1 of shop/db-web' in words
    browser.picture(PICTURES / "what-if.png")
    browser.evaluate("delete at('answer').dataset.verdict; 0")
    assert _connect(stage, "web", "db") is Fate.SERVED
    edge = _has_edge("mtls", "shop/web shop/db").removesuffix(" !== null")
    browser.until(_has_edge("mtls", "shop/web shop/db"), "there is an edge to click")
    browser.evaluate(f"{edge}.dispatchEvent(new Event('click')); 0")
    browser.until("at('answer').dataset.verdict === 'ALLOWED'", "a click on an edge asks about another one")


def test_what_is_told_is_text_and_never_markup(browser: Browser) -> None:
    with_markup = '<img src=x onerror="window.broken = 1"><script>window.broken = 1</script>'
    assert _ask(browser, with_markup, "shop/db") == "ERROR"
    assert with_markup in browser.evaluate("at('answer').textContent")
    assert browser.evaluate("document.querySelectorAll('#answer img, #answer script').length") == 0
    assert browser.evaluate("window.broken === undefined")
    # The refusal of the answer's status is the browser's own remark, not a fault of the page.
    browser.complaints[:] = [words for words in browser.complaints if "400" not in words]


def test_an_agent_that_is_away_is_told_and_found_again(stage: Stage, browser: Browser) -> None:
    stage.stop_agent("node-a")
    browser.until("!at('trouble').hidden && at('trouble').textContent.includes('no agent answers')", "it is told")
    stage.start_agent("node-a", page=str(SOCKET))
    browser.until("at('trouble').hidden && at('health').textContent === 'ok'", "it is there again")


def test_the_agents_own_page_at_a_unix_socket(stage: Stage) -> None:
    node = stage.lab.nodes["node-a"]

    def get(target: str, host: str = "localhost") -> bytes:
        def asked() -> bytes:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(WITHIN_SECONDS)
                client.connect(str(SOCKET))
                client.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                return read_all(client)

        return node.call(asked).partition(b"\r\n\r\n")[2]

    assert json.loads(get("/nodes"))["nodes"] == ["node-a"]
    assert b"<title>nodeagent</title>" in get("/")
    assert b"served at loopback" in get("/", "attacker.example")
    answer: dict[str, Any] = json.loads(get(f"/explain?source=web&destination=shop/db&port={PORT}"))
    assert answer["verdict"] == "ALLOWED"
