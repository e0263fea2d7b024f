# SPDX-License-Identifier: Apache-2.0
"""The application and its client over loopback: what the tour takes for evidence must be right without a mesh."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from nodeagent.lab.demo import application
from nodeagent.lab.demo.application import CHUNK, pattern
from nodeagent.lab.demo.claims import ClaimFalse, eventually
from nodeagent.lab.demo.client import Echo, Fate, Traffic, ask, connect, download, fate, is_served, read_all, upload
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip


class HereAsPod:
    """What the client needs of a pod: a socket, here in the test's own namespace."""

    def socket(self, family: int, kind: int) -> socket.socket:
        return socket.socket(family, kind)


POD = cast("Pod", HereAsPod())
V4, V6 = Ip("127.0.0.1"), Ip("::1")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """As the stage runs it: without site-packages and without the environment."""
    with socket.socket(socket.AF_INET6) as holder:  # so that nobody else is given the port before it listens there
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("::", 0))
        chosen: int = holder.getsockname()[1]
        words = [sys.executable, "-S", "-E", str(Path(application.__file__)), str(chosen)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                yield chosen
            finally:
                process.kill()


def endings(port: int, last: str) -> str:
    """What the application tells of how connections ended, up to `last`; it notices a moment after us."""
    told, deadline = "", time.monotonic() + 60
    while not told.endswith(last):
        assert time.monotonic() < deadline, told
        told = f"{told} {ask(POD, V4, port, 'ENDINGS')}".strip()
    return told


@pytest.mark.parametrize("ip", [V4, V6])
def test_it_tells_whom_it_sees(port: int, ip: Ip) -> None:
    with connect(POD, ip, port) as connection:
        own = connection.getsockname()
        connection.sendall(b"WHO\n")
        assert read_all(connection).decode() == f"{own[0]} {own[1]}\n"


@pytest.mark.parametrize("ip", [V4, V6])
def test_it_tells_where_it_was_reached_and_how_often_by_whom(port: int, ip: Ip) -> None:
    assert ask(POD, ip, port, "WHERE") == f"{ip} {port}"
    before = int(ask(POD, ip, port, f"MET {ip}"))
    with connect(POD, ip, port):
        assert int(ask(POD, ip, port, f"MET {ip}")) == before + 2
    assert ask(POD, ip, port, "MET 192.0.2.1") == "0"


@pytest.mark.parametrize("length", [0, 1, CHUNK, 3 * CHUNK + 7])
def test_what_is_sent_arrives_in_both_directions(port: int, length: int) -> None:
    sent, told, _ = upload(POD, V4, port, length)
    assert sent == told
    assert sent.startswith(f"{length} ")
    expected, received, _ = download(POD, V4, port, length)
    assert expected == received


def test_the_pattern_is_long_enough_different_and_the_same_again() -> None:
    once = b"".join(pattern(1, CHUNK + 5))
    assert len(once) == CHUNK + 5
    assert once == b"".join(pattern(1, CHUNK + 5))
    assert once != b"".join(pattern(2, CHUNK + 5))


def test_no_two_chunks_of_the_pattern_are_the_same() -> None:
    chunks = list(pattern(1, 3 * CHUNK))
    assert len({*chunks}) == len(chunks)


def test_a_request_may_come_in_pieces_and_bring_its_first_bytes(port: int) -> None:
    with connect(POD, V4, port) as connection:
        for piece in (b"EC", b"HO\nfirst", b" second"):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"first second"


@pytest.mark.parametrize("request_line", ["NONSENSE", "", "SOURCE", "WHO ME", "X" * 300])
def test_an_unknown_request_is_answered_as_such(port: int, request_line: str) -> None:
    assert ask(POD, V4, port, request_line) == "unknown request"


def test_a_reset_is_a_reset(port: int) -> None:
    with connect(POD, V4, port) as connection:
        connection.sendall(b"RESET\n")
        assert connection.recv(100) == b"resetting\n"
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_it_tells_how_connections_ended(port: int) -> None:
    ask(POD, V4, port, "ENDINGS")
    for linger in (None, b"\1\0\0\0\0\0\0\0"):
        with connect(POD, V4, port) as connection:
            connection.sendall(b"HOW\n")
            assert connection.recv(100) == b"watching\n"
            if linger is None:
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""
            else:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert endings(port, "reset") == "end reset"


def test_it_reads_on_after_it_has_ended_its_own_direction(port: int) -> None:
    ask(POD, V4, port, "ENDINGS")
    with connect(POD, V4, port) as connection:
        connection.sendall(b"LATE\n")
        assert read_all(connection) == b"over\n"
        connection.sendall(b"12345")
    assert endings(port, "late:5") == "late:5"


def test_an_echo_goes_on_until_it_is_cut(port: int) -> None:
    echo = Echo(POD, V4, port)
    for word in (b"one", b"two"):
        echo.exchange(word)
    assert echo.seconds_until_cut(0.02) is None
    echo.close()


def test_an_echo_that_is_cut_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        echo = Echo(POD, V4, listener.getsockname()[1])
        listener.accept()[0].close()
        cut = echo.seconds_until_cut(5)
        assert cut is not None
        assert cut < 5
        with pytest.raises(ConnectionError):
            echo.exchange()
        echo.close()


def test_nobody_there_is_no(port: int, held_port: int) -> None:
    assert is_served(POD, V4, port, seconds=60)
    assert not is_served(POD, V4, held_port, seconds=60)
    with pytest.raises(ConnectionRefusedError):
        ask(POD, V4, held_port, "WHO")


@pytest.mark.parametrize(
    ("linger", "answer", "wanted"),
    [
        pytest.param(b"\1\0\0\0\0\0\0\0", b"", Fate.REFUSED, id="reset"),
        pytest.param(None, b"", Fate.ENDED, id="end"),
        pytest.param(None, b"you", Fate.SERVED, id="answer"),
    ],
)
def test_the_fate_of_a_connection(linger: bytes | None, answer: bytes, wanted: Fate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)
                if linger is not None:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        server = threading.Thread(target=serve)
        server.start()
        assert fate(POD, V4, listener.getsockname()[1], seconds=60) is wanted
        server.join()


def test_a_connection_that_nobody_answers_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert fate(POD, V4, listener.getsockname()[1], seconds=0.05) is Fate.SILENT


def test_traffic_counts_what_was_served(port: int) -> None:
    with Traffic(POD, V4, port, pause_seconds=0.001).running() as traffic:
        traffic.wait_for_more(20, within_seconds=60)
    assert traffic.served >= 20
    assert traffic.exchanges >= 20
    assert traffic.failures == []
    assert traffic.slowest > 0


def test_traffic_tells_what_failed(held_port: int) -> None:
    with Traffic(POD, V4, held_port, pause_seconds=0.001).running() as traffic:
        eventually(lambda: len(traffic.failures) > 1, 60, "something has failed")
        with pytest.raises(ClaimFalse, match=r"0 of 1 new connections .* and 0 exchanges .*ConnectionRefusedError"):
            traffic.wait_for_more(1, within_seconds=0.05)
    assert traffic.served == 0
    assert any(failure.startswith("open connection after 0 exchanges") for failure in traffic.failures)
    assert any(failure.startswith("new connection: ConnectionRefusedError") for failure in traffic.failures)
