# SPDX-License-Identifier: Apache-2.0
"""Requests are parsed strictly, and no client keeps another one waiting."""

import asyncio
import contextlib
import errno
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.admin import http
from nodeagent.admin.http import BadRequest, HttpServer, Request, Response, Stream, parse_request
from nodeagent.admin.sockets import open_unix


@pytest.mark.parametrize(
    ("head", "path", "query"),
    [
        (b"GET /status HTTP/1.1\r\nHost: x", "/status", {}),
        (b"GET /explain?source=a%2Fb&plaintext= HTTP/1.0", "/explain", {"source": "a/b", "plaintext": ""}),
    ],
)
def test_requests(head: bytes, path: str, query: dict[str, str]) -> None:
    request = parse_request(head)
    assert (request.path, request.query) == (path, query)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET /status", 400),
        (b"GET /status HTTP/2.0", 400),
        (b"GET /x?" + b"&".join(b"a%d=1" % n for n in range(99)) + b" HTTP/1.1", 400),
        (b"GET http://[::1/ HTTP/1.1", 400),
        (b"PUT /status HTTP/1.1", 405),
    ],
)
def test_what_is_no_request(head: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_request(head)
    assert caught.value.status == status


@given(st.binary())
def test_no_bytes_break_the_parser(head: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert parse_request(head).path.isascii()
        assert head.startswith(b"GET ")


def test_headers_are_found_by_lower_case_names() -> None:
    request = parse_request(b"GET / HTTP/1.1\r\nACCEPT:  text/plain \r\nbroken")
    assert request.headers["accept"] == "text/plain"


async def _hello(request: Request) -> Response:
    if request.path == "/bug":
        raise RuntimeError("unexpected")
    return Response(200, b"hello", "text/plain")


async def _ask(path: Path, sent: bytes = b"GET / HTTP/1.1\r\n\r\n") -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(sent)
    try:
        return await reader.read()
    except ConnectionResetError:  # what the server did not read is answered so by the kernel
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()


def _serve(path: Path, ask: Callable[[HttpServer], Awaitable[None]]) -> HttpServer:
    """Runs a server while `ask` runs."""

    async def both() -> HttpServer:
        server = HttpServer(lambda: open_unix(str(path)), _hello)
        server.listen()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(server.run())
            await ask(server)
            running.cancel()
        return server

    async def bounded() -> HttpServer:
        async with asyncio.timeout(60):
            return await both()

    return asyncio.run(bounded())


def test_an_answer(tmp_path: Path) -> None:
    async def ask(_server: HttpServer) -> None:
        answer = await _ask(tmp_path / "s")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n")
        assert body == b"hello"

    _serve(tmp_path / "s", ask)


def test_a_bug_is_answered_logged_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def ask(_server: HttpServer) -> None:
        assert b" 500 " in await _ask(tmp_path / "s", b"GET /bug HTTP/1.1\r\n\r\n")
        assert b" 200 " in await _ask(tmp_path / "s")

    assert _serve(tmp_path / "s", ask).bugs == 1
    assert "RuntimeError: unexpected" in caplog.text


@pytest.mark.parametrize(
    ("garbage", "answer"),
    [
        pytest.param(b"\x16\x03\x01\r\n\r\n", b"HTTP/1.1 400 Bad Request", id="TLS"),
        pytest.param(b"G" * 20_000, b"", id="endless"),
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000, b"", id="a head without end"),
    ],
)
def test_garbage_is_refused(tmp_path: Path, garbage: bytes, answer: bytes) -> None:
    async def ask(_server: HttpServer) -> None:
        got = await _ask(tmp_path / "s", garbage)
        assert got.startswith(answer)
        assert b" 200 " not in got
        assert b" 200 " in await _ask(tmp_path / "s")

    _serve(tmp_path / "s", ask)


def test_a_silent_client_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.05)

    async def ask(_server: HttpServer) -> None:
        assert await _ask(tmp_path / "s", b"GET / HT") == b""

    _serve(tmp_path / "s", ask)


def test_silent_clients_do_not_keep_others_out(tmp_path: Path) -> None:
    async def ask(_server: HttpServer) -> None:
        silent = [await asyncio.open_unix_connection(str(tmp_path / "s")) for _ in range(http.MAX_CLIENTS * 2)]
        assert b" 200 " in await _ask(tmp_path / "s")
        assert await silent[0][0].read() == b""  # the oldest had to go
        for _, writer in silent:
            writer.close()

    _serve(tmp_path / "s", ask)


def test_many_who_come_at_once_and_are_answered_push_nobody_out(tmp_path: Path) -> None:
    async def ask(_server: HttpServer) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET / HT")
        assert b" 200 " in await _ask(tmp_path / "s"), "who came before has been taken, too"
        burst = [socket.socket(socket.AF_UNIX) for _ in range(http.MAX_CLIENTS)]
        for client in burst:  # in one turn: the server finds all of them waiting
            client.settimeout(0)
            client.connect(str(tmp_path / "s"))
            client.send(b"GET / HTTP/1.1\r\n\r\n")
        for client in burst:
            with client:
                assert b" 200 " in await asyncio.get_running_loop().sock_recv(client, 4096)
        writer.write(b"TP/1.1\r\n\r\n")
        assert b" 200 " in await reader.read()
        writer.close()

    _serve(tmp_path / "s", ask)


