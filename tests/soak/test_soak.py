# SPDX-License-Identifier: Apache-2.0
"""A very short soak of each part, and what computes the verdict of a long one. How long it took is only printed."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from nodeagent.model.address import Ip
from tests.bench.quiet import Foreign
from tests.soak import __main__ as verb
from tests.soak import client
from tests.soak.handover import STREAMS, judge, percentile
from tests.soak.losses import RESET, Loss, is_excused
from tests.soak.mixed import in_words, is_leak, unexcused
from tests.soak.outcome import Options, Outcome
from tests.soak.traffic import Failure, Report, Work
from tests.soak.watch import Growth, Sample, growth

SHORT = Options(seconds=6, replacements=2, cases=1000, pause_seconds=2, rate=5)
"""And little at a time: at this length the load proves nothing, and on a busy machine it would run into timeouts."""
DB, API = Ip("10.1.0.1"), Ip("10.1.0.2")
KILL = Loss(since=100, until=102, endings=RESET)


def failure(
    what: str = "reset", place: Ip = DB, connected: float = 99, ended: float = 101, missing: int = 0
) -> Failure:
    return Failure(what, place, connected, connected, ended, missing)


def report(*failures: Failure, broken: tuple[Failure, ...] = (), whole: int = STREAMS) -> Report:
    return Report(
        seconds=60,
        opened=500,
        served=500 - len(failures),
        failures=failures,
        broken=broken,
        whole=whole,
        bytes=1 << 30,
        slowest=0.5,
        open=0,
        pauses=(),
    )


# ---- for a few seconds -----------------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", verb.PARTS)
def test_a_short_one_keeps_every_promise(part: str) -> None:
    told: list[str] = []
    outcome = verb.PARTS[part](SHORT, told.append)
    print(outcome.summary)
    assert [words for words in outcome.broken if "p99" not in words] == []
    assert (" 0 differ" if part == "policies" else " 0 bytes lost") in outcome.summary


# ---- what is excused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        pytest.param(failure(), True, id="held by the worker that was killed"),
        pytest.param(failure("ended in mid-stream"), True, id="a stream of it"),
        pytest.param(failure("wrong"), False, id="another byte than was sent"),
        pytest.param(failure("silent"), False, id="left without an answer"),
        pytest.param(failure("refused", connected=0), False, id="refused: its SYN waits for the next worker"),
        pytest.param(failure(place=API), False, id="past the workers"),
        pytest.param(failure(ended=99.5), False, id="before the kill"),
        pytest.param(failure(connected=103, ended=104), False, id="begun after it"),
    ],
)
def test_only_what_a_killed_worker_held_is_excused(failed: Failure, *, expected: bool) -> None:
    assert is_excused(failed, {DB}, [KILL]) is expected
    assert not is_excused(failed, {DB}, [])


def test_each_way_to_fail_is_a_line() -> None:
    outside = unexcused(
        report(failure("silent"), failure(), broken=(failure("wrong"), failure("silent"))), {DB}, [KILL]
    )
    assert [line.partition(";")[0] for line in in_words(outside)] == ["2 connections: silent", "1 connections: wrong"]


# ---- the client ------------------------------------------------------------------------------------------------------


def flip(said: bytes) -> bytes:
    return bytes([said[0] ^ 1]) + said[1:]


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[bytes], bytes]], int]]:
    """Starts a server that sends back what a function makes of it, b"" for an end; returns its port."""
    listeners: list[socket.socket] = []

    def answer(sock: socket.socket, changed: Callable[[bytes], bytes]) -> None:
        with sock, contextlib.suppress(ConnectionError):  # the client leaves where it is not satisfied
            order = sock.recv(1)
            if order == b"O":
                sock.sendall(order)
                return
            while (said := sock.recv(1 << 16)) and (changing := changed(said)):
                sock.sendall(changing)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):  # a close with something unread would be a reset
                pass

    def start(changed: Callable[[bytes], bytes]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept() -> None:
            with contextlib.suppress(OSError):  # it is shut down at the end
                while True:
                    sock, _ = listener.accept()
                    threading.Thread(target=answer, args=(sock, changed), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        pytest.param(lambda said: said, "", id="as it was"),
        pytest.param(flip, "wrong", id="another byte"),
        pytest.param(lambda said: said[1:], "wrong", id="a byte less"),
        pytest.param(lambda said: said + said[-1:], "wrong", id="a byte twice"),
        pytest.param(lambda _: b"", "ended in mid-stream", id="an end"),
    ],
)
def test_the_client_compares_every_byte(
    serve: Callable[[Callable[[bytes], bytes]], int], changed: Callable[[bytes], bytes], what: str
) -> None:
    place = (Ip("127.0.0.1"), serve(changed))
    work = Work(places=[place], bulk_places=[place], streams=3, rate=50, pause=0.01)
    words = [sys.executable, "-S", "-E", client.__file__, json.dumps(msgspec.to_builtins(work))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while True:
            process.stdin.write(b"?")
            process.stdin.flush()
            seen = msgspec.json.decode(process.stdout.readline(), type=Report)
            if seen.served > 5 and (seen.broken if what else seen.bytes > 1 << 20):
                break
        process.stdin.close()
        last = msgspec.json.decode(process.stdout.readline(), type=Report)
    assert last.failures == ()
    assert {failure.what for failure in last.broken} == ({what} if what else set())
    assert what or last.whole == 4


# ---- memory ----------------------------------------------------------------------------------------------------------


def samples(pid: int, seconds: range, size: Callable[[int], int]) -> list[Sample]:
    return [Sample(at, "worker", pid, size(at)) for at in seconds]


def test_the_slope_is_that_of_the_process_that_lived_longest_once_it_was_warm() -> None:
    seen = [*samples(1, range(50), lambda at: at << 20), *samples(2, range(50, 650), lambda at: min(at, 100) * 1000)]
    assert growth(seen)["worker"] == Growth(359, 100_000, 0.0)


def test_a_leak_is_seen() -> None:
    one = growth(samples(1, range(600), lambda at: 20_000_000 + 20_000 * at))["worker"]
    assert one.bytes_per_minute == pytest.approx(1_200_000)
    assert is_leak(one)
    assert not is_leak(one._replace(seconds=30)), "too short to tell"
    assert not is_leak(one._replace(bytes_per_minute=500_000))


# ---- handovers -------------------------------------------------------------------------------------------------------

QUIET, BUSY = Foreign(0.01, ""), Foreign(0.4, "make 9.0 s")
SLOW = [0.01] * 98 + [0.06] * 2
WELL = judge(report(), 20, 20 * STREAMS, [0.001], [0.02] * 100, [], QUIET)


def test_twenty_handovers() -> None:
    assert WELL.broken == ()
    assert "p50 20.0 ms, p99 20.0 ms, longest 20.0 ms; without a replacement: p50 1.0 ms" in WELL.summary


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (judge(report(failure("refused")), 20, 4000, [], [], [], QUIET), "1 connections failed"),
        (judge(report(broken=(failure(missing=7),)), 20, 4000, [], [], [], QUIET), "1 connections failed"),
        (judge(report(whole=199), 20, 4000, [], [], [], QUIET), "199 of 200 streams"),
        (judge(report(), 20, 3999, [], [], [], QUIET), "3999 connections were handed over"),
        (judge(report(), 20, 4000, [], SLOW, [], QUIET), "the pause's p99 is above 50 ms"),
        (judge(report(), 20, 4000, [], [], ["replacement 3: cut"], QUIET), "replacement 3"),
    ],
)
def test_a_promise_that_is_not_kept_is_named(outcome: Outcome, words: str) -> None:
    [line] = outcome.broken
    assert line.startswith(words)


def test_the_pauses_on_a_busy_machine_are_told_and_not_judged() -> None:
    outcome = judge(report(), 20, 4000, [], SLOW, [], BUSY)
    assert outcome.broken == ()
    assert outcome.summary.endswith("; not judged, since others took 40% of the CPUs: make 9.0 s")


def test_bytes_that_did_not_come_back_are_counted() -> None:
    assert " 7 bytes lost" in judge(report(broken=(failure(missing=7),)), 20, 4000, [], [], [], QUIET).summary


def test_percentiles() -> None:
    assert [percentile(range(100), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 99]
    assert percentile([], 0.99) == 0


# ---- the verb --------------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Options]]:
    """What was run; `ill` breaks a promise."""
    ran: list[tuple[str, Options]] = []

    def part(name: str) -> Callable[[Options, Callable[[str], None]], Outcome]:
        def run(options: Options, tell: Callable[[str], None]) -> Outcome:
            ran.append((name, options))
            tell("on its way")
            return Outcome("figures", ("it fell over",) if name == "ill" else ())

        return run

    monkeypatch.setattr(verb, "PARTS", {name: part(name) for name in ("well", "ill")})
    return ran


def test_parts_by_name_and_their_figures(parts: list[tuple[str, Options]], capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.main(["well", "--seconds", "60"]) == 0
    assert parts == [("well", Options(60.0, 20))]
    assert capsys.readouterr().out == "well:\n  on its way\nwell: figures\nevery promise held\n"


def test_a_broken_promise_is_exit_status_1(
    parts: list[tuple[str, Options]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb.main([]) == 1
    assert [name for name, _ in parts] == ["well", "ill"]
    assert "ill: NOT KEPT: it fell over\npromises were broken\n" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["other"], ["--seconds", "0"], ["--seconds", "x"], ["--replacements", "1.5"]])
def test_wrong_use(parts: list[tuple[str, Options]], words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        verb.main(words)
    assert ended.value.code == 2
    assert parts == []
