# SPDX-License-Identifier: Apache-2.0
"""One honest session into one hostile: whole frames moved, their headers bent, single bytes changed.

All that is random comes from `rng`, so that a number names an input; hypothesis may be that rng.
"""

import random
from collections.abc import Callable, Sequence

from nodeagent.hbone.frames import HEADER_BYTES

_BYTES = (0, 1, 0x7F, 0x80, 0xFF)
_SIZES = (0, 1, 4, 5, 6, 8, 9, 16_383, 16_384, 16_385, 1 << 20, (1 << 20) + 1, (1 << 24) - 1)
_IDS = (0, 1, 2, 3, 5, 7, 9, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def mutate(rng: random.Random, session: Sequence[bytes], donors: Sequence[Sequence[bytes]]) -> list[bytes]:
    """One to six changes; one session in thirty goes through as it is."""
    said = list(session)
    if rng.randrange(30) == 0:
        return said
    for _ in range(rng.randint(1, 6)):
        rng.choice(_CHANGES)(rng, said, donors)
    return said


def cut(rng: random.Random, stream: bytes) -> list[bytes]:
    """In batches as a socket gives them: mostly few, sometimes byte by byte."""
    kind = rng.randrange(8)
    if kind < 4 or not stream:
        return [stream] if stream else []
    if kind == 4:
        size = rng.randint(1, 40)
        stream = stream[:6000]  # byte by byte is dear
        return [stream[at : at + size] for at in range(0, len(stream), size)]
    marks = sorted(rng.randrange(len(stream)) for _ in range(rng.randint(1, 12)))
    return [
        part for start, stop in zip([0, *marks], [*marks, len(stream)], strict=True) if (part := stream[start:stop])
    ]


def bend(rng: random.Random, content: bytes) -> bytes:
    """A few bytes of `content`: changed, doubled, taken out, put in."""
    bent = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(bent) + 1)
        match rng.randrange(5):
            case 0:
                bent[at : at + 1] = bytes((rng.randrange(256),))
            case 1:
                bent[at : at + 1] = bytes((rng.choice(_BYTES),))
            case 2:
                del bent[at : at + rng.choice((1, 1, 2, 8, 1000))]
            case 3:
                bent[at:at] = bent[at : at + rng.randint(1, 60)]
            case _:
                bent[at : at + 1] = bytes(((bent[at] if at < len(bent) else 0) ^ 1 << rng.randrange(8),))
    return bytes(bent)


# ---- whole frames --------------------------------------------------------------------------------------------------

Said = list[bytes]
Donors = Sequence[Sequence[bytes]]


def _drop(rng: random.Random, said: Said, _donors: Donors) -> None:
    if len(said) > 1:
        del said[rng.randrange(len(said))]


def _double(rng: random.Random, said: Said, _donors: Donors) -> None:
    at = rng.randrange(len(said))
    said[at:at] = [said[at]] * rng.choice((1, 1, 1, 2, 60))


def _swap(rng: random.Random, said: Said, _donors: Donors) -> None:
    one, other = rng.randrange(len(said)), rng.randrange(len(said))
    said[one], said[other] = said[other], said[one]


def _borrow(rng: random.Random, said: Said, donors: Donors) -> None:
    said.insert(rng.randint(0, len(said)), rng.choice(rng.choice(donors)))


def _cut_off(rng: random.Random, said: Said, _donors: Donors) -> None:
    del said[rng.randint(1, len(said)) :]


# ---- inside of one -------------------------------------------------------------------------------------------------


def _header(rng: random.Random, said: Said, _donors: Donors) -> None:
    at = rng.randrange(len(said))
    frame = bytearray(said[at])
    if len(frame) < HEADER_BYTES:
        return
    match rng.randrange(5):
        case 0:
            frame[:3] = rng.choice(_SIZES).to_bytes(3, "big")
        case 1:
            frame[:3] = ((int.from_bytes(frame[:3], "big") + rng.randint(-3, 3)) % (1 << 24)).to_bytes(3, "big")
        case 2:
            frame[3] = rng.randrange(12)
        case 3:
            frame[4] = rng.randrange(256)
        case _:
            frame[5:9] = rng.choice(_IDS).to_bytes(4, "big")
    said[at] = bytes(frame)


def _payload(rng: random.Random, said: Said, _donors: Donors) -> None:
    """The length in the header follows."""
    at = rng.randrange(len(said))
    payload = bend(rng, said[at][HEADER_BYTES:])
    said[at] = len(payload).to_bytes(3, "big") + said[at][3:HEADER_BYTES] + payload


def _stream(rng: random.Random, said: Said, _donors: Donors) -> None:
    """From here on frames are on other streams."""
    at, shift = rng.randrange(len(said)), rng.choice((-2, 2, 4, 1))
    for n in range(at, min(at + rng.randint(1, 9), len(said))):
        frame = said[n]
        stream_id = int.from_bytes(frame[5:9], "big")
        if stream_id:
            said[n] = frame[:5] + ((stream_id + shift) % (1 << 32)).to_bytes(4, "big") + frame[9:]


def _bytes(rng: random.Random, said: Said, _donors: Donors) -> None:
    """The length in the header does not: what follows is read as frames."""
    at = rng.randrange(len(said))
    said[at] = bend(rng, said[at])


_CHANGES: tuple[Callable[[random.Random, Said, Donors], None], ...] = (
    _drop, _double, _swap, _borrow, _borrow, _cut_off, _header, _header, _payload, _payload, _stream, _bytes,
)  # fmt: skip
