# SPDX-License-Identifier: Apache-2.0
"""What the node itself can ask over its loopback."""

import http.client
import socket

from nodeagent.lab.namespaces import Node

ADMIN_PORT = 15000
"""Of ztunnel, and so of our agent: istioctl and Kiali ask there."""


class _Answer(http.client.HTTPResponse):
    """Read from a socket that was made in another namespace."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection, method="GET")
        self.begin()


def get(node: Node, port: int, path: str) -> bytes:
    """Raises OSError unless the answer is 200."""
    with node.connect("127.0.0.1", port) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        with _Answer(connection) as answer:
            if answer.status != http.client.OK:
                raise OSError(f"{path}: {answer.status} {answer.reason}")
            return answer.read()
