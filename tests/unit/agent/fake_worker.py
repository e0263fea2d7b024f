# SPDX-License-Identifier: Apache-2.0
"""A worker that speaks the agent's protocol and serves nobody. It writes what it was told into a journal.

Files in its directory: `<pid>.jsonl` is the journal; `mute` keeps it from answering lists, `hide` from knocking; with
`heirs` it can hand over.
SIGUSR1: it reports a connection that opened and one that closed, and is gone. SIGUSR2: it loses its control socket, and
comes back.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.record import PID_SHIFT, ConnectionRecord, Direction
from nodeagent.proxy.framing import FrameReader, encode_frame
from nodeagent.proxy.handover import VERSION
from nodeagent.proxy.messages import (
    ORDERS,
    Applied,
    Apply,
    Certificate,
    Closed,
    Connections,
    Drain,
    FromWorker,
    HandedOver,
    HandOver,
    Hello,
    ListConnections,
    Opened,
    Ping,
    Pong,
    Ready,
    SetLogLevels,
    Start,
    TakeOver,
    ToWorker,
)

HELD = Identity("cluster.local", "gone", "gone")


class LostControl(Exception):
    pass


def record(number: int, reason: str = "") -> ConnectionRecord:
    return ConnectionRecord(
        id=number,
        direction=Direction.OUTBOUND,
        started=time.time(),
        source_ip=Ip("10.0.0.1"),
        source_port=1000 + number % 1000,
        original_ip=Ip("10.0.0.2"),
        original_port=80,
        reason=reason,
    )


class FakeWorker:
    def __init__(self, directory: Path, options: argparse.Namespace) -> None:
        self.directory, self.options = directory, options
        self.control = socket.socket(fileno=options.control_fd)
        self.report = socket.socket(fileno=options.report_fd)
        self.listeners: list[socket.socket] = []
        self.reader: FrameReader[ToWorker] = FrameReader(ToWorker)

    def run(self) -> None:
        signal.signal(signal.SIGUSR1, lambda _number, _frame: self.last_words())
        signal.signal(signal.SIGUSR2, self.lose_control)
        self.note("args", **vars(self.options))
        while True:
            try:
                payload, descriptors, _, _ = socket.recv_fds(self.control, 1 << 16, 64)
                for message, owned in self.reader.received(payload, descriptors):
                    self.received(message, owned)
            except (LostControl, ConnectionResetError):
                payload = b""
            if not payload:
                self.meet_the_next_agent()

    def received(self, message: ToWorker, descriptors: list[int]) -> None:
        self.note(type(message).__name__)
        match message:
            case Start():
                self.listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                found = message.kernel_tls
                handover = VERSION if (self.directory / "heirs").exists() else ""
                orders = () if (self.directory / "no-orders").exists() else ORDERS
                self.send(Ready(os.getpid(), handover, found is not None and found.works, str(found or ""), orders))
            case Apply(_, generation, is_last) if is_last:
                self.send(Applied(generation))
            case Certificate(identity):
                self.certified(identity, descriptors)
            case ListConnections(request):
                self.list_connections(request)
            case Ping():
                self.send(Pong())
            case SetLogLevels(levels):
                self.note("levels", levels=str(levels))
            case Drain() | TakeOver() | HandOver():
                self.leaves(message, descriptors)
            case _:
                pass

    def certified(self, identity: Identity, descriptors: list[int]) -> None:
        contents = [Path(f"/proc/self/fd/{descriptor}").read_text(encoding="ascii") for descriptor in descriptors]
        self.note("certificate", identity=str(identity), contents=contents)
        for descriptor in descriptors:
            os.close(descriptor)

    def list_connections(self, request: int) -> None:
        if not (self.directory / "mute").exists():
            self.send(Connections(request, (record(1),), is_last=False))
            self.send(Connections(request, (record(2),), is_last=True))

    def leaves(self, message: Drain | TakeOver | HandOver, descriptors: list[int]) -> None:
        match message:
            case Drain():
                sys.exit(0)
            case TakeOver():
                with socket.socket(fileno=descriptors[0]) as former:
                    former.sendall(str(os.getpid()).encode())
            case HandOver():
                self.hand_over(descriptors[0])

    def send(self, message: FromWorker) -> None:
        with contextlib.suppress(ConnectionError):  # a successor asks anew
            self.control.sendall(encode_frame(message))

    def hand_over(self, descriptor: int) -> None:
        """One connection, whose opening nobody has heard of yet."""
        with socket.socket(fileno=descriptor) as heir:
            pid = int(heir.recv(16))
        number = os.getpid() << PID_SHIFT | 7
        self.report.sendall(encode_frame(Opened(record(number))) + encode_frame(HandedOver(pid, (number,))))
        sys.exit(0)

    def last_words(self) -> None:
        self.report.sendall(encode_frame(Opened(record(7))) + encode_frame(Closed(record(8, reason="closed"))))
        os._exit(1)

    def lose_control(self, _number: int, _frame: object) -> None:
        raise LostControl

    def meet_the_next_agent(self) -> None:
        self.control.close()
        self.reader = FrameReader(ToWorker)
        ours, theirs = socket.socketpair()
        version = VERSION if (self.directory / "heirs").exists() else ""
        hello = encode_frame(Hello(os.getpid(), self.options.slot, 3, (HELD,), version, "0.0.1"))
        descriptors = [*(listener.fileno() for listener in self.listeners), theirs.fileno()]
        while True:
            while (self.directory / "hide").exists():
                time.sleep(0.01)
            self.control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self.control.connect(self.options.reconnect)
                socket.send_fds(self.control, [hello], descriptors)
            except OSError:
                self.control.close()
                time.sleep(0.01)
            else:
                break
        theirs.close()
        self.report.close()
        self.report = ours

    def note(self, what: str, **more: object) -> None:
        with (self.directory / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"what": what, **more}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    for option in ("--netns-fd", "--control-fd", "--report-fd", "--uid", "--slot"):
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("--reconnect", default="")
    options = parser.parse_args()
    directory = options.directory
    del options.directory
    FakeWorker(directory, options).run()


if __name__ == "__main__":
    main()
