# SPDX-License-Identifier: Apache-2.0
"""What a trace asks of the programs that tell of packets, and what they tell (bpf/trace.h): its maps, typed.

They are pinned in a folder of their own and live as long as the trace: made by the loader, gone with the folder and
the programs. Which programs run is exchange.py's affair.
"""

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from nodeagent.errors import KernelError
from nodeagent.kernel import codings, service_codings
from nodeagent.kernel.codings import Coding
from nodeagent.kernel.layout import Layout, read_layouts
from nodeagent.kernel.maps import Table
from nodeagent.kernel.proxy_namespace import PROXY_DEVICE
from nodeagent.kernel.reasons import reasons
from nodeagent.kernel.ring import RECORD_HEAD, Ring
from nodeagent.kernel.sources import read_source
from nodeagent.model.address import Ip, unpack_ip
from nodeagent.model.hop import TracedPacket
from nodeagent.routing.route import Target

HOOKS = ("from_pod", "to_pod", "from_proxy", "at_proxy")
"""enum hook of bpf/trace.h."""
ANY_ADDRESS, ANY_PORT = Ip("::"), 0
"""In a peer."""


@dataclass(frozen=True)
class WantedTrace:
    """Of which packets is to be told."""

    device: int
    """Of the pod, on the node."""
    addresses: tuple[Ip, ...]
    """Of the pod."""
    peers: frozenset[Target] = frozenset()
    """The other ends, with ANY_ADDRESS and ANY_PORT as they are meant; none: whoever it is."""
    is_every: bool = False
    """Those too that are like one before, and those that are not the mesh's affair."""


class Left(NamedTuple):
    """What was not told."""

    alike: int
    """Packets like one that was."""
    lost: int
    """For which the ring had no room."""


@cache
def trace_layouts() -> dict[str, Layout]:
    return read_layouts(read_source("layout.h") + read_source("trace_layout.h"))


class Trace:
    """A running one's maps, open. Methods raise KernelError."""

    def __init__(self, folder: Path) -> None:
        maps, number = folder / "maps", codings.of_number()
        with ExitStack() as opened:
            self._filters = Table(maps, "trace_filters", number, _of_filter())
            opened.callback(self._filters.close)
            self._pods = Table(maps, "trace_pods", codings.of_address(), number)
            opened.callback(self._pods.close)
            self._peers = Table(maps, "trace_peers", service_codings.of_endpoint(), number)
            opened.callback(self._peers.close)
            self._seen = Table(maps, "trace_seen", Coding(bytes, bytes), codings.of_number("=Q"))
            opened.callback(self._seen.close)
            self._losses = Table(maps, "trace_losses", number, codings.of_sum(), is_per_cpu=True)
            opened.callback(self._losses.close)
            try:
                self._ring = Ring(str(maps / "trace_events"))
            except OSError as error:
                raise KernelError(f"map {maps / 'trace_events'}: {error.strerror}") from error
            opened.callback(self._ring.close)
            self._opened = opened.pop_all()
        self.room = self._ring.bytes // (RECORD_HEAD + trace_layouts()["trace_event"].size)
        """Packets that the ring holds at most."""
        self._told = 0
        # Both clocks go on alike for as long as a trace takes, unless somebody sets one.
        self._began = time.time() - time.monotonic()

    def ask(self, wanted: WantedTrace) -> None:
        """Before the programs run."""
        rows = [self._pods.put(ip, 1) for ip in wanted.addresses]
        rows += [self._peers.put(peer, 1) for peer in wanted.peers]
        if not all(rows):
            raise KernelError(
                "the other ends that are asked for do not fit into the kernel's map",
                check="Name one of them, with its port, instead of a Service with very many endpoints.",
            )
        self._filters.put(0, wanted)

    def read(self, limit: int) -> list[TracedPacket]:
        """Up to `limit` packets, as they came."""
        read = [decode_event(event, self._began) for event in self._ring.read(limit)]
        self._told += len(read)
        return read

    def left(self) -> Left:
        lost = self._losses.find(0) or 0
        seen = sum(self._seen.rows().values())
        return Left(max(0, seen - self._told - lost), lost)

    def close(self) -> None:
        self._opened.close()


def decode_event(packed: bytes, began: float) -> TracedPacket:
    """`began`: Unix time at which CLOCK_MONOTONIC was 0."""
    layouts = trace_layouts()
    event = layouts["trace_event"].unpack(packed)
    key = layouts["trace_key"].unpack(_bytes(event["key"]))
    program = HOOKS[_int(key["hook"])]
    reason = reasons()[_int(key["why"])]
    return TracedPacket(
        at=began + _int(event["at"]) / 1e9,
        program=program,
        device=PROXY_DEVICE if program == "at_proxy" else _device_name(_int(event["device"])),
        source=unpack_ip(_bytes(key["source"])),
        destination=unpack_ip(_bytes(key["destination"])),
        source_port=int.from_bytes(_bytes(key["source_port"]), "big"),
        destination_port=int.from_bytes(_bytes(key["destination_port"]), "big"),
        protocol=_int(key["protocol"]),
        flags=_int(event["flags"]),
        bytes=_int(event["bytes"]),
        reason=reason.name,
        verdict=reason.verdict,
        words=reason.words,
    )


def _device_name(index: int) -> str:
    """On the node; its number when it is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"device {index}"


def _of_filter() -> Coding[WantedTrace]:
    layout = trace_layouts()["trace_filter"]

    def encode(wanted: WantedTrace) -> bytes:
        return layout.pack(device=wanted.device, has_peers=int(bool(wanted.peers)), is_every=int(wanted.is_every))

    def decode(packed: bytes) -> WantedTrace:
        fields = layout.unpack(packed)
        return WantedTrace(_int(fields["device"]), (), is_every=bool(fields["is_every"]))

    return Coding(encode, decode)


def _bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int(value: int | bytes) -> int:
    assert isinstance(value, int)
    return value
