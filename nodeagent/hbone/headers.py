# SPDX-License-Identifier: Apache-2.0
"""Header blocks of HBONE: the CONNECT request and its answer, through HPACK, with every limit in front.

A block that cannot be decoded ends the connection, because the compression state is lost. A block that can, and is no
request or answer as it should be, ends its stream only: a request with a `problem` is answered with 400.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import hpack
from hpack.table import HeaderTable

from nodeagent.hbone.error import H2Error
from nodeagent.hbone.events import Request, Response
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.limits import Limits
from nodeagent.hbone.snapshot import BlockSnapshot, TableSnapshot
from nodeagent.model.reason import Reason

Fields = Sequence[tuple[bytes, bytes]]

TABLE_BYTES = 4096
"""Of HPACK's dynamic table in either direction: the protocol's default (RFC 9113 §6.5.2), so nothing is announced."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""A field name: a token without upper case (RFC 9113 §8.2.1)."""
_OF_HTTP_1 = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
"""Connection-specific fields, malformed in HTTP/2 (§8.2.2)."""


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What a client asks for. Empty members are not sent."""

    authority: str
    """`10.0.0.2:8080`, `[fd00::1]:8080` or `name.ns.svc.cluster.local:80`."""
    baggage: str = ""
    forwarded: str = ""
    traceparent: str = ""
    network: str = ""
    """`x-forwarded-network`."""


class HeaderWriter:
    """Our compression state. Blocks must go out in the order in which they were made."""

    __slots__ = ("_encoder", "_most")

    def __init__(self, table_bytes: int = TABLE_BYTES) -> None:
        """`table_bytes`: the most that is used, whatever the peer allows."""
        self._encoder = hpack.Encoder()
        self._most = table_bytes
        self.resize(table_bytes)

    def resize(self, table_bytes: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE; more than our own limit is not used."""
        size = min(table_bytes, self._most)
        if size == self._encoder.header_table_size:
            return  # the library would forget that a change is still to be announced
        self._encoder.header_table_size = size
        changes = self._encoder.table_size_changes
        if len(changes) > 2:  # the smallest and the last are all that a decoder may be told (RFC 7541 §4.2)
            changes[:] = [min(changes), changes[-1]]

    def request(self, request: ConnectRequest) -> bytes:
        """CONNECT has neither :scheme nor :path (RFC 9113 §8.5)."""
        fields: list[tuple[str, str] | tuple[str, str, bool]] = [
            (":method", "CONNECT"),
            (":authority", request.authority),
        ]
        if request.baggage:
            fields.append(("baggage", request.baggage))
        # What differs each time stays out of the table: it would push out what repeats.
        if request.forwarded:
            fields.append(("forwarded", request.forwarded, True))
        if request.traceparent:
            fields.append(("traceparent", request.traceparent, True))
        if request.network:
            fields.append(("x-forwarded-network", request.network))
        return self._encode(fields)

    def response(self, status: int, headers: Iterable[tuple[str, str]]) -> bytes:
        return self._encode([(":status", str(status)), *headers])

    def _encode(self, fields: Iterable[tuple[str, str] | tuple[str, str, bool]]) -> bytes:
        # Without Huffman: it would save 30 bytes on the wire and cost more than the rest of opening a stream.
        return self._encoder.encode(fields, huffman=False)

    def snapshot(self) -> TableSnapshot:
        changes = tuple(self._encoder.table_size_changes)
        return _table_snapshot(self._encoder.header_table, changes)

    def resume(self, snapshot: TableSnapshot) -> None:
        _resume_table(self._encoder.header_table, snapshot)
        self._encoder.table_size_changes[:] = snapshot.changes


class HeaderReader:
    """The peer's compression state."""

    __slots__ = ("_decoder",)

    def __init__(self, limits: Limits) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=limits.max_header_bytes)

    def decode(self, block: bytes) -> Fields:
        """Raises H2Error: after that the state is unusable."""
        _check_size_updates(block)
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as error:
            raise headers_too_large() from error
        except hpack.HPACKError as error:
            raise H2Error(ErrorCode.COMPRESSION_ERROR, "header block cannot be decompressed") from error

    def snapshot(self) -> TableSnapshot:
        return _table_snapshot(self._decoder.header_table)

    def resume(self, snapshot: TableSnapshot) -> None:
        _resume_table(self._decoder.header_table, snapshot)


def _table_snapshot(table: HeaderTable, changes: tuple[int, ...] = ()) -> TableSnapshot:
    entries = tuple((bytes(name), bytes(value)) for name, value in table.dynamic_entries)
    return TableSnapshot(table.maxsize, entries, table.resized, changes)


def _resume_table(table: HeaderTable, snapshot: TableSnapshot) -> None:
    table.maxsize = snapshot.size
    for name, value in reversed(snapshot.entries):
        table.add(name, value)
    table.resized = snapshot.is_resized


