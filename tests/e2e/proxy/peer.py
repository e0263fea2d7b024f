# SPDX-License-Identifier: Apache-2.0
"""A client that speaks HBONE by hand."""

import os
import ssl

from nodeagent.hbone.connection import Connection
from nodeagent.hbone.events import Received
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Role
from tests.e2e.proxy.authority import Authority, memfd
from tests.e2e.proxy.wires import HBONE, Wires


class HbonePeer:
    """A client that speaks HBONE by hand from the outsider's namespace, so that it can also misbehave."""

    def __init__(self, wires: Wires, authority: Authority, *names: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        fd = memfd(authority.issue(*names))
        context.load_cert_chain(f"/proc/self/fd/{fd}")
        os.close(fd)
        self.wires = wires
        self.tls = context.wrap_socket(wires.outsider.connect(wires.server.v4, HBONE))
        self.connection = Connection(Role.CLIENT)
        self.events: list[Received] = []

    def open(self, authority: str, **headers: str) -> int:
        stream_id = self.connection.open(ConnectRequest(authority, **headers))
        assert stream_id is not None
        self.flush()
        return stream_id

    def flush(self) -> None:
        while pending := self.connection.pending():
            self.tls.sendall(pending)
            self.connection.taken(len(pending))

    def send(self, stream_id: int, payload: bytes) -> None:
        for view in self.connection.reserve(stream_id, len(payload)):
            view[:] = payload
        self.connection.commit(stream_id, len(payload))
        self.flush()

    def receive(self) -> Received:
        """The next events; raises what the socket raises."""
        payload = self.tls.recv(1 << 16)
        assert payload, "the worker closed the tunnel"
        received = self.connection.received(memoryview(payload))
        self.flush()
        return received

    def status(self, stream_id: int) -> int:
        while True:
            for response in self.receive().responded:
                if response.stream_id == stream_id:
                    return response.status

    def payload(self, stream_id: int, size: int) -> bytes:
        got = b""
        while len(got) < size:
            got += b"".join(self.receive().data.get(stream_id, ()))
        return got

    def ends(self) -> str:
        """How the worker ended the tunnel: `reset` or `closed`."""
        try:
            while self.tls.recv(1 << 16):
                pass
        except ConnectionResetError:
            return "reset"
        except ssl.SSLError as error:
            return error.reason or str(error)
        return "closed"

    def close(self) -> None:
        self.tls.close()
