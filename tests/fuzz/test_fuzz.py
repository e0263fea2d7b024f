# SPDX-License-Identifier: Apache-2.0
"""20,000 hostile inputs: only the documented errors come out, and no stream, buffer, byte or descriptor is left.

`make fuzz` runs a million. A failure names the file that has its input.
"""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeagent.hbone.limits import Role
from nodeagent.proxy.lane import Lane
from nodeagent.proxy.stream import StreamRelay
from nodeagent.proxy.tunnel_receiving import TURN_WORK
from nodeagent.proxy.tunnel_sending import SendingTunnel
from tests.fuzz.campaign import attempt, run, subjects
from tests.fuzz.codec import Codec
from tests.fuzz.hot_path import HotPath
from tests.fuzz.portions import Noting
from tests.fuzz.sessions import SESSIONS
from tests.fuzz.subject import Input, Subject

INPUTS = 20_000
NAMES = [subject.name for subject in subjects()]


def _quietly(_done: int) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def by_name() -> dict[str, Subject]:
    return {subject.name: subject for subject in subjects()}


@pytest.mark.parametrize("name", NAMES)
def test_hostile_inputs_leave_nothing_behind(by_name: dict[str, Subject], name: str) -> None:
    """The seed is that of the test run, which pytest prints."""
    seed = random.randrange(1 << 31)
    failure = run([by_name[name]], seed, -(-INPUTS // len(NAMES)), _quietly)
    assert failure is None, str(failure)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"tunnels", "hot path"}])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine may be slow
@given(rng=st.randoms(use_true_random=False))
def test_hypothesis_finds_and_shrinks_what_the_numbers_miss(
    by_name: dict[str, Subject], name: str, rng: random.Random
) -> None:
    words = attempt(by_name[name], by_name[name].make(rng))
    assert not words, words


# ---- the fuzzer itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("shape", [0, 1])
@pytest.mark.parametrize("size", [7, 1000, 1 << 20])
def test_the_seeds_are_honest(role: Role, shape: int, size: int) -> None:
    """What Envoy and ztunnel say is no error."""
    codec, stream = Codec(role), b"".join(SESSIONS[role][shape])
    pieces = tuple(stream[at : at + size] for at in range(0, len(stream), size))
    played = codec._play(Input(codec.name, pieces, b"\x01"))  # 0x01: with the limits of production
    assert played.error == ""
    assert [event for event in played.events if event[0] == "opened" and event[2].problem] == []  # type: ignore[attr-defined]
    assert {event[1] for event in played.events} == {1, 3, 5}, "each of its streams is heard of"


@pytest.mark.parametrize("name", NAMES)
def test_most_inputs_go_deep(by_name: dict[str, Subject], name: str) -> None:
    """As many as are needed to be no walk along the first check."""
    lengths = [sum(map(len, by_name[name].make(random.Random(n)).pieces)) for n in range(50)]
    assert sum(length > 100 for length in lengths) > 25


def test_a_failure_is_kept_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(Role.SERVER)

    def broken(self: object, flags: int, payload: bytes, events: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("nodeagent.hbone.control.ControlFrames.ping_received", broken)
        failure = run([codec], 1, 1000, _quietly, tmp_path)
        assert failure is not None
        assert "ZeroDivisionError" in str(failure)
        assert "ZeroDivisionError" in attempt(codec, Input.read(failure.path))
    assert attempt(codec, Input.read(failure.path)) == ""


@pytest.mark.parametrize(
    ("target", "is_leak"),
    [
        ("nodeagent.hbone.state.ConnectionState.credit", "the connection's window"),
        ("nodeagent.hbone.outbox.Outbox._give_back", "a send buffer"),
    ],
)
def test_a_leak_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, is_leak: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(target, lambda *_: None)
        assert run([Codec(Role.SERVER)], 1, 2000, _quietly, tmp_path) is not None, is_leak


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        pytest.param(StreamRelay, "payload", id="what applications read"),
        pytest.param(StreamRelay, "_credit", id="what a record counts"),
        pytest.param(SendingTunnel, "_seal_and_send", id="what the peer reads"),
    ],
)
def test_a_difference_between_compiled_code_and_python_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    """Compiled code calls these where something is not plain, the Python always."""
    monkeypatch.setattr(owner, method, lambda *_: None)
    failure = run([HotPath()], 1, 500, _quietly, tmp_path)
    assert failure is not None
    assert "== compiled" in failure.words


def test_what_compiled_code_and_python_are_compared_by_has_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way in which compiled code leaves a read to the Python is among a share of the inputs."""
    noted: list[Noting] = []

    def note(compiled: Lane) -> Noting:
        noted.append(Noting(compiled))
        return noted[-1]

    monkeypatch.setattr("tests.fuzz.hot_path.Noting", note)
    assert run([HotPath()], 1, 1000, _quietly) is None
    reads = [left for noting in noted for left in noting.reads if left is not None]
    ways = {
        "whole": [left for left in reads if not left.goes_on],
        "frames behind plain ones": [left for left in reads if left.plain_bytes and left.work < TURN_WORK],
        "as many as a turn takes": [left for left in reads if left.goes_on and not left.work],
        "records behind plain ones": [left for left in reads if left.record_bytes and not left.is_first],
        "records alone": [left for left in reads if left.is_first],
        "a record that is not whole": [left for left in reads if left.kept_bytes],
        "errors": [noting for noting in noted if noting.errors],
        "no part of any read": [noting for noting in noted if any(noting.reads) and not noting.has_parted],
    }
    assert {way for way, found in ways.items() if not found} == set()
