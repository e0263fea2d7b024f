# SPDX-License-Identifier: Apache-2.0
"""The command line's end of the admin socket. Imports little: every command that asks the agent waits for it.

So it speaks the little of HTTP that the agent does (http.py) by itself: `http.client` would load the parsers of mail
and TLS, which takes longer than the agent's answer.
"""

import json
import socket
from collections.abc import Mapping
from typing import Any

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

    def _ask(self, method: str, target: str, seconds: float) -> dict[str, Any]:
        try:
            status, content = _exchange(self._path, f"{method} {target} HTTP/1.1\r\nHost: nodeagent\r\n\r\n", seconds)
            body = json.loads(content)
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
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            raise AgentUnreachable(
                f"the {self._whose} at {self._path} does not speak {SCHEMA}",
                check="Is it of another release than this command? Restart it, or use its own command.",
            )
        if status != _OK:
            raise error_from(body)
        return body


def _target(route: str, query: Mapping[str, str]) -> str:
    if not query:
        return route
    from urllib.parse import urlencode

    return f"{route}?{urlencode(query)}"


def _exchange(path: str, request: str, seconds: float) -> tuple[int, bytes]:
    """Status and body. `seconds` for each step. Raises OSError, and ValueError for what is no whole answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(request.encode())
        received = bytearray()
        while some := connection.recv(1 << 16):  # the agent ends the connection behind its answer
            received += some
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    version, status, *_ = first.split(" ")
    lengths = [value for name, _, value in (field.partition(":") for field in fields) if name == "Content-Length"]
    if not version.startswith("HTTP/1.") or len(lengths) != 1 or int(lengths[0]) != len(body):
        raise ValueError("not a whole answer of this project's agent")
    return int(status), body
