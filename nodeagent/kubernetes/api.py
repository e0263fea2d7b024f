# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 to the API server: one request a connection, answers whole or line by line. The protocol is h11's.

A watch lives for minutes and a patch is seldom, so nothing is gained by keeping connections; and each one reads roots
and token anew, which the kubelet renews. What is received is bounded, in bytes and in time.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import h11

from nodeagent.errors import ControlPlaneError
from nodeagent.kubernetes.objects import read_status
from nodeagent.model.address import join_host_port

ANSWER_SECONDS = 60.0
"""For a whole answer, as the API server itself ends requests after a minute; and for the head of any."""
CONNECT_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 << 20
"""500 objects a page, of which etcd lets none be larger than 1.5 MiB; many are a few KiB."""
MAX_LINE_BYTES = 4 << 20
"""An event has one object."""
MAX_REFUSAL_BYTES = 64 << 10
LONGEST_RETRY_SECONDS = 60.0
"""A Retry-After beyond this is not obeyed: nobody would know why the agent is deaf."""
_READ_BYTES = 64 << 10
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""Seconds and probes: a server that went without a word is noticed after a minute, in a watch that may be silent."""

_CHECKS = {
    401: "Is the token file that of a service account of this cluster? It is read again for every request.",
    403: "Does the agent's ClusterRole have the verbs that daemonset/base/rbac.yaml lists?",
    404: "Is it a Kubernetes API server that answers there?",
    429: "The API server has too much to do; the agent asks again when it is told to.",
}


class ApiUnreachable(ControlPlaneError):
    check = "Are the API server's address, its CA file and the token file right, and is it up? It is tried again."


class ApiRefused(ControlPlaneError):
    """An answer other than 2xx."""

    def __init__(self, message: str, *, status: int, retry_seconds: float = 0.0) -> None:
        super().__init__(message, check=_CHECKS.get(status, "The API server's own log says why; it is tried again."))
        self.status, self.retry_seconds = status, retry_seconds


@dataclass(frozen=True)
class ApiServer:
    host: str
    port: int
    ca_file: str
    token_file: str

    @property
    def name(self) -> str:
        return f"https://{join_host_port(self.host, self.port)}"

    async def fetch(self, target: str) -> bytes:
        """The whole answer to a GET. Raises ApiUnreachable or ApiRefused."""
        return await self._ask("GET", target, b"", {})

    async def patch(self, target: str, body: bytes) -> bytes:
        """By JSON merge patch. Raises ApiUnreachable or ApiRefused."""
        return await self._ask("PATCH", target, body, {"Content-Type": "application/merge-patch+json"})

    @contextlib.asynccontextmanager
    async def lines(self, target: str, seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of an answer that does not end for up to `seconds`; what is half there at its end is no line.

        Raises ApiUnreachable, in the block, too, or ApiRefused.
        """
        with _explained(self.name):
            async with asyncio.timeout(seconds), self._exchange("GET", target, b"", {}) as answer:
                yield answer.lines()

    async def _ask(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> bytes:
        with _explained(self.name):
            async with asyncio.timeout(ANSWER_SECONDS), self._exchange(method, target, body, headers) as answer:
                return await answer.read(MAX_ANSWER_BYTES)
        raise AssertionError  # mypy: _explained swallows nothing

    @contextlib.asynccontextmanager
    async def _exchange(
        self, method: str, target: str, body: bytes, headers: dict[str, str]
    ) -> AsyncIterator["_Answer"]:
        token, roots = _read_token(self.token_file), _read_roots(self.ca_file)
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(self.host, self.port, ssl=roots, server_hostname=self.host)
        try:
            keep_alive(writer.get_extra_info("socket"))
            asked = {
                "Host": join_host_port(self.host, self.port),
                "Authorization": f"Bearer {token}",
                "Accept": "application/json",
                "User-Agent": "nodeagent",
                "Connection": "close",
                "Content-Length": str(len(body)),
                **headers,
            }
            answer = _Answer(reader)
            writer.write(answer.request(method, target, asked, body))
            async with asyncio.timeout(ANSWER_SECONDS):
                await writer.drain()
                await answer.begin(f"{method} {target.partition('?')[0]}")
            yield answer
        finally:
            writer.transport.abort()  # the answer was read, or is not wanted: no TLS goodbye is waited for


class _Answer:
    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader, self._http = reader, h11.Connection(h11.CLIENT)

    def request(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
        request = h11.Request(method=method, target=target, headers=list(headers.items()))
        parts = [self._http.send(request), self._http.send(h11.Data(data=body)), self._http.send(h11.EndOfMessage())]
        return b"".join(part for part in parts if part)

    async def begin(self, asked: str) -> None:
        """Raises ApiRefused."""
        event = await self._event()
        while isinstance(event, h11.InformationalResponse):
            event = await self._event()
        if not isinstance(event, h11.Response):
            raise h11.RemoteProtocolError("the connection ended before an answer began")
        if 200 <= event.status_code < 300:
            return
        headers = dict(event.headers)
        said = read_status(await self.read(MAX_REFUSAL_BYTES))
        words = said.message or said.reason or bytes(event.reason).decode("ascii", "replace")
        raise ApiRefused(
            f"the Kubernetes API answers {asked} with {event.status_code}: {words:.300}",
            status=event.status_code,
            retry_seconds=_retry_seconds(headers.get(b"retry-after", b"")),
        )

    async def read(self, limit: int) -> bytes:
        parts, size = [], 0
        async for part in self._parts():
            parts.append(part)
            size += len(part)
            if size > limit:
                raise h11.RemoteProtocolError(f"an answer of more than {limit} bytes")
        return b"".join(parts)

    async def lines(self) -> AsyncIterator[bytes]:
        rest = b""
        async for part in self._parts():
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
            if len(rest) > MAX_LINE_BYTES:
                raise h11.RemoteProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")

    async def _parts(self) -> AsyncIterator[bytes]:
        while True:
            event = await self._event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return

    async def _event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._reader.read(_READ_BYTES))


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise ApiUnreachable(f"{name}: no answer in time") from error
    except ssl.SSLError as error:
        raise ApiUnreachable(f"{name}: TLS: {error.reason or error}") from error
    except OSError as error:
        raise ApiUnreachable(f"{name}: {error.strerror or error}") from error
    except h11.RemoteProtocolError as error:
        raise ApiUnreachable(f"{name}: {error}") from error


def keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise ApiUnreachable(f"token file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise ApiUnreachable(f"token file {path}: not a token")
    return token


def _read_roots(path: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        words = "no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ApiUnreachable(f"CA file {path}: {words}") from error
    # On since Python 3.13: it refuses certificates without key identifiers, as EKS and older clusters have them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _retry_seconds(text: bytes) -> float:
    """Of Retry-After in seconds; the API server sends no dates."""
    return min(float(text), LONGEST_RETRY_SECONDS) if text.isdigit() else 0.0
