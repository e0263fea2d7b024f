# SPDX-License-Identifier: Apache-2.0
"""The command line's end of the admin socket. Imports little: every command that asks the agent waits for it."""

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from nodeagent.admin.schema import SCHEMA, error_from
from nodeagent.errors import AgentUnreachable, MissingPrivilege

ANSWER_SECONDS = 10.0


class AdminClient:
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
        connection = _UnixConnection(self._path, seconds)
        try:
            connection.request(method, target)
            response = connection.getresponse()
            body = json.loads(response.read())
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
        except (http.client.HTTPException, ValueError) as error:
            raise AgentUnreachable(f"what answers at {self._path} is no nodeagent") from error
        finally:
            connection.close()
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            raise AgentUnreachable(
                f"the {self._whose} at {self._path} does not speak {SCHEMA}",
                check="Is it of another release than this command? Restart it, or use its own command.",
            )
        if response.status != http.client.OK:
            raise error_from(body)
        return body


def _target(route: str, query: Mapping[str, str]) -> str:
    return f"{route}?{urlencode(query)}" if query else route


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("nodeagent", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
