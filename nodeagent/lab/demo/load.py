# SPDX-License-Identifier: Apache-2.0
"""Load from a pod: ever new connections at a fixed rate, whatever becomes of former ones, and a stream to each place.

Run as `python load.py RATE MARKER IP:PORT...`, in a process of its own so that nothing in the lab delays it. The places
are taken in turn. Each connection asks application.py for the digest of a marker; each stream sends numbered chunks for
as long as the load lasts, and is compared by its digest. One that breaks is told, and begun again.

A byte on standard input is answered with a report; its end ends the load: what is open is brought to its end, which may
take PATIENCE_SECONDS, and the last report is written. It imports nothing of the product: it stands for any client.
"""

import errno
import fcntl
import hashlib
import json
import os
import select
import socket
import struct
import sys
import termios
import time
from collections import Counter

PATIENCE_SECONDS = 60.0
"""A SYN that was dropped is sent again after 1, 3, 7, 15 and 31 seconds."""
CHUNK_BYTES = 1 << 16
CHUNK_SECONDS = 0.05
Place = tuple[str, int]


class Connection:
    """Asked, answered, and compared."""

    def __init__(self, load: "Load", place: Place) -> None:
        self.load, self.place = load, place
        self.began, self.connected = time.monotonic(), 0.0
        self.answer = b""
        self.socket = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, socket.SOCK_STREAM)
        self.socket.settimeout(0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self.socket.connect_ex(place)
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, "connect")
        load.watch(self, select.EPOLLOUT)

    def ready(self, events: int) -> None:
        try:
            if not self.connected:
                code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == errno.ECONNRESET:  # a SYN that is refused has another word: it was connected, and then reset
                    self.connected = time.monotonic()
                    self.end("reset")
                    return
                if code:
                    self.end("refused" if code == errno.ECONNREFUSED else errno.errorcode[code])
                    return
                self.connected = time.monotonic()
                self.begin()
            elif events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                some = self.socket.recv(4096)
                self.answer += some
                if not some:
                    self.judge()
        except OSError as error:
            self.end("reset" if isinstance(error, ConnectionResetError) else errno.errorcode[error.errno or 0])

    def begin(self) -> None:
        self.socket.send(b"DIGEST\n" + self.load.marker)
        self.socket.shutdown(socket.SHUT_WR)
        self.load.change(self, select.EPOLLIN)

    def judge(self) -> None:
        wanted = f"{len(self.load.marker)} {hashlib.sha256(self.load.marker).hexdigest()}\n".encode()
        self.end("" if self.answer == wanted else "wrong" if self.answer else "ended without an answer")

    def end(self, failure: str) -> None:
        now = time.monotonic()
        self.load.forget(self)
        if not failure:
            self.load.served[self.place] += 1
            self.load.slowest = max(self.load.slowest, now - self.began)
        else:
            self.load.failures.append(self.told(failure, now))

    def told(self, failure: str, now: float) -> dict[str, object]:
        return {
            "what": failure,
            "place": self.place[0],
            "began": self.began,
            "connected": self.connected,
            "ended": now,
        }


