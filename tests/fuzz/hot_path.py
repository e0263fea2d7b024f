# SPDX-License-Identifier: Apache-2.0
"""The compiled hot path as subject: whatever comes, it ends as the Python does that it stands for (lane/lane.c).

A tunnel with records of TLS, streams, and applications behind them gets the same bytes twice, once with either and in
the same portions (portions.py). Every byte to an application and to the peer, every record and every end are the
same. The bytes are frames of honest sessions, mutated, and sealed as the peer would; now and then the records are
damaged as well.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import structs

from nodeagent.hbone.limits import Role
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
        assert lane.compiled is not None
        noting = Noting(lane.compiled)
        with _carried_by(noting):
            compiled = self._play(given)
        in_python = InPython(noting.reads)
        with _carried_by(in_python):
            reference = self._play(given)
        assert in_python.is_done, "compiled code was asked to read more often"
        assert (compiled.end_reason, compiled.end_error) == (reference.end_reason, reference.end_error)
        assert _streams(compiled) == _streams(reference)
        assert compiled.peer_heard == reference.peer_heard
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


def _streams(serving: Serving) -> list[tuple[bytearray, ConnectionRecord]]:
    """What each application has heard, and the record of its end."""
    records = sorted((report.record for report in serving.closed), key=lambda record: record.id)
    untimed = (structs.replace(record, seconds=0.0, set_up_seconds=0.0) for record in records)
    return list(zip(serving.heard, untimed, strict=True))


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
def _carried_by(one: lane.Lane) -> Iterator[None]:
    compiled, lane.compiled = lane.compiled, one
    try:
        yield
    finally:
        lane.compiled = compiled
