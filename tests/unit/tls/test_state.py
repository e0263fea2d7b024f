# SPDX-License-Identifier: Apache-2.0
"""It survives msgpack, and shows nothing secret."""

import msgspec

from nodeagent.tls.state import VERSION, Direction, State

STATE = State(
    cipher="TLS_AES_128_GCM_SHA256",
    is_server=True,
    writing=Direction(b"w" * 32, 5),
    reading=Direction(b"r" * 32, 1 << 40),
    unread=b"partial",
    message=b"\x04",
    unsent=b"rest",
    is_closed=False,
    is_shut=False,
    alert=None,
    owes_key_update=True,
    asks_for_key_update=False,
    has_asked=True,
    patience=60,
)


def test_it_goes_through_a_socket() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(STATE), type=State) == STATE
    assert STATE.version == VERSION


def test_nothing_secret_is_shown() -> None:
    shown = [repr(STATE), str(STATE), repr(STATE.writing), f"{STATE}", repr([STATE]), repr(STATE.__rich_repr__())]
    shown += [repr(STATE.writing.__rich_repr__())]
    assert all("ww" not in text and "rr" not in text and "7777" not in text for text in shown)
    assert (
        shown[0]
        == "State(TLS_AES_128_GCM_SHA256, Direction(record 5) to write, Direction(record 1099511627776) to read)"
    )
