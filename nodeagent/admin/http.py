# SPDX-License-Identifier: Apache-2.0
"""The little of HTTP/1.1 that admin, metrics, probes and the page need: one request a connection, an answer, the end.

A client that is slow, silent or garbled costs one of a few places for a few seconds: the head of a request has a limit
in bytes and in time, an answer that is not read has a deadline, and when all places are taken the oldest goes. For one
that hangs up nothing more is done: what it asked for is cancelled.
"""

import asyncio
import contextlib
import logging
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from nodeagent.model.address import Ip

MAX_HEAD_BYTES = 8192
MAX_CLIENTS = 64
REQUEST_SECONDS = 5.0
ANSWER_SECONDS = 10.0

_PHRASES = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_END_OF_HEAD = b"\r\n\r\n"

_log = logging.getLogger(__name__)


class Request(NamedTuple):
    method: str
    """GET or POST."""
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By name in lower case; of a repeated one the last."""


class Response(NamedTuple):
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    """Besides those that every answer has."""


class Pieces(Protocol):
    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Called once, when the client has gone or nothing of it was sent."""


class Stream(NamedTuple):
    """An answer without an end: each piece is sent when it comes, and who does not take one in time is let go."""

    pieces: Pieces
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


Answer: TypeAlias = Response | Stream


