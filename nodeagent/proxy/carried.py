# SPDX-License-Identifier: Apache-2.0
"""What a tunnel expects of those who use it: the users of its streams, and the one who made it."""

import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from nodeagent.hbone.events import Request, Response
from nodeagent.hbone.frames import ErrorCode, name_error
from nodeagent.model.identity import Identity
from nodeagent.model.reason import Reason
from nodeagent.proxy.guard import ConnectionGuard
from nodeagent.proxy.handover import StreamState
from nodeagent.proxy.kernel_records import KernelRecords

if TYPE_CHECKING:  # the tunnel imports this module
    from nodeagent.proxy.tunnel import Tunnel


class Carried(Protocol):
    """Who uses a stream. Calls come in the order of the events; after `gone` or `was_reset` nothing comes."""

    def responded(self, response: Response) -> None: ...

    def payload(self, views: list[memoryview], is_last: bool = False, /) -> None:  # noqa: FBT001, FBT002 - hot
        """Slices of the process's buffer: written or copied before this returns. `is_last`: `ended` is next."""

    def ended(self) -> None:
        """The peer sends nothing more."""

    def was_reset(self, code: int) -> None: ...

    def can_send(self) -> None:
        """There was no room in a window, and now there is."""

    def can_flush(self) -> None:
        """The tunnel's socket had blocked, and takes bytes again."""

    def gone(self, reason: Reason, error: str) -> None:
        """The whole tunnel ended under the stream, perhaps some turns ago: what it called since has done nothing."""

    def crashed(self) -> None: ...


class CarriedSocket(ABC):
    """A user of a stream that is nothing but a socket and what is known of it: it could go on in another process."""

    __slots__ = ()

    @abstractmethod
    def surrender(self) -> tuple[StreamState, socket.socket]:
        """Its state and its socket, which is not watched any more. What its guard is, is the caller's."""

    @property
    @abstractmethod
    def guard(self) -> ConnectionGuard: ...


class TunnelOwner(Protocol):
    """Who made the tunnel, and hears of its life."""

    @property
    def kernel_records(self) -> KernelRecords: ...

    def established(self, tunnel: "Tunnel", peer: Identity) -> None:
        """TLS is done. Raises PeerError when this peer is not to be talked to."""

    def requested(self, tunnel: "Tunnel", request: Request) -> None:
        """A new stream, in the server's role: `adopt` it or answer it."""

    def refused(self, tunnel: "Tunnel", streams: int) -> None:
        """So many were answered REFUSED_STREAM, because the limit was reached."""

    def changed(self, tunnel: "Tunnel") -> None:
        """Streams ended, or the peer drains: look at `can_open` and `is_idle`."""

    def charge(self, seconds: float) -> float:
        """The peer has wasted so much CPU. Seconds before more of it is looked at."""

    def rest(self) -> float:
        """Seconds that are left of that."""

    def ended(self, tunnel: "Tunnel", reason: Reason, error: str) -> None:
        """Once, at the end, before its streams are told. CLOSED when nothing went wrong."""


def reset_reason(code: int) -> tuple[Reason, str]:
    """What RST_STREAM means for the connection it carried."""
    if code in {ErrorCode.CANCEL, ErrorCode.CONNECT_ERROR, ErrorCode.NO_ERROR}:
        return Reason.RESET, ""
    if code == ErrorCode.REFUSED_STREAM:
        return Reason.HBONE_REFUSED, "the peer takes no more streams"
    return Reason.RESET, f"the peer reset the stream: {name_error(code)}"
