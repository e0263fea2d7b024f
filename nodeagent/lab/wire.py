# SPDX-License-Identifier: Apache-2.0
"""The inter-node link, and taps on it: evidence from outside of what is being proven."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from nodeagent.errors import NotPossible
from nodeagent.lab import capture
from nodeagent.lab.namespaces import Namespace
from nodeagent.lab.packets import Seen
from nodeagent.lab.topology import BRIDGE, device_name

RING_BYTES = 128 << 20
"""An eighth of a second of the fastest transfer that two cores have been seen to make (1 GB/s)."""
ANSWER_SECONDS = 30.0


class Wire(Namespace):
    """The namespace with the bridge that joins nodes, control plane and outside host."""

    def tap(self, marker: bytes = b"", *, pcap: Path | None = None, ring_bytes: int = RING_BYTES) -> "Tap":
        """Counts what crosses the link inside a `with` block, and occurrences of `marker` in it.

        `pcap` keeps every frame whole, for Wireshark.
        """
        return Tap(self, marker, pcap, ring_bytes)


class Tap:
    def __init__(self, wire: Wire, marker: bytes, pcap: Path | None, ring_bytes: int) -> None:
        self._wire, self._marker, self._pcap, self._ring_bytes = wire, marker, pcap, ring_bytes
        self._result: Seen | None = None

    def __enter__(self) -> Self:
        packets = self._wire.call(lambda: capture.open_ring(self._ring_bytes))
        bridge = self._wire.call(lambda: socket.if_nametoindex(device_name(BRIDGE)))
        self._control, theirs = socket.socketpair()
        self._control.settimeout(ANSWER_SECONDS)
        with packets, theirs:
            descriptors = (packets.fileno(), theirs.fileno())
            words = [*descriptors, self._ring_bytes, bridge, self._marker.hex(), os.fspath(self._pcap or "")]
            self._process = self._wire.spawn(
                [sys.executable, "-m", capture.__name__, *(str(word) for word in words)],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # Beside an exception that is already on its way, the tap's own failure would only hide it.
            with contextlib.suppress(*((NotPossible,) if error is not None else ())):
                self._result = self._ask(capture.STOP)
        finally:
            self._control.close()
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Of the process that counts, inside the block."""
        return self._process.pid

    def result(self) -> Seen:
        """Everything that crossed before the call: inside the block so far, after it in all."""
        return self._ask(capture.SNAPSHOT) if self._result is None else self._result

    def _ask(self, word: bytes) -> Seen:
        try:
            self._control.sendall(word)
            (length,) = struct.unpack("!Q", self._receive(8))
            return msgspec.json.decode(self._receive(length), type=Seen)
        except OSError as error:
            raise NotPossible(
                f"the tap on the inter-node link does not answer: {error}",
                check="Its process may have been killed; standard error tells more.",
            ) from error

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            some = self._control.recv(min(1 << 20, length - len(received)))
            if not some:
                raise ConnectionResetError("it has ended")
            received += some
        return bytes(received)
