# SPDX-License-Identifier: Apache-2.0
"""The compiled hot path as subject: whatever comes, it ends as the Python does that it stands for (lane/lane.c).

A tunnel with records of TLS, streams, and applications behind them gets the same bytes twice, by compiled code and by
the Python in the same portions (portions.py), and a third time by the Python alone where compiled code has parted no
read. Every byte that the peer and the applications have read, every record and every end are the same. The bytes are
frames of honest sessions, mutated, and sealed as the peer would; now and then with many tiny frames, or records, or
damaged ones.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import structs

from nodeagent.hbone.frames import DATA, pack_frame
from nodeagent.hbone.limits import Role
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord
from nodeagent.proxy import lane
from nodeagent.proxy.loop import Loop
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.record import RECORD_BYTES
from nodeagent.tls.sealer import Sealer
from nodeagent.tls.traffic_key import TrafficKey
from tests.fuzz.mutate import cut, mutate
from tests.fuzz.portions import InPython, Noting
from tests.fuzz.sessions import SESSIONS
from tests.fuzz.subject import Input, make_calls
from tests.fuzz.tunnels import Serving
from tests.open_files import open_files

_CIPHER = Cipher.AES_128_GCM
_OURS, _THEIRS = bytes(range(32)), bytes(range(32, 64))
_DAMAGED = 8
"""One input in so many has a record that was damaged on its way,"""
_TINY = 8
"""more frames of a byte each than are taken in one turn, or records of at most"""
_TINY_RECORD, _TINY_BYTES = 16, 6000
"""bytes, more than are opened at once; they are dear to make, so there are not many more."""


class HotPath:
    name = "hot path"

    def __init__(self) -> None:
        assert lane.compiled is not None, "make build/.developer compiles it"
        self._loop = Loop()
        self._donors = [session for sessions in SESSIONS.values() for session in sessions]

    def make(self, rng: random.Random) -> Input:
        said = mutate(rng, rng.choice(SESSIONS[Role.SERVER]), self._donors)
        if rng.randrange(_TINY) == 0:
            said[rng.randint(0, len(said)) :] = [pack_frame(DATA, 0, 1, b"x")] * rng.choice((100, 600))
        plain, most = b"".join(said), RECORD_BYTES
        if rng.randrange(_TINY) == 0:
            plain, most = plain[:_TINY_BYTES], _TINY_RECORD
        records = b"".join(_seal(rng, plain, most))
        if rng.randrange(_DAMAGED) == 0:
            at = rng.randrange(len(records))
            records = records[:at] + bytes((records[at] ^ 1 << rng.randrange(8),)) + records[at + 1 :]
        return Input(self.name, tuple(cut(rng, records)[:40]), make_calls(rng) or b"\0")

    def run(self, given: Input) -> None:
        before = open_files()
        assert lane.compiled is not None
        noting = Noting(lane.compiled)
        with _carried_by(noting):
            compiled = _outcome(self._play(given))
        in_python = InPython(noting.reads)
        with _carried_by(in_python):
            try:
                assert _outcome(self._play(given)) == compiled
            finally:
                in_python.finish()
        if not noting.has_parted:  # so the Python alone has the same portions
            with _carried_by(None):
                assert _outcome(self._play(given)) == compiled
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


def _outcome(serving: Serving) -> tuple[Reason | None, str, bytearray, list[tuple[bytearray, ConnectionRecord]]]:
    """How it ended, what the peer has read, and for each stream what its application has read and its record."""
    records = sorted((report.record for report in serving.closed), key=lambda record: record.id)
    untimed = (structs.replace(record, seconds=0.0, set_up_seconds=0.0) for record in records)
    streams = list(zip(serving.heard, untimed, strict=True))
    return serving.end_reason, serving.end_error, serving.peer_heard, streams


def _seal(rng: random.Random, plain: bytes, most: int) -> Iterator[bytes]:
    """In records of any size, most of them as large as they get."""
    sealer, out = Sealer(TrafficKey(_CIPHER, _THEIRS)), memoryview(bytearray(2 * RECORD_BYTES))
    at = 0
    while at < len(plain):
        length = most if rng.randrange(4) else rng.randrange(1, most // 8)
        consumed, size = sealer.seal_into(memoryview(plain[at : at + length]), out)
        at += consumed
        yield bytes(out[:size])


@contextmanager
def _carried_by(one: lane.Lane | None) -> Iterator[None]:
    compiled, lane.compiled = lane.compiled, one
    try:
        yield
    finally:
        lane.compiled = compiled
