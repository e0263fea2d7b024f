# SPDX-License-Identifier: Apache-2.0
"""The client's side of application.py: plain sockets made inside a pod's namespace, as any program of the pod would."""

import contextlib
import enum
import hashlib
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Self

from nodeagent.lab.demo.application import CHUNK, pattern
from nodeagent.lab.demo.claims import ClaimFalse, eventually
from nodeagent.lab.namespaces import Host, Pod
from nodeagent.model.address import Ip

PATIENCE_SECONDS = 60.0
"""Longer than whatever works takes on the busiest machine, and a SYN that was dropped is sent again after 1, 3, 7, 15
and 31 seconds. A socket that waits for ever would hang the tour instead of failing it."""


def connect(source: Host, ip: Ip, port: int, *, seconds: float = PATIENCE_SECONDS) -> socket.socket:
    """The connection is blocking, with a deadline for each operation. Raises OSError as its system call does."""
    connection = source.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect((ip, port))
    except OSError:
        connection.close()
        raise
    return connection


def ask(source: Host, ip: Ip, port: int, request: str, *, seconds: float = PATIENCE_SECONDS) -> str:
    """One request, the answer's text up to the end of the stream. Raises OSError when refused or reset."""
    with connect(source, ip, port, seconds=seconds) as connection:
        connection.sendall(f"{request}\n".encode())
        return read_all(connection).decode("ascii", "replace").strip()


def read_all(connection: socket.socket) -> bytes:
    received = bytearray()
    while some := connection.recv(CHUNK):
        received += some
    return bytes(received)


class Fate(enum.StrEnum):
    """What became of a connection, as its client saw it."""

    SERVED = "served"
    REFUSED = "refused"
    """Reset, at connect or later, before any answer."""
    ENDED = "ended without an answer"
    SILENT = "left without an answer"


def fate(source: Host, ip: Ip, port: int, *, seconds: float = PATIENCE_SECONDS) -> Fate:
    """`seconds` until it is taken for silence; less where silence is what is expected."""
    try:
        return Fate.SERVED if ask(source, ip, port, "WHO", seconds=seconds) else Fate.ENDED
    except TimeoutError:
        return Fate.SILENT
    except OSError:
        return Fate.REFUSED


