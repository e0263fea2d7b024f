# SPDX-License-Identifier: Apache-2.0
"""A peer that abuses a worker until it is killed: `python -m tests.bench.hostile ABUSE IP PORT FD`, see ABUSES.

As soon as the worker has ended a tunnel it makes another. FD has its key and chain. It says `begun` when it has begun.
"""

import contextlib
import functools
import socket
import ssl
import sys
from collections.abc import Callable, Mapping

from nodeagent.hbone.frames import PREFACE, pack_settings
from tests.e2e.proxy.abuses import FLOODS, STROKES, TRICKLES

_FRAMES = 20_000
_PATIENCE_SECONDS = 0.2
"""For a worker that takes no more, since nobody reads what it says."""
_SLOW = 300
COMPUTES = "a process that only computes"
"""And says nothing to anybody: what of an abuse is the core's, which its peer shares."""
Address = tuple[str, int]


def _say(context: ssl.SSLContext, address: Address, frames: bytes) -> None:
    """All of it, or as much as the worker takes."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(address) as plain,
        context.wrap_socket(plain) as tls,
    ):
        tls.settimeout(_PATIENCE_SECONDS)
        tls.sendall(PREFACE + pack_settings({}))
        tls.sendall(frames)
        while tls.recv(1 << 16):
            pass


def _shake_hands(context: ssl.SSLContext, address: Address, _frames: bytes) -> None:
    with contextlib.suppress(OSError), socket.create_connection(address) as plain, context.wrap_socket(plain):
        pass


def _come_and_go(_context: ssl.SSLContext, address: Address, _frames: bytes) -> None:
    with contextlib.suppress(OSError):
        socket.create_connection(address).close()


def _dawdle(_context: ssl.SSLContext, address: Address, _frames: bytes) -> None:
    """Until the worker loses its patience."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection(address)) for _ in range(_SLOW)]
        for sock in waiting:
            with contextlib.suppress(OSError):  # more than it lets wait
                sock.sendall(b"\x16\x03\x01")
        _begun()
        for sock in waiting:
            sock.recv(1)


def _compute(_context: ssl.SSLContext, _address: Address, _frames: bytes) -> None:
    sum(range(100_000))


def _many(frame: Callable[[int], bytes]) -> bytes:
    return b"".join(map(frame, range(_FRAMES)))


OTHERS = {
    "handshakes": _shake_hands,
    "connections that come and go": _come_and_go,
    "slow handshakes": _dawdle,
    COMPUTES: _compute,
}
ABUSES: Mapping[str, Callable[[], bytes]] = {
    **{name: functools.partial(_many, flood) for name, flood in {**FLOODS, **TRICKLES}.items()},
    **{name: functools.partial(bytes, stroke) for name, stroke in STROKES.items()},
    **dict.fromkeys(OTHERS, bytes),
}
"""What is said, by the name of the abuse."""


def _begun() -> None:
    print("begun", flush=True)


def main() -> None:
    abuse, ip, port, descriptor = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    frames, act = ABUSES[abuse](), OTHERS.get(abuse, _say)
    act(context, (ip, int(port)), frames)
    _begun()
    while True:
        act(context, (ip, int(port)), frames)


if __name__ == "__main__":
    main()