def _check_size_updates(block: bytes) -> None:
    """At most two stand in front of a block (RFC 7541 §4.2). The library takes any number, at a microsecond each."""
    at = updates = 0
    while at < len(block) and block[at] & 0xE0 == 0x20:
        updates += 1
        if updates > 2:
            raise H2Error(ErrorCode.COMPRESSION_ERROR, "more than two changes of the header table's size")
        is_long = block[at] & 0x1F == 0x1F
        at += 1
        if is_long:
            while at < len(block) and block[at] & 0x80:
                at += 1
            at += 1


def headers_too_large() -> H2Error:
    return H2Error(ErrorCode.ENHANCE_YOUR_CALM, "header block beyond the limit", reason=Reason.H2_HEADERS_TOO_LARGE)


class HeaderBlock:
    """A HEADERS frame and the CONTINUATIONs that belong to it (§6.10)."""

    __slots__ = ("_bytes_left", "_parts", "_parts_left", "ends_stream", "stream_id")

    def __init__(self, stream_id: int, limits: Limits, *, ends_stream: bool) -> None:
        self.stream_id = stream_id
        self.ends_stream = ends_stream
        self._parts: list[bytes] = []
        self._bytes_left = limits.max_header_bytes
        self._parts_left = limits.max_fragments

    def add(self, part: bytes) -> None:
        """Raises H2Error when the block grows beyond its limits, before it is decoded."""
        self._parts_left -= 1
        self._bytes_left -= len(part)
        if self._parts_left < 0 or self._bytes_left < 0:
            raise headers_too_large()
        self._parts.append(part)

    def whole(self) -> bytes:
        return b"".join(self._parts)

    def snapshot(self) -> BlockSnapshot:
        return BlockSnapshot(self.stream_id, self.ends_stream, tuple(self._parts))

    @classmethod
    def resume(cls, snapshot: BlockSnapshot, limits: Limits) -> Self:
        block = cls(snapshot.stream_id, limits, ends_stream=snapshot.ends_stream)
        for part in snapshot.parts:
            block.add(part)
        return block


def parse_request(stream_id: int, fields: Fields) -> Request:
    """Never raises: what is wrong with the request stands in its `problem`."""
    pseudo, rest, problem = _sort(fields)
    problem = problem or _problem_of(pseudo)
    if problem:
        return Request(stream_id, "", problem)
    return Request(
        stream_id,
        pseudo[b":authority"].decode("ascii"),
        forwarded=_joined(rest, "forwarded"),
        baggage=_joined(rest, "baggage"),
        traceparent=_joined(rest, "traceparent"),
        network=_joined(rest, "x-forwarded-network"),
    )


def parse_response(stream_id: int, fields: Fields) -> Response | None:
    """None for a malformed one (§8.1.1): a stream error. Interim answers (1xx) are returned like others."""
    pseudo, rest, problem = _sort(fields)
    status = pseudo.get(b":status", b"")
    if problem or len(pseudo) != 1 or not re.fullmatch(rb"[1-9][0-9][0-9]", status) or status == b"101":
        return None
    return Response(stream_id, int(status), _joined(rest, "baggage"), tuple(rest))


def _problem_of(pseudo: dict[bytes, bytes]) -> str:
    method = pseudo.get(b":method", b"")
    if method != b"CONNECT":
        return f"method {method[:16]!r} is not CONNECT"
    if set(pseudo) != {b":method", b":authority"}:
        return "a CONNECT has :method and :authority and no other pseudo-header"
    authority = pseudo[b":authority"]
    if not authority or not authority.isascii() or b" " in authority:
        return "no usable :authority"
    return ""


def _sort(fields: Fields) -> tuple[dict[bytes, bytes], list[tuple[str, str]], str]:
    """Pseudo-headers, other fields, and the first thing that makes the message malformed (§8.2, §8.3), or ""."""
    pseudo: dict[bytes, bytes] = {}
    rest: list[tuple[str, str]] = []
    for name, value in fields:
        # §8.2.1 again: nothing that could end a line in HTTP/1.1, no white space around it.
        if b"\0" in value or b"\r" in value or b"\n" in value or value.strip(b" \t") != value:
            return pseudo, rest, "a field's value has forbidden characters"
        if name.startswith(b":"):
            if rest:
                return pseudo, rest, "a pseudo-header behind other fields"
            if name in pseudo:
                return pseudo, rest, "a pseudo-header twice"
            pseudo[name] = value
        elif not _NAME.fullmatch(name):
            return pseudo, rest, "a field's name has forbidden characters"
        elif name in _OF_HTTP_1 or (name == b"te" and value != b"trailers"):
            return pseudo, rest, "a field that belongs to HTTP/1.1"
        else:
            rest.append((name.decode("ascii"), value.decode("latin-1")))
    return pseudo, rest, ""


def _joined(fields: Iterable[tuple[str, str]], name: str) -> str:
    """A repeated list field is one list (RFC 9110 §5.3)."""
    return ",".join(value for key, value in fields if key == name)
