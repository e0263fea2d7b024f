# SPDX-License-Identifier: Apache-2.0
"""The record layer as subject: records are bent before they are sealed, and the ciphertext again.

So most inputs reach what stands behind the AEAD: types, padding, alerts, tickets, KeyUpdates, pieces of messages.
"""

import random

from nodeagent.tls.error import AlertReceived, RecordError
from nodeagent.tls.handshake import key_update
from nodeagent.tls.record import SEALED_BYTES
from tests.fuzz.mutate import bend, cut
from tests.fuzz.sessions import SESSIONS
from tests.fuzz.subject import Input
from tests.unit.tls.ends import Reader

_TICKET = b"\x04\0\0\x20" + bytes(32)
_INNER = (
    *(b"".join(session)[:2000] + b"\x17" for sessions in SESSIONS.values() for session in sessions),
    b"short\x17", b"padded\x17" + bytes(300), b"\x17", b"", bytes(40), b"\x17" * 40, b"x" * 16_384 + b"\x17",
    _TICKET + b"\x16", _TICKET[:9] + b"\x16", _TICKET[9:] + b"\x16", _TICKET * 3 + b"\x16",
    key_update(requested=False) + b"\x16", key_update(requested=True) + b"\x16",
    key_update(requested=True) * 2 + b"\x16",
    b"\x01\0\x15", b"\x02\x28\x15", b"\x01\x5a\x15", b"\x15", b"\x01\x14",
)  # fmt: skip
"""Content, type, padding."""
_KEY_UPDATES = (key_update(requested=False) + b"\x16", key_update(requested=True) + b"\x16")


class Records:
    def __init__(self, *, is_server: bool) -> None:
        self.name, self._is_server = f"records-{'server' if is_server else 'client'}", is_server

    def make(self, rng: random.Random) -> Input:
        twin = Reader(is_server=self._is_server, receive=0).twin
        said = b""
        for _ in range(rng.randint(1, 7)):
            inner = rng.choice(_INNER)
            if rng.randrange(3) == 0:
                inner = bend(rng, inner[:3000])
            said += twin.seal_inner(inner[:16_500])
            if inner.rstrip(b"\0") in _KEY_UPDATES:
                twin.update()
        if rng.randrange(3) == 0:
            said = bend(rng, said)
        return Input(self.name, tuple(cut(rng, said)))

    def run(self, given: Input) -> None:
        heard = self._play(given.pieces)
        if len(given.pieces) > 1:
            whole = self._play((b"".join(given.pieces),))
            assert (whole.plain, str(whole.error)) == (heard.plain, str(heard.error)), "the cuts decide"
            assert whole.opener.is_closed == heard.opener.is_closed

    def _play(self, pieces: tuple[bytes, ...]) -> Reader:
        reader = Reader(is_server=self._is_server, receive=max([64, *map(len, pieces)]))
        for piece in pieces:
            reader.feed(piece)
            assert len(reader.opener.rest()) < SEALED_BYTES
            assert len(reader.messages.partial) <= SEALED_BYTES
        assert reader.error is None or isinstance(reader.error, RecordError | AlertReceived)
        if reader.error is not None or reader.opener.is_closed:
            self._check_end(reader)
        return reader

    @staticmethod
    def _check_end(reader: Reader) -> None:
        """Nothing more is opened, nothing is kept, and the key is gone."""
        plain = reader.plain
        error, reader.error = reader.error, None
        reader.feed(b"\x17\x03\x03\0\x20" + bytes(32))
        assert (reader.plain, reader.opener.rest(), reader.opener.has_more) == (plain, b"", False)
        assert not any(reader.key.secret)
        if isinstance(error, RecordError):
            assert reader.control.alert == error.alert
        reader.error = error