def is_served(source: Pod, ip: Ip, port: int, *, seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether the application answered; a refusal, a reset and silence are all no."""
    return fate(source, ip, port, seconds=seconds) is Fate.SERVED


def upload(source: Pod, ip: Ip, port: int, length: int) -> tuple[str, str, float]:
    """Sends `length` bytes, ends the stream. Returns (digest sent, digest the application computed, seconds)."""
    sent = _digest_of(2, length)
    with connect(source, ip, port, seconds=60) as connection:
        began = time.monotonic()
        connection.sendall(b"DIGEST\n")
        for chunk in pattern(2, length):
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)
        told = read_all(connection).decode().strip()
        return sent, told, time.monotonic() - began


def download(source: Pod, ip: Ip, port: int, length: int) -> tuple[str, str, float]:
    """Receives `length` bytes. Returns (digest expected, digest received, seconds)."""
    expected, digest, received = _digest_of(1, length), hashlib.sha256(), 0
    with connect(source, ip, port, seconds=60) as connection:
        began = time.monotonic()
        connection.sendall(f"SOURCE {length}\n".encode())
        while some := connection.recv(CHUNK):
            digest.update(some)
            received += len(some)
        seconds = time.monotonic() - began
    return expected, f"{received} {digest.hexdigest()}", seconds


def median_round_trip(source: Pod, ip: Ip, port: int, times: int = 300) -> float:
    """Seconds of one small exchange on an open connection."""
    echo, taken = Echo(source, ip, port), []
    for _ in range(times):
        began = time.perf_counter()
        echo.exchange()
        taken.append(time.perf_counter() - began)
    echo.close()
    return statistics.median(taken)


def _digest_of(seed: int, length: int) -> str:
    digest = hashlib.sha256()
    for chunk in pattern(seed, length):
        digest.update(chunk)
    return f"{length} {digest.hexdigest()}"


class Echo:
    """An open connection that is used again and again."""

    def __init__(self, source: Pod, ip: Ip, port: int) -> None:
        self._connection = connect(source, ip, port)
        self._connection.sendall(b"ECHO\n")

    def exchange(self, word: bytes = b"still here") -> None:
        """Raises OSError when the connection is gone or answers something else."""
        self._connection.sendall(word)
        received = b""
        while len(received) < len(word):
            some = self._connection.recv(len(word) - len(received))
            if not some:
                raise ConnectionResetError("the stream ended")
            received += some
        if received != word:
            raise OSError(f"echo of {word!r} was {received!r}")

    def seconds_until_cut(self, within_seconds: float) -> float | None:
        """Seconds until the other end cut it while nothing was sent; None when it is still open after that time."""
        self._connection.settimeout(within_seconds)
        began = time.monotonic()
        try:
            self._connection.recv(1)
        except TimeoutError:
            return None
        except OSError:
            pass
        return time.monotonic() - began

    def close(self) -> None:
        self._connection.close()


class Traffic:
    """Traffic that goes on while something is done to the mesh: one open connection, and ever new ones."""

    def __init__(self, source: Pod, ip: Ip, port: int, pause_seconds: float = 0.02) -> None:
        self._source, self._ip, self._port, self._pause = source, ip, port, pause_seconds
        self.served = 0
        self.exchanges = 0
        self.failures: list[str] = []
        self.slowest = 0.0
        self._stop = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator["Traffic"]:
        threads = [threading.Thread(target=work, daemon=True) for work in (self._connect_again, self._stay_connected)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(PATIENCE_SECONDS)
                if thread.is_alive():  # what it waits for has no end of its own within the same time
                    self.failures.append(f"a connection still hung {PATIENCE_SECONDS:g} s after the last one")

    def wait_for_more(self, times: int, within_seconds: float = PATIENCE_SECONDS) -> None:
        """Until that many more connections were served, and the open one was used as often. Raises ClaimFalse."""
        served, exchanges = self.served + times, self.exchanges + times
        deadline = time.monotonic() + within_seconds
        while self.served < served or self.exchanges < exchanges:
            if time.monotonic() > deadline:
                raise ClaimFalse(
                    f"{self.served - served + times} of {times} new connections to {self._ip} and "
                    f"{self.exchanges - exchanges + times} exchanges on the open one within {within_seconds:g} s; "
                    f"{self.failures[0] if self.failures else 'the rest hung'}"
                )
            time.sleep(0.005)

    def _connect_again(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                answer = ask(self._source, self._ip, self._port, "WHO")
            except OSError as error:
                self.failures.append(f"new connection: {type(error).__name__}: {error}")
            else:
                self.served += 1 if answer else 0
                if not answer:
                    self.failures.append("new connection: ended without an answer")
            self.slowest = max(self.slowest, time.monotonic() - began)
            self._stop.wait(self._pause)

    def _stay_connected(self) -> None:
        try:
            echo = Echo(self._source, self._ip, self._port)
            while not self._stop.is_set():
                echo.exchange()
                self.exchanges += 1
                self._stop.wait(self._pause)
            echo.close()
        except OSError as error:
            self.failures.append(f"open connection after {self.exchanges} exchanges: {type(error).__name__}: {error}")


class MarkerSender:
    """Sends a marker over one open connection after another until the block ends, whatever happens to them."""

    def __init__(self, source: Pod, ip: Ip, port: int, marker: bytes) -> None:
        self._source, self._ip, self._port, self.portion = source, ip, port, marker * 100
        self.sent = 0
        """Portions that the kernel took."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_SECONDS)

    def wait_for_more(self, portions: int) -> None:
        """Raises ClaimFalse."""
        goal = self.sent + portions
        eventually(lambda: self.sent >= goal, PATIENCE_SECONDS, f"{portions} more portions of the marker were sent")

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError), connect(self._source, self._ip, self._port) as connection:
                connection.sendall(b"DIGEST\n")
                while not self._stop.is_set():
                    connection.sendall(self.portion)
                    self.sent += 1
                    time.sleep(0.001)