class BadRequest(Exception):
    """Not a request that is served here; ends in an answer and is never seen outside."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def parse_request(head: bytes) -> Request:
    """From the bytes before the empty line. Raises BadRequest."""
    try:
        first, *rest = head.decode("ascii").split("\r\n")
        method, target, version = first.split(" ")
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=32))
    except ValueError as error:
        raise BadRequest(400, "not an HTTP request") from error
    if not version.startswith("HTTP/1."):
        raise BadRequest(400, "HTTP/1.1 is spoken here")
    if method not in {"GET", "POST"}:
        raise BadRequest(405, "only GET and POST are served")
    headers = (line.partition(":") for line in rest)
    return Request(method, parts.path, query, {name.strip().lower(): value.strip() for name, _, value in headers})


class HttpServer:
    """Serves `respond` on the socket that `open_listener` opens. `respond` may raise: that is a bug, answered 500.

    It is cancelled when its client hangs up, as it is when the server ends or needs the place.
    """

    def __init__(
        self, open_listener: Callable[[], socket.socket], respond: Callable[[Request], Awaitable[Answer]]
    ) -> None:
        self._open_listener, self._respond = open_listener, respond
        self._listener: socket.socket | None = None
        self._clients: dict[asyncio.Task[None], None] = {}
        self.bugs = 0

    def listen(self) -> None:
        """Opens the socket, so that what stands in the way is known before anything runs; `run` does it otherwise."""
        if self._listener is None:
            self._listener = self._open_listener()

    @property
    def address(self) -> tuple[Ip, int] | None:
        """Where it listens; None before `listen`, and for a Unix socket."""
        name = self._listener.getsockname() if self._listener is not None else None
        return (Ip(name[0]), name[1]) if isinstance(name, tuple) else None

    async def run(self) -> None:
        """Until cancelled; every client is then let go."""
        self.listen()
        assert self._listener is not None
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    client = await self._accept(self._listener)
                    if len(self._clients) >= MAX_CLIENTS:
                        self._let_oldest_go()
                    task = group.create_task(self._serve(client))
                    self._clients[task] = None
                    task.add_done_callback(self._clients.pop)
                    # Who comes with many others is answered before more are taken: else it would push out who waits.
                    await asyncio.sleep(0)
        finally:
            self._listener.close()
            self._listener = None

    def _let_oldest_go(self) -> None:
        """One that goes already may take its time, and is not hurried by another cancellation."""
        oldest = next((client for client in self._clients if not client.cancelling()), None)
        if oldest is not None:
            oldest.cancel()

    async def _accept(self, listener: socket.socket) -> socket.socket:
        while True:
            try:
                client, _ = listener.accept()
                client.settimeout(0)
            except BlockingIOError:
                await _readable(listener)
            except OSError as error:  # no descriptors left, or the client went away: neither is a reason to end
                _log.warning("cannot accept a client: %s", error)
                await asyncio.sleep(0.1)
            else:
                return client

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with client:
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    head = await _read_head(client)
                async with asyncio.timeout(None) as presence:
                    with _noticed(client, presence):
                        response = await self._answer(head)
                        if isinstance(response, Stream):
                            await _send_pieces(client, response)
                            return
                async with asyncio.timeout(ANSWER_SECONDS):
                    await loop.sock_sendall(client, _encode(response))
                with contextlib.suppress(OSError):  # the client may be gone already
                    client.shutdown(socket.SHUT_WR)
            except (OSError, TimeoutError) as error:
                _log.debug("a client went away or was too slow: %s", error)
            except Exception:  # noqa: BLE001 - of the pieces of a stream
                self.met_bug()

    async def _answer(self, head: bytes) -> Answer:
        try:
            return await self._respond(parse_request(head))
        except BadRequest as error:
            return Response(error.status, f"{error}\n".encode(), "text/plain; charset=utf-8")
        except Exception:  # noqa: BLE001 - where a bug of a route ends; it is logged and counted
            self.met_bug()
            return Response(500, b"this is a bug of nodeagent; its log has the traceback\n", "text/plain")

    def met_bug(self) -> None:
        """Logs the exception that is being handled, and counts it."""
        self.bugs += 1
        _log.exception("a request met a bug; please report it")


async def _readable(listener: socket.socket) -> None:
    """In place of the loop's sock_accept.

    That gives a client to who was cancelled in the same turn: a traceback in the log, and a client that nobody closes.
    """
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(listener, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(listener)


@contextlib.contextmanager
def _noticed(client: socket.socket, presence: asyncio.Timeout) -> Iterator[None]:
    """`presence` is over as soon as the client hangs up, if there is a descriptor left to notice it by.

    Who has only finished sending still waits for its answer, and to be readable means no more than that: so the kernel
    is asked for EPOLLHUP alone, which it tells unasked. Of TCP it tells that of a reset and not of a FIN.
    """
    loop = asyncio.get_running_loop()

    def hung_up() -> None:
        loop.remove_reader(watch.fileno())
        presence.reschedule(loop.time())

    with contextlib.ExitStack() as opened:
        try:
            watch = opened.enter_context(select.epoll())
            watch.register(client, 0)
            loop.add_reader(watch.fileno(), hung_up)
            opened.callback(loop.remove_reader, watch.fileno())
        except OSError as error:  # who is short of descriptors answers all the more
            _log.debug("a client that hangs up is not noticed: %s", error)
        yield


async def _read_head(client: socket.socket) -> bytes:
    """What came before the empty line; what comes after it is no part of a GET and is ignored."""
    loop = asyncio.get_running_loop()
    received = b""
    while _END_OF_HEAD not in received:
        if len(received) > MAX_HEAD_BYTES:
            return b""  # answered as garbage
        chunk = await loop.sock_recv(client, MAX_HEAD_BYTES)
        if not chunk:
            raise ConnectionResetError("the client ended before its request did")
        received += chunk
    return received.partition(_END_OF_HEAD)[0]


async def _send_pieces(client: socket.socket, stream: Stream) -> None:
    """Until there are no more, or the client does not take them. Raises OSError and TimeoutError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await loop.sock_sendall(client, _head(200, stream.content_type, stream.headers))
        async for piece in stream.pieces:
            async with asyncio.timeout(ANSWER_SECONDS):
                await loop.sock_sendall(client, piece)
    finally:
        await stream.pieces.aclose()


def _encode(response: Response) -> bytes:
    length = ("Content-Length", str(len(response.body)))
    return _head(response.status, response.content_type, (length, *response.headers)) + response.body


def _head(status: int, content_type: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    lines = (
        f"HTTP/1.1 {status} {_PHRASES[status]}",
        f"Content-Type: {content_type}",
        *(f"{name}: {value}" for name, value in headers),
        "Connection: close",
        "X-Content-Type-Options: nosniff",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")
