# SPDX-License-Identifier: Apache-2.0
"""What stands in the way of an answer is told by who could remove it."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from nodeagent.admin.client import AdminClient
from nodeagent.errors import AgentUnreachable, MissingPrivilege


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "admin.sock")


def test_nobody_there(path: str) -> None:
    with pytest.raises(AgentUnreachable, match="No such file"):
        AdminClient(path).fetch("/status")


def test_an_agent_that_says_nothing(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(path)
        hanging.listen()
        with pytest.raises(AgentUnreachable, match="did not answer within 0 s"):
            AdminClient(path, seconds=0.05).fetch("/status")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "no nodeagent"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "does not speak nodeagent/v1"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"schema":"v0"}', "does not speak nodeagent/v1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nno json!!", "no nodeagent"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", "no nodeagent"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}", "no nodeagent"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "no nodeagent"),
        (b"HTTP/1.1 200 OK", "no nodeagent"),
        (b"HTTP/2 200\r\nContent-Length: 2\r\n\r\n{}", "no nodeagent"),
        (b"", "no nodeagent"),
    ],
)
def test_something_else_answers(path: str, answer: bytes, words: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()

        def reply() -> None:
            client, _ = other.accept()
            with client:
                client.recv(4096)
                client.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(AgentUnreachable, match=words):
            AdminClient(path).fetch("/status")
        thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "no nodeagent"),
        (b"", "no nodeagent"),
        (b"HTTP/1.1 200 OK\r\n\r\nno json\n", "no nodeagent"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"schema":"v0"}\n', "does not speak nodeagent/v1"),
    ],
)
def test_something_else_answers_an_order_that_lasts(path: str, answer: bytes, words: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()

        def reply() -> None:
            client, _ = other.accept()
            with client:
                client.recv(4096)
                client.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(AgentUnreachable, match=words):
            next(AdminClient(path).follow("/trace"))
        thread.join()


def test_permission_denied_says_so(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nodeagent.admin.client._exchange", refuse)
    with pytest.raises(MissingPrivilege):
        AdminClient(path).fetch("/status")
