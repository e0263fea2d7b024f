# SPDX-License-Identifier: Apache-2.0
"""The compiled hot path as subject: whatever comes, it ends as the Python does that it stands for (lane/lane.c).

A tunnel with records of TLS, streams, and applications behind them gets the same bytes twice, once with either. They
are frames of honest sessions, mutated, and sealed as the peer would; now and then the records are damaged as well.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from nodeagent.hbone.limits import Role
from nodeagent.model.reason import Reason
from nodeagent.proxy import lane
from nodeagent.proxy.loop import Loop
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.record import RECORD_BYTES
from nodeagent.tls.sealer import Sealer
from nodeagent.tls.traffic_key import TrafficKey
from tests.fuzz.mutate import cut, mutate
from tests.fuzz.sessions import SESSIONS
from tests.fuzz.subject import Input, make_calls
from tests.fuzz.tunnels import Serving
from tests.open_files import open_files

_CIPHER = Cipher.AES_128_GCM
_OURS, _THEIRS = bytes(range(32)), bytes(range(32, 64))
_DAMAGED = 8
"""One input in so many has a record that was damaged on its way."""


class HotPath:
    name = "hot path"

    def __init__(self) -> None:
        assert lane.compiled is not None, "make build/.developer compiles it"
        self._loop = Loop()
        self._donors = [session for sessions in SESSIONS.values() for session in sessions]

    def make(self, rng: random.Random) -> Input:
        said = mutate(rng, rng.choice(SESSIONS[Role.SERVER]), self._donors)
        records = b"".join(_seal(rng, b"".join(said)))
        if rng.randrange(_DAMAGED) == 0:
            at = rng.randrange(len(records))
            records = records[:at] + bytes((records[at] ^ 1 << rng.randrange(8),)) + records[at + 1 :]
        return Input(self.name, tuple(cut(rng, records)[:40]), make_calls(rng) or b"\0")

    def run(self, given: Input) -> None:
        before = open_files()
        compiled = self._play(given)
        with _in_python():
            reference = self._play(given)
        is_alike = compiled.end_reason is reference.end_reason
        assert is_alike or _may_end_otherwise(compiled, reference)
        for (ours, our_reason), (theirs, their_reason) in zip(_streams(compiled), _streams(reference), strict=is_alike):
            if is_alike and Reason.CLOSED.value in {our_reason, their_reason}:
                assert (ours, our_reason) == (theirs, their_reason)
            else:
                # Of a stream that was cut, bytes may be lost, more or less: in Python those of a whole batch go with a
                # violation in it, and a socket takes one piece where it does not take two.
                assert ours.startswith(theirs) or theirs.startswith(ours)
        assert self._loop.bugs == 0, "a defect was caught by the loop; its log line says where"
        assert self._loop.watched == 0
        assert not open_files() - before

    def _play(self, given: Input) -> Serving:
        writing, reading = TrafficKey(_CIPHER, _OURS), TrafficKey(_CIPHER, _THEIRS)
        serving = Serving(self._loop, RecordChannel(writing, reading, is_server=True))
        try:
            for n, piece in enumerate(given.pieces):
                serving.send(piece)
                serving.call(given.call(n))
                serving.turn()
        finally:
            serving.end()
        return serving


def _may_end_otherwise(compiled: Serving, reference: Serving) -> bool:
    """Compiled code writes to applications frame by frame, the Python what a batch has of a stream at once. So

    - a socket may have taken everything of the one and not of the other when the peer goes;
    - DATA behind an END_STREAM may find its stream over, and is late (RFC 9113 §5.1), where the Python, which reads the
      batch before it writes any of it, meets the violation; and HEADERS of such a stream use its id again.
    """
    if {compiled.end_reason, reference.end_reason} == {Reason.CLOSED, Reason.PEER_LOST}:
        return True
    pairs = zip(_streams(compiled), _streams(reference), strict=False)
    over = {Reason.CLOSED.value, Reason.RESET.value}
    if compiled.end_error.startswith("a client opened a stream with an id that is used up"):
        return any(ours in over for (_, ours), _ in pairs)
    was_over = any(ours in over and theirs == Reason.H2_FAILED.value for (_, ours), (_, theirs) in pairs)
    return was_over and reference.end_error.startswith("DATA after END_STREAM")


def _streams(serving: Serving) -> list[tuple[bytearray, str]]:
    """What each has heard, and why it ended."""
    reasons = [report.record.reason for report in sorted(serving.closed, key=lambda report: report.record.id)]
    return list(zip(serving.heard, reasons, strict=True))


def _seal(rng: random.Random, plain: bytes) -> Iterator[bytes]:
    """In records of any size, most of them as large as they get."""
    sealer, out = Sealer(TrafficKey(_CIPHER, _THEIRS)), memoryview(bytearray(2 * RECORD_BYTES))
    at = 0
    while at < len(plain):
        most = RECORD_BYTES if rng.randrange(4) else rng.randrange(1, 2000)
        consumed, size = sealer.seal_into(memoryview(plain[at : at + most]), out)
        at += consumed
        yield bytes(out[:size])


@contextmanager
def _in_python() -> Iterator[None]:
    compiled, lane.compiled = lane.compiled, None
    try:
        yield
    finally:
        lane.compiled = compiled