def test_one_that_takes_its_time_to_go_is_told_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it began has to end: meanwhile it is the next oldest that goes."""
    monkeypatch.setattr(http, "MAX_CLIENTS", 2)

    async def both() -> None:
        cancellations = 0
        begun, may_go = asyncio.Event(), asyncio.Event()

        async def respond(_request: Request) -> Response:
            nonlocal cancellations
            begun.set()
            while not may_go.is_set():
                try:
                    await may_go.wait()
                except asyncio.CancelledError:
                    cancellations += 1
            return Response(200, b"")

        server = HttpServer(lambda: open_unix(str(tmp_path / "s")), respond)
        server.listen()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(server.run())
            _, slow = await asyncio.open_unix_connection(str(tmp_path / "s"))
            slow.write(b"GET / HTTP/1.1\r\n\r\n")
            await begun.wait()
            silent = [await asyncio.open_unix_connection(str(tmp_path / "s")) for _ in range(3)]
            assert await silent[0][0].read() == b""
            assert cancellations == 1
            may_go.set()
            for writer in (slow, *(writer for _, writer in silent)):
                writer.close()
            running.cancel()

    asyncio.run(both())


def _wait_with(path: Path, play: Callable[[asyncio.Event, asyncio.Event], Awaitable[None]]) -> HttpServer:
    """A server whose answer waits for the second event, after it has set the first; it is never given."""
    begun, may_answer = asyncio.Event(), asyncio.Event()

    async def respond(_request: Request) -> Response:
        begun.set()
        await may_answer.wait()
        return Response(200, b"late")

    async def both() -> HttpServer:
        server = HttpServer(lambda: open_unix(str(path)), respond)
        server.listen()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(server.run())
            await play(begun, may_answer)
            while server._clients:
                await asyncio.wait(list(server._clients))
            running.cancel()
        return server

    return asyncio.run(both())


def test_for_a_client_that_hangs_up_nothing_more_is_done(tmp_path: Path) -> None:
    async def play(begun: asyncio.Event, _may_answer: asyncio.Event) -> None:
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET / HTTP/1.1\r\n\r\n and more, which nobody reads")
        await begun.wait()
        writer.close()

    assert _wait_with(tmp_path / "s", play).bugs == 0


def test_out_of_descriptors_it_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def ask(_server: HttpServer) -> None:
        monkeypatch.setattr("select.epoll", refuse)  # now that the loop has its own
        assert (await _ask(tmp_path / "s")).endswith(b"hello")

    assert _serve(tmp_path / "s", ask).bugs == 0


def test_one_that_has_only_finished_sending_is_answered(tmp_path: Path) -> None:
    async def play(begun: asyncio.Event, may_answer: asyncio.Event) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        writer.write_eof()
        await begun.wait()
        for _ in range(5):  # turns of the loop, in which the end of what is sent is seen
            await asyncio.sleep(0)
        may_answer.set()
        assert (await reader.read()).endswith(b"\r\n\r\nlate")
        writer.close()

    _wait_with(tmp_path / "s", play)


def test_a_client_that_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.05)

    asked = asyncio.Event()

    async def huge(_request: Request) -> Response:
        asked.set()
        return Response(200, b"x" * 50_000_000)

    async def both() -> None:
        server = HttpServer(lambda: open_unix(str(tmp_path / "s")), huge)
        server.listen()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(server.run())
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(0)
                await asyncio.get_running_loop().sock_connect(client, str(tmp_path / "s"))
                await asyncio.get_running_loop().sock_sendall(client, b"GET / HTTP/1.1\r\n\r\n")
                received = 0
                await asked.wait()
                await asyncio.wait(list(server._clients))  # until the deadline has passed, with nobody reading
                while chunk := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
                    received += len(chunk)
                assert received < 50_000_000
            running.cancel()

    asyncio.run(both())


class _Pieces:
    """Counts, and says whether it was closed."""

    def __init__(self, count: int, fails_at: int = -1) -> None:
        self._numbers = iter(range(count))
        self._fails_at = fails_at
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        number = next(self._numbers, None)
        if number is None:
            raise StopAsyncIteration
        if number == self._fails_at:
            raise RuntimeError("unexpected")
        return b"%d " % number

    async def aclose(self) -> None:
        self.closed += 1


def _stream(path: Path, pieces: _Pieces, play: Callable[[], Awaitable[None]]) -> HttpServer:
    async def respond(_request: Request) -> Stream:
        return Stream(pieces, "text/event-stream", (("X-Of", "this one"),))

    async def both() -> HttpServer:
        server = HttpServer(lambda: open_unix(str(path)), respond)
        server.listen()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(server.run())
            await play()
            while server._clients:
                await asyncio.wait(list(server._clients))
            running.cancel()
        return server

    return asyncio.run(both())


def test_a_stream_is_sent_piece_by_piece(tmp_path: Path) -> None:
    pieces = _Pieces(3)

    async def play() -> None:
        head, _, body = (await _ask(tmp_path / "s")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Of: this one\r\n")
        assert b"Content-Length" not in head
        assert body == b"0 1 2 "

    assert _stream(tmp_path / "s", pieces, play).bugs == 0
    assert pieces.closed == 1


def test_a_stream_whose_reader_has_gone_is_closed(tmp_path: Path) -> None:
    pieces = _Pieces(1_000_000)

    async def play() -> None:
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        writer.close()

    _stream(tmp_path / "s", pieces, play)
    assert pieces.closed == 1


def test_a_stream_that_has_nothing_to_say_ends_with_its_reader(tmp_path: Path) -> None:
    class Silent(_Pieces):
        async def __anext__(self) -> bytes:
            if next(self._numbers, None) is None:
                await asyncio.Event().wait()
            return b"first "

    pieces = Silent(1)

    async def play() -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"first ")
        writer.close()

    assert _stream(tmp_path / "s", pieces, play).bugs == 0
    assert pieces.closed == 1


def test_a_bug_of_a_stream_ends_it_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pieces = _Pieces(3, fails_at=1)

    async def play() -> None:
        assert (await _ask(tmp_path / "s")).endswith(b"\r\n\r\n0 ")

    assert _stream(tmp_path / "s", pieces, play).bugs == 1
    assert pieces.closed == 1
    assert "RuntimeError: unexpected" in caplog.text


def test_a_client_that_comes_as_the_server_ends_breaks_nothing(tmp_path: Path) -> None:
    """asyncio's own sock_accept would set the result of what is cancelled, and its log would have a traceback."""
    told: list[object] = []

    async def end_with_a_client() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: told.append(context))
        server = HttpServer(functools.partial(open_unix, str(tmp_path / "socket")), _hello)
        server.listen()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            for _ in range(5):  # until it waits
                await asyncio.sleep(0)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "socket"))
                await asyncio.sleep(0)  # the loop has seen the client, and this task comes first
                task.cancel()
                await asyncio.wait([task])

    asyncio.run(end_with_a_client())
    assert told == []
