# SPDX-License-Identifier: Apache-2.0
"""The applications of the matrix: they run in this process, so that a test knows what each of them accepted.

An application says whom it sees (`<address> <port>`, a line) and then sends back what it gets.
"""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nodeagent.lab.namespaces import Host
from nodeagent.model.address import Ip, socket_ip

PATIENCE_SECONDS = 60.0
"""An emulated machine is slow; what waits so long fails."""


class Accepted(NamedTuple):
    place: str
    port: int
    """The application's own."""
    source: Ip
    source_port: int


class Applications:
    def __init__(self) -> None:
        self.accepted: list[Accepted] = []
        """Oldest first; a connection is here before its client hears of it."""
        self.aborted: set[Accepted] = set()
        """What did not end as TCP means it."""
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()

    @contextlib.contextmanager
    def running(self, places: Iterable[tuple[Host, Iterable[int]]]) -> Iterator[None]:
        self._selector.register(self._woken, selectors.EVENT_READ)
        for host, ports in places:
            for port in ports:
                listener = host.listen(port)
                listener.settimeout(0)
                self._selector.register(listener, selectors.EVENT_READ, (host.name, port))
        thread = threading.Thread(target=self._serve, name="applications", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._wake.close()
            thread.join()
            for key in tuple(self._selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()
            self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                found = key.fileobj
                assert isinstance(found, socket.socket)
                if found is self._woken:
                    return
                if isinstance(key.data, Accepted):
                    self._echo(found, key.data)
                else:
                    self._accept(found, *key.data)

    def _accept(self, listener: socket.socket, place: str, port: int) -> None:
        with contextlib.suppress(OSError):  # its client left before we looked
            connection, peer = listener.accept()
            source = socket_ip(peer[0])
            accepted = Accepted(place, port, source, peer[1])
            self.accepted.append(accepted)
            # Blocking, with a deadline: what a test sends at once fits into the buffers.
            connection.settimeout(PATIENCE_SECONDS)
            self._selector.register(connection, selectors.EVENT_READ, accepted)
            connection.sendall(f"{source} {peer[1]}\n".encode())

    def _echo(self, connection: socket.socket, accepted: Accepted) -> None:
        try:
            some = connection.recv(1 << 16)
            if some:
                connection.sendall(some)
                return
        except OSError:
            self.aborted.add(accepted)
        self._selector.unregister(connection)
        connection.close()
