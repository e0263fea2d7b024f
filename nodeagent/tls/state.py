# SPDX-License-Identifier: Apache-2.0
"""A connection between two records, as it goes to another process: everything that is needed to go on, and no more.

It holds the traffic secrets: whoever has it can read and forge what follows. It is shown without them, goes by a
socket between two processes of ours only, and is never written anywhere.
"""

from typing import Any

import msgspec

VERSION = 2
"""Changes with the meaning of any field; a process that does not know it lets the connection end."""


class Direction(msgspec.Struct, frozen=True):
    """`secret` is application_traffic_secret_N, from which key and IV follow; `sequence` that of the next record."""

    secret: bytes
    """Empty if the kernel seals or opens with the key, and nobody will ever change it."""
    sequence: int

    def __repr__(self) -> str:
        return f"Direction(record {self.sequence})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a RecordChannel surrenders, and resumes from; or whoever has given its records to the kernel."""

    version: int = VERSION
    cipher: str
    is_server: bool
    writing: Direction
    reading: Direction
    unread: bytes
    """Ciphertext that was received and not opened: mostly the beginning of a record."""
    message: bytes
    """The beginning of a handshake message."""
    unsent: bytes
    """Ciphertext that the socket has not taken: mostly the end of a record. It goes out before anything else."""
    is_closed: bool
    """The peer said close_notify."""
    is_shut: bool
    """We did, or gave up; nothing is sealed any more."""
    alert: int | None
    """It is to be sealed and sent, the last thing of all."""
    owes_key_update: bool
    asks_for_key_update: bool
    has_asked: bool
    """The peer was asked for another key and has not answered."""
    patience: int
    is_in_kernel: bool = False
    """The socket itself seals and opens, wherever it goes: there is nothing in `unread` and `unsent`."""

    def __repr__(self) -> str:
        return f"State({self.cipher}, {self.writing!r} to write, {self.reading!r} to read)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []
