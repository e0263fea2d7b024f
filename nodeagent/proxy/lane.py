# SPDX-License-Identifier: Apache-2.0
"""Whether the hot path is compiled here (lane/lane.c), and the one place where that is decided.

It is used where it was built for this machine. Without it nothing but speed is different: what it does is what the
Python in stream.py, tunnel_sending.py and tunnel_receiving.py does, which goes on with everything that is not plain
payload.
"""

from typing import Any, Protocol

from nodeagent.tls.channel import RecordChannel

BLOCKED = 2


class Lane(Protocol):
    """All work on the objects that they are given; numbers below 0 are -errno."""

    def use(self, channel: type, relay: type) -> None:
        """The classes whose instances it knows; those of others are left to them."""

    def read_stream(self, relay: Any, /) -> int:
        """Bytes from a stream's socket into the send buffer; 0: nothing has happened."""

    def flush(self, tunnel: Any, /) -> int:
        """1: what is pending was sealed and sent; BLOCKED: the socket took no more; 0: there is more than payload."""

    def receive(self, tunnel: Any, /) -> int:
        """1: read, opened and handed on; 0: nothing has happened."""


def _load() -> Lane | None:
    try:
        from nodeagent.proxy import _lane  # type: ignore[attr-defined]
    except ImportError:
        return None
    found: Lane = _lane
    return found


compiled = _load()


def is_compiled() -> bool:
    return compiled is not None


def switch_off() -> None:
    """For the rest of this process, before anything is carried."""
    global compiled  # noqa: PLW0603 - the one place where it is decided
    compiled = None


def use(relay: type) -> None:
    """`relay`: who joins a stream to a socket."""
    if compiled is not None:
        compiled.use(RecordChannel, relay)
