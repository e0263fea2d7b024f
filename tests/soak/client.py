# SPDX-License-Identifier: Apache-2.0
"""The soak's client, in a pod: streams whose every byte is known, bulk beside them, and ever new connections.

Run as `python client.py JSON`, in a process of its own so that nothing in the lab delays it; the JSON has the fields of
traffic.py's Work. What it sends comes back from the server of tests/bench/load and is compared byte by byte, as it
comes: a lost, doubled, swapped or foreign byte ends the stream as `wrong`. One that breaks is told and begun again.

A byte on standard input is answered with a report, `p` with the pauses as well; its end ends the load: what is on its
way comes back, and the last report is written. It imports nothing of the product: it stands for any client.
"""

import errno
import json
import os
import random
import select
import socket
import sys
import time
from collections import deque

BULK_PAUSE_SECONDS = 0.02
"""Between pieces of 64 KiB: 3 MB/s each way, so that a worker is busy and the machine is not out of CPU."""
PATIENCE_SECONDS = 30.0
"""A SYN that was dropped is sent again after 1, 3, 7 and 15 seconds."""
AT_ONCE = 50
"""Short connections: on a machine that is out of CPU they become fewer, instead of waiting in ever longer queues."""
AGAIN_SECONDS = 0.1
PERIOD = 1 << 20
PATTERN = memoryview(random.Random(5).randbytes(PERIOD) * 2)
READ_BYTES = 1 << 18
Place = tuple[str, int]


def word(error: OSError) -> str:
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "reset"
    return errno.errorcode.get(error.errno or 0, str(error))


class Connection:
    """Until `end`, which is called once. It asks for one byte, and the server ends it."""

    order = b"O"

    def __init__(self, load: "Load", place: Place) -> None:
        self.load, self.place = load, place
        self.began = self.heard = time.monotonic()
        self.connected = 0.0
        self.received = 0
        self.socket = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, socket.SOCK_STREAM)
        self.socket.settimeout(0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self.socket.connect_ex(place)
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, "connect")
        load.watch(self, select.EPOLLOUT)

    def ready(self) -> None:
        try:
            if not self.connected:
                self._connect()
            else:
                self.read()
        except OSError as error:
            self.end(word(error))

    def read(self) -> None:
        got = self.socket.recv(16)
        self.received += len(got)
        if not got:
            self.end("" if self.received == 1 else "ended without an answer")

    def is_silent(self, now: float) -> bool:
        return now - self.began > PATIENCE_SECONDS

    def end(self, failure: str) -> None:
        now = time.monotonic()
        self.load.forget(self)
        if failure:
            self.load.failures.append(self.told(failure, now))
        else:
            self.load.served += 1
            self.load.slowest = max(self.load.slowest, now - self.began)

    def told(self, failure: str, now: float) -> dict[str, object]:
        return {
            "what": failure,
            "place": self.place[0],
            "began": self.began,
            "connected": self.connected,
            "ended": now,
        }

    def _connect(self) -> None:
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code and code != errno.ECONNRESET:  # a SYN that is refused has another word: this one was connected first
            self.end("refused" if code == errno.ECONNREFUSED else errno.errorcode[code])
            return
        self.connected = self.heard = time.monotonic()
        if code:
            self.end("reset")
            return
        self.socket.send(self.order)
        self.load.change(self, select.EPOLLIN)


class Stream(Connection):
    """A piece every `pause` seconds for as long as the load lasts."""

    order = b"E"
    piece, ahead = 4 << 10, 64 << 10

    def __init__(self, load: "Load", place: Place, number: int, pause: float) -> None:
        self.number, self.pause = number, pause
        self.sent = 0
        self.due = time.monotonic() + random.random() * pause
        self.pieces: deque[tuple[int, float]] = deque()
        """Up to which byte, and since when it is on its way."""
        self.longest = 0.0
        """That a piece took forth and back, since it was asked for."""
        self.is_over = False
        super().__init__(load, place)

    def tick(self, now: float, *, is_ending: bool) -> None:
        if not self.connected or self.is_over:
            return
        try:
            if is_ending or self.is_enough:
                if self.sent == self.received:
                    self.is_over = True
                    self.socket.shutdown(socket.SHUT_WR)
            elif now >= self.due:
                self._send(now)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(word(error))

    @property
    def is_enough(self) -> bool:
        return False

    def _send(self, now: float) -> None:
        if self.sent - self.received >= self.ahead:
            return
        at = (self.number * 7919 + self.sent) % PERIOD
        self.sent += self.socket.send(PATTERN[at : at + self.piece])
        self.pieces.append((self.sent, now))
        self.due = max(self.due + self.pause, now - 1)  # after a long pause no flood

    def read(self) -> None:
        got = self.socket.recv(READ_BYTES)
        now = time.monotonic()
        if not got:
            self.end("" if self.is_over else "ended in mid-stream")
            return
        at = (self.number * 7919 + self.received) % PERIOD
        if got != PATTERN[at : at + len(got)]:
            self.end("wrong")
            return
        self.received += len(got)
        self.load.bytes += len(got)
        self.heard = now
        while self.pieces and self.pieces[0][0] <= self.received:
            self.longest = max(self.longest, now - self.pieces.popleft()[1])

    def is_silent(self, now: float) -> bool:
        return (not self.connected or bool(self.pieces) or self.is_over) and now - self.heard > PATIENCE_SECONDS

    def take_longest(self, now: float) -> float:
        longest = max(self.longest, now - self.pieces[0][1] if self.pieces else 0.0)
        self.longest = 0.0
        return longest

    def end(self, failure: str) -> None:
        now = time.monotonic()
        self.load.forget(self)
        if failure:
            self.load.broken.append({**self.told(failure, now), "missing": self.sent - self.received})
        else:
            self.load.whole += 1
        if not self.load.is_ending:
            self.load.again.append((now + (AGAIN_SECONDS if failure else 0.0), self))


class Bulk(Stream):
    """Large pieces, and after some MiB an end and another beginning."""

    piece, ahead = 64 << 10, 512 << 10

    @property
    def is_enough(self) -> bool:
        return self.sent >= 16 << 20


class Load:
    def __init__(self, work: dict[str, object]) -> None:
        self.places = [(str(ip), int(port)) for ip, port in work["places"]]  # type: ignore[attr-defined]
        bulk = [(str(ip), int(port)) for ip, port in work["bulk_places"]]  # type: ignore[attr-defined]
        self.rate = float(str(work["rate"]))
        self.served = self.opened = self.whole = self.bytes = 0
        self.failures: list[dict[str, object]] = []
        self.broken: list[dict[str, object]] = []
        self.again: list[tuple[float, Stream]] = []
        """Streams that ended before the load, and when each is begun again."""
        self.slowest = 0.0
        self.is_ending = False
        self._began = time.monotonic()
        self._poll = select.epoll()
        self._open: dict[int, Connection] = {}
        self._streams = int(str(work["streams"])) + len(bulk)
        pause = float(str(work["pause"]))
        for number in range(int(str(work["streams"]))):
            Stream(self, self.places[number % len(self.places)], number, pause)
        for number, place in enumerate(bulk):
            Bulk(self, place, number, BULK_PAUSE_SECONDS)

    def watch(self, connection: Connection, events: int) -> None:
        self._open[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, events)

    def change(self, connection: Connection, events: int) -> None:
        self._poll.modify(connection.socket, events)

    def forget(self, connection: Connection) -> None:
        self._open.pop(connection.socket.fileno(), None)
        connection.socket.close()

    def run(self) -> None:
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        due, looked = time.monotonic(), 0.0
        while not self.is_ending or self._open:
            now = time.monotonic()
            while self.rate and not self.is_ending and now >= due:
                due = max(due + 1 / self.rate, now - 1)
                if len(self._open) - self._streams >= AT_ONCE:
                    continue
                Connection(self, self.places[self.opened % len(self.places)])
                self.opened += 1
            for number, _ in self._poll.poll(0.002):
                if number != sys.stdin.fileno():
                    if number in self._open:
                        self._open[number].ready()
                elif word := os.read(number, 1):
                    self.report(with_pauses=word == b"p")
                else:
                    self.is_ending = True
                    self._poll.unregister(number)
            now = time.monotonic()
            self._tick(now)
            if now - looked > 1:
                looked = now
                for connection in [one for one in self._open.values() if one.is_silent(now)]:
                    connection.end("silent")
        self.report()

    def _tick(self, now: float) -> None:
        again, self.again = self.again, []
        for when, stream in again:
            if self.is_ending:
                continue
            if now < when:
                self.again.append((when, stream))
            else:
                type(stream)(self, stream.place, stream.number, stream.pause)
        for connection in tuple(self._open.values()):
            if isinstance(connection, Stream):
                connection.tick(now, is_ending=self.is_ending)

    def report(self, *, with_pauses: bool = False) -> None:
        now = time.monotonic()
        streams = [one for one in self._open.values() if isinstance(one, Stream)]
        told = {
            "seconds": now - self._began,
            "opened": self.opened,
            "served": self.served,
            "failures": self.failures,
            "broken": self.broken,
            "whole": self.whole,
            "bytes": self.bytes,
            "slowest": self.slowest,
            "open": sum(bool(one.connected) for one in streams),
            "pauses": [one.take_longest(now) for one in streams if with_pauses and not isinstance(one, Bulk)],
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    Load(json.loads(sys.argv[1])).run()
