# SPDX-License-Identifier: Apache-2.0
"""The command line's end of the admin socket. Imports little: every command that asks the agent waits for it.

So it speaks the little of HTTP that the agent does (http.py) by itself: `http.client` would load the parsers of mail
and TLS, which takes longer than the agent's answer.
"""

import contextlib
import json
import socket
from collections.abc import Generator, Iterator, Mapping
from typing import Any, BinaryIO

from nodeagent.admin.schema import SCHEMA, error_from
from nodeagent.errors import AgentUnreachable, MissingPrivilege

ANSWER_SECONDS = 10.0
_OK = 200


class AdminClient:
    is_live = True
    """Whether what it answers goes on."""

    def __init__(self, path: str, seconds: float = ANSWER_SECONDS, *, whose: str = "agent") -> None:
        """`seconds` is the patience with one that takes the connection and then says nothing; `whose` socket it is."""
        self._path, self._seconds, self._whose = path, seconds, whose

    def fetch(self, route: str, **query: str) -> dict[str, Any]:
        """The answer of one route, `schema` included.

        Raises AgentUnreachable, MissingPrivilege, or the error that the agent met.
        """
        return self._ask("GET", _target(route, query), self._seconds)

    def order(self, route: str, *, takes_seconds: float = 0.0, **query: str) -> dict[str, Any]:
        """Has the agent do something, which may take so long; answers and errors as `fetch`."""
        return self._ask("POST", _target(route, query), self._seconds + takes_seconds)

    def follow(self, route: str, *, takes_seconds: float = 0.0, **query: str) -> Generator[dict[str, Any], None, None]:
        """Documents of an order that lasts, as they come; the agent ends it when nobody reads them any more.

        The first may take so long. Errors as `fetch`; one that ends the order comes as if the agent had met it here.
        """
        seconds = self._seconds + takes_seconds
        with self._explained(seconds), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(self._path)
            connection.sendall(_request("POST", _target(route, query)))
            with connection.makefile("rb") as answer:
                status, length = _parse_head(_read_head(answer))
                if status != _OK or length is not None:
                    raise error_from(self._parsed(answer.read()))
                for line in answer:
                    document = self._parsed(line)
                    if "error" in document:
                        raise error_from(document)
                    yield document

    def _ask(self, method: str, target: str, seconds: float) -> dict[str, Any]:
        with self._explained(seconds):
            status, content = _exchange(self._path, _request(method, target), seconds)
            body = self._parsed(content)
        if status != _OK:
            raise error_from(body)
        return body

    def _parsed(self, content: bytes) -> dict[str, Any]:
        body = json.loads(content)
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            raise AgentUnreachable(
                f"the {self._whose} at {self._path} does not speak {SCHEMA}",
                check="Is it of another release than this command? Restart it, or use its own command.",
            )
        return body

    @contextlib.contextmanager
    def _explained(self, seconds: float) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise MissingPrivilege(f"admin socket {self._path}: permission denied", check="Run it as root.") from error
        except TimeoutError as error:
            raise AgentUnreachable(
                f"the {self._whose} at {self._path} did not answer within {seconds:.0f} s",
                check="Is it stopped or overloaded? Its log may tell.",
            ) from error
        except OSError as error:
            raise AgentUnreachable(
                f"no {self._whose} answers at {self._path}: {error.strerror or error}",
                check=f"Is the {self._whose} running on this node? --socket names its admin socket.",
            ) from error
        except ValueError as error:
            raise AgentUnreachable(f"what answers at {self._path} is no nodeagent") from error


def _target(route: str, query: Mapping[str, str]) -> str:
    if not query:
        return route
    from urllib.parse import urlencode

    return f"{route}?{urlencode(query)}"


def _request(method: str, target: str) -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: nodeagent\r\n\r\n".encode()


def _exchange(path: str, request: bytes, seconds: float) -> tuple[int, bytes]:
    """Status and body. `seconds` for each step. Raises OSError, and ValueError for what is no whole answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(request)
        received = bytearray()
        while some := connection.recv(1 << 16):  # the agent ends the connection behind its answer
            received += some
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    status, length = _parse_head(head)
    if length != len(body):
        raise ValueError("not a whole answer of this project's agent")
    return status, body


def _read_head(answer: BinaryIO) -> bytes:
    head = bytearray()
    while (line := answer.readline()) not in {b"\r\n", b""}:
        head += line
    return bytes(head.removesuffix(b"\r\n"))


def _parse_head(head: bytes) -> tuple[int, int | None]:
    """Status and length of the body; None: it ends with the connection. Raises ValueError."""
    first, *fields = head.decode("latin-1").split("\r\n")
    version, status, *_ = first.split(" ")
    lengths = [value for name, _, value in (field.partition(":") for field in fields) if name == "Content-Length"]
    if not version.startswith("HTTP/1.") or len(lengths) > 1:
        raise ValueError("not an answer of this project's agent")
    return int(status), int(lengths[0]) if lengths else None
