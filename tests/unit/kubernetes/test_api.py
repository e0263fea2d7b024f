# SPDX-License-Identifier: Apache-2.0
"""HTTP against a server over TLS: whole answers, refusals with their reasons, lines, and what is cut or too large."""

import asyncio
import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import ControlPlaneError
from nodeagent.kubernetes import api as module
from nodeagent.kubernetes.api import ApiRefused, ApiServer, ApiUnreachable
from nodeagent.kubernetes.objects import read_event, read_page
from tests.kube_api import FakeKube, namespace, pod, serving
from tests.unit.conftest import TinyCa

Served = tuple[FakeKube, ApiServer]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "api") as made:
        yield made


def test_a_list_is_read_whole(served: Served) -> None:
    kube, api = served
    kube.put(*(pod(f"web-{number}") for number in range(300)))
    page = read_page(asyncio.run(api.fetch("/api/v1/pods?limit=500")))
    assert len(page.items or ()) == 300
    assert kube.asked == [("list", "pods")]


@pytest.mark.parametrize(
    ("status", "headers", "seconds", "words"),
    [
        (429, {"Retry-After": "7"}, 7.0, "asks again"),
        (429, {"Retry-After": "86400"}, module.LONGEST_RETRY_SECONDS, "asks again"),
        (503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0.0, "own log"),
        (403, {}, 0.0, "ClusterRole"),
        (404, {}, 0.0, "Kubernetes API server"),
        (500, {}, 0.0, "own log"),
    ],
)
def test_a_refusal_has_its_status_pause_and_check(
    served: Served, status: int, headers: dict[str, str], seconds: float, words: str
) -> None:
    kube, api = served
    kube.refusals.append((status, headers))
    with pytest.raises(ApiRefused, match=f"answers GET /api/v1/pods with {status}: not now") as caught:
        asyncio.run(api.fetch("/api/v1/pods?limit=1"))
    assert (caught.value.status, caught.value.retry_seconds) == (status, seconds)
    assert words in caught.value.check


def test_certificates_without_key_identifiers_are_enough(tmp_path: Path) -> None:
    with serving(tmp_path / "api", ca=TinyCa("kubernetes", has_key_identifiers=False)) as (_, api):
        assert read_page(asyncio.run(api.fetch("/api/v1/pods"))).items == ()


def test_a_wrong_token_is_told_and_never_shown(served: Served) -> None:
    _, api = served
    Path(api.token_file).write_text("another-token\n")
    with pytest.raises(ApiRefused, match="401") as caught:
        asyncio.run(api.fetch("/api/v1/pods"))
    assert "token" in caught.value.check
    assert "another-token" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"two words", b"line\nline", b"\xff"])
def test_what_is_no_token_is_not_sent(served: Served, content: bytes) -> None:
    kube, api = served
    Path(api.token_file).write_bytes(content)
    with pytest.raises(ApiUnreachable, match="not a token"):
        asyncio.run(api.fetch("/api/v1/pods"))
    assert kube.asked == []


def test_files_that_are_not_there_yet(served: Served, tmp_path: Path) -> None:
    _, api = served
    nowhere = str(tmp_path / "nowhere")
    for lost in (dataclasses.replace(api, ca_file=nowhere), dataclasses.replace(api, token_file=nowhere)):
        with pytest.raises(ApiUnreachable, match="nowhere"):
            asyncio.run(lost.fetch("/api/v1/pods"))
    Path(api.ca_file).write_text("no certificate")
    with pytest.raises(ApiUnreachable, match="no certificate in PEM"):
        asyncio.run(api.fetch("/api/v1/pods"))


def test_another_ca_or_another_name_is_not_believed(served: Served, tmp_path: Path) -> None:
    kube, api = served
    with serving(tmp_path / "other") as (_, other), pytest.raises(ApiUnreachable, match="TLS"):
        asyncio.run(dataclasses.replace(api, ca_file=other.ca_file).fetch("/api/v1/pods"))
    with pytest.raises(ApiUnreachable, match="TLS"):
        asyncio.run(dataclasses.replace(api, host="localhost").fetch("/api/v1/pods"))
    assert kube.asked == []


def test_nobody_there(served: Served, held_port: int) -> None:
    _, api = served
    with pytest.raises(ApiUnreachable) as caught:
        asyncio.run(dataclasses.replace(api, port=held_port).fetch("/api/v1/pods"))
    assert isinstance(caught.value, ControlPlaneError)


def test_a_silent_server_is_left(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    _, api = served
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ApiUnreachable, match="no answer in time"):
        asyncio.run(dataclasses.replace(api, port=silent.getsockname()[1]).fetch("/api/v1/pods"))


def test_the_lines_of_a_watch_arrive_as_they_happen(served: Served) -> None:
    kube, api = served
    kube.put(namespace())

    async def scenario() -> None:
        async with asyncio.timeout(60), api.lines("/api/v1/pods?watch=1&resourceVersion=1", 60) as lines:
            kube.put(pod("web"))
            assert read_event(await anext(lines))[0] == "ADDED"
            kube.delete("web")
            assert read_event(await anext(lines))[0] == "DELETED"
            kube.drop()
            assert [line async for line in lines] == []

    asyncio.run(scenario())


def test_a_chunk_that_is_cut_is_no_line(served: Served) -> None:
    kube, api = served

    async def scenario() -> None:
        async with asyncio.timeout(60), api.lines("/api/v1/pods?watch=1&resourceVersion=1", 60) as lines:
            while not kube.watches:  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.01)
            kube.cut()
            kube.put(pod("web"))
            await anext(lines)

    with pytest.raises(ApiUnreachable, match="incomplete"):
        asyncio.run(scenario())


def test_a_watch_that_never_ends_is_ended(served: Served) -> None:
    _, api = served

    async def scenario() -> None:
        async with api.lines("/api/v1/pods?watch=1&resourceVersion=1", 0.2) as lines:
            await anext(lines)

    with pytest.raises(ApiUnreachable, match="no answer in time"):
        asyncio.run(scenario())


def test_answers_and_lines_have_a_limit(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    kube, api = served
    kube.put(pod("web", labels={"long": "x" * 100_000}))
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 50_000)
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 50_000)
    with pytest.raises(ApiUnreachable, match="more than 50000 bytes"):
        asyncio.run(api.fetch("/api/v1/pods"))

    async def watch() -> None:
        async with api.lines("/api/v1/pods?watch=1&resourceVersion=1", 60) as lines:
            await anext(lines)

    with pytest.raises(ApiUnreachable, match="a line of more than 50000 bytes"):
        asyncio.run(watch())


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/2 200\r\n\r\n", b"\0\0\0", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
def test_what_is_no_http_is_told(served: Served, answer: bytes, tmp_path: Path) -> None:
    _, api = served
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "api/server.pem")

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as client:
            client.recv(4096)
            client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            with pytest.raises(ApiUnreachable):
                asyncio.run(dataclasses.replace(api, port=listener.getsockname()[1]).fetch("/api/v1/pods"))
        finally:
            thread.join()