class Stream(Connection):
    """Sends until the load ends."""

    def __init__(self, load: "Load", place: Place) -> None:
        self.digest, self.length, self.number, self.waiting = hashlib.sha256(), 0, 0, b""
        self.is_over = False
        self.due = time.monotonic()
        super().__init__(load, place)

    def begin(self) -> None:
        self.waiting = b"DIGEST\n"
        self.load.change(self, select.EPOLLIN)

    def tick(self, now: float, *, is_ending: bool) -> None:
        """Sends the rest of a chunk, or the next one when it is time."""
        if not self.connected or self.is_over:
            return
        if not self.waiting and is_ending:
            self.is_over = True
            self.socket.shutdown(socket.SHUT_WR)
            return
        if not self.waiting and now >= self.due:
            self.due = now + CHUNK_SECONDS
            chunk = self.load.marker + struct.pack("!Q", self.number) + bytes(CHUNK_BYTES - 8 - len(self.load.marker))
            self.number += 1
            self.digest.update(chunk)
            self.length += len(chunk)
            self.waiting = chunk
        if self.waiting:
            try:
                self.waiting = self.waiting[self.socket.send(self.waiting) :]
            except BlockingIOError:
                pass
            except OSError as error:
                self.end("reset" if isinstance(error, ConnectionError) else errno.errorcode[error.errno or 0])

    @property
    def acknowledged(self) -> int:
        """Bytes that the other end has: not those which wait for somebody who is gone."""
        waiting = int.from_bytes(fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return max(self.length - len(self.waiting) - waiting, 0)

    def judge(self) -> None:
        wanted = f"{self.length} {self.digest.hexdigest()}\n".encode()
        self.end("" if self.is_over and self.answer == wanted else "wrong" if self.answer else "ended in mid-stream")

    def end(self, failure: str) -> None:
        self.load.forget(self)
        self.load.bytes[self.place] += self.length - len(self.waiting)
        if not failure:
            self.load.whole += 1
            return
        self.load.broken.append(self.told(failure, time.monotonic()))
        if not self.load.is_ending:
            self.load.begin_stream(self.place)


class Load:
    def __init__(self, rate: float, marker: bytes, places: list[Place]) -> None:
        self.marker, self._pause, self._places = marker, 1 / rate, places
        self.served: Counter[Place] = Counter()
        self.bytes: Counter[Place] = Counter()
        self.failures: list[dict[str, object]] = []
        self.broken: list[dict[str, object]] = []
        self.slowest, self.opened, self.whole = 0.0, 0, 0
        self.is_ending = False
        self._began = time.monotonic()
        self._poll = select.epoll()
        self._open: dict[int, Connection] = {}

    def watch(self, connection: Connection, events: int) -> None:
        self._open[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, events)

    def change(self, connection: Connection, events: int) -> None:
        self._poll.modify(connection.socket, events)

    def forget(self, connection: Connection) -> None:
        self._open.pop(connection.socket.fileno(), None)
        connection.socket.close()

    def begin_stream(self, place: Place) -> None:
        Stream(self, place)

    def run(self) -> None:
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        for place in self._places:
            self.begin_stream(place)
        due, ended = time.monotonic(), 0.0
        while not self.is_ending or self._open:
            now = time.monotonic()
            if not self.is_ending and now >= due:
                due += self._pause
                Connection(self, self._places[self.opened % len(self._places)])
                self.opened += 1
            for number, events in self._poll.poll(max(0.0, min(due - now, 0.005))):
                if number != sys.stdin.fileno():
                    if number in self._open:
                        self._open[number].ready(events)
                elif os.read(number, 1):
                    self.report()
                else:
                    self.is_ending, ended = True, time.monotonic()
                    self._poll.unregister(number)
            self._look_after(time.monotonic(), ended)
        self.report()

    def _look_after(self, now: float, ended: float) -> None:
        for connection in tuple(self._open.values()):
            if isinstance(connection, Stream):
                connection.tick(now, is_ending=self.is_ending)
            since = ended if isinstance(connection, Stream) and connection.connected else connection.began
            if since and now - since > PATIENCE_SECONDS:
                connection.end("silent")

    def report(self) -> None:
        streams = [one for one in self._open.values() if isinstance(one, Stream)]
        sent = self.bytes + Counter({one.place: one.acknowledged for one in streams})
        told = {
            "now": time.monotonic(),
            "seconds": time.monotonic() - self._began,
            "opened": self.opened,
            "served": {ip: self.served[ip, port] for ip, port in self._places},
            "failures": self.failures,
            "bytes": {ip: sent[ip, port] for ip, port in self._places},
            "broken": self.broken,
            "whole": self.whole,
            "slowest": self.slowest,
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def main() -> None:
    rate, marker, *places = sys.argv[1:]
    pairs = (place.rpartition(":") for place in places)
    Load(float(rate), bytes.fromhex(marker), [(ip, int(port)) for ip, _, port in pairs]).run()


if __name__ == "__main__":
    main()
