# SPDX-License-Identifier: Apache-2.0
"""Header blocks of HBONE: the CONNECT request and its answer, through HPACK, with every limit in front.

A block that cannot be decoded ends the connection, because the compression state is lost. A block that can, and is no
request or answer as it should be, ends its stream only: a request with a `problem` is answered with 400.

The library costs more than all the rest of opening a stream. So what repeats with each stream of a tunnel, and changes
nothing in a table, is written from memory and read by a loop of our own; everything else is the library's.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Self

import hpack
import msgspec
from hpack.hpack import encode_integer
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

_MOST_BLOCKS = 16
"""That a writer remembers: a tunnel leads to one pod, at a few ports and by a few names."""

_INDEXED, _LITERAL, _NEVER_INDEXED = 0x80, 0x00, 0x10
"""First byte of a field that is in a table; of one whose name is not, and that is not to be added (RFC 7541 §6)."""
_SHORT = 0x7F
"""Below it a length, or an index, is one byte, and not Huffman-coded (§5.1, §5.2)."""
_STATIC = ((b"", b""), *HeaderTable.STATIC_TABLE)
"""By index; there is no 0."""
_DYNAMIC = len(_STATIC)
"""Index of the newest field of the dynamic table."""
_ENTRY_BYTES = 32
"""Of a field, beside name and value, in the sizes of RFC 7541 §4.1 and RFC 9113 §6.5.2."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""A field name: a token without upper case (RFC 9113 §8.2.1)."""
_OURS = frozenset({b"baggage", b"forwarded", b"traceparent", b"x-forwarded-network"})
"""Names that need no look, since every request has some of them."""
_DIFFERENT_EACH_TIME = frozenset({b"forwarded", b"traceparent"})
_REMEMBERED_BYTES = 512
"""Of a field at most: a baggage has less than 300."""
_STATUS = re.compile(rb"[1-9][0-9][0-9]")
_OF_HTTP_1 = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
"""Connection-specific fields, malformed in HTTP/2 (§8.2.2)."""


class ConnectRequest(msgspec.Struct, frozen=True, gc=False):
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

    __slots__ = ("_blocks", "_encoder", "_most")

    def __init__(self, table_bytes: int = TABLE_BYTES) -> None:
        """`table_bytes`: the most that is used, whatever the peer allows."""
        self._encoder = hpack.Encoder()
        self._most = table_bytes
        self._blocks: dict[tuple[tuple[str, str], ...], bytes] = {}
        """Encoded, of fields that are in the table as it is."""
        self.resize(table_bytes)

    def resize(self, table_bytes: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE; more than our own limit is not used."""
        size = min(table_bytes, self._most)
        if size == self._encoder.header_table_size:
            return  # the library would forget that a change is still to be announced
        self._blocks.clear()
        self._encoder.header_table_size = size
        changes = self._encoder.table_size_changes
        if len(changes) > 2:  # the smallest and the last are all that a decoder may be told (RFC 7541 §4.2)
            changes[:] = [min(changes), changes[-1]]

    def request(self, request: ConnectRequest) -> bytes:
        """CONNECT has neither :scheme nor :path (RFC 9113 §8.5)."""
        fields: tuple[tuple[str, str], ...] = ((":method", "CONNECT"), (":authority", request.authority))
        if request.baggage:
            fields = (*fields, ("baggage", request.baggage))
        if request.network:
            fields = (*fields, ("x-forwarded-network", request.network))
        block = self._repeat(fields)
        # What differs each time stays out of the table: it would push out what repeats.
        if request.forwarded:
            block += _never_indexed(b"forwarded", request.forwarded)
        if request.traceparent:
            block += _never_indexed(b"traceparent", request.traceparent)
        return block

    def response(self, status: int, headers: Iterable[tuple[str, str]]) -> bytes:
        return self._repeat(((":status", str(status)), *headers))

    def _repeat(self, fields: tuple[tuple[str, str], ...]) -> bytes:
        block = self._blocks.get(fields)
        if block is not None:
            return block
        table = self._encoder.header_table
        newest, is_resized = _newest(table), table.resized
        # Without Huffman: it would save 30 bytes on the wire and cost more than the rest of opening a stream.
        block = self._encoder.encode(fields, huffman=False)
        if is_resized or _newest(table) is not newest:
            self._blocks.clear()  # indices have moved
        elif len(self._blocks) < _MOST_BLOCKS:
            self._blocks[fields] = block
        return block

    def snapshot(self) -> TableSnapshot:
        changes = tuple(self._encoder.table_size_changes)
        return _table_snapshot(self._encoder.header_table, changes)

    def resume(self, snapshot: TableSnapshot) -> None:
        self._blocks.clear()
        _resume_table(self._encoder.header_table, snapshot)
        self._encoder.table_size_changes[:] = snapshot.changes


class HeaderReader:
    """The peer's compression state."""

    __slots__ = ("_decoder", "_most")

    def __init__(self, limits: Limits) -> None:
        self._most = limits.max_header_bytes
        self._decoder = hpack.Decoder(max_header_list_size=limits.max_header_bytes)

    def decode(self, block: bytes) -> Fields:
        """Raises H2Error: after that the state is unusable."""
        fields = self._decode_known(block)
        if fields is not None:
            return fields
        _check_size_updates(block)
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as error:
            raise headers_too_large() from error
        except hpack.HPACKError as error:
            raise H2Error(ErrorCode.COMPRESSION_ERROR, "header block cannot be decompressed") from error

    def _decode_known(self, block: bytes) -> Fields | None:
        """A block that changes nothing in the table, in the short forms only.

        None, and nothing has happened, for every other, also for what is wrong or too large: the library says so.
        """
        fields: list[tuple[bytes, bytes]] = []
        dynamic = self._decoder.header_table.dynamic_entries
        at, end, room = 0, len(block), self._most
        while at < end:
            first = block[at]
            if first > _INDEXED and first != 0xFF:
                index = first - _INDEXED
                field = _STATIC[index] if index < _DYNAMIC else _find_field(index - _DYNAMIC, dynamic)
                at += 1
            elif first in {_LITERAL, _NEVER_INDEXED}:
                name, at = _short_string(block, at + 1)
                value, at = _short_string(block, at)
                field = None if name is None or value is None else (name, value)
            else:
                field = None
            if field is None:
                return None
            room -= _ENTRY_BYTES + len(field[0]) + len(field[1])
            fields.append(field)
        return fields if room >= 0 else None

    def snapshot(self) -> TableSnapshot:
        return _table_snapshot(self._decoder.header_table)

    def resume(self, snapshot: TableSnapshot) -> None:
        _resume_table(self._decoder.header_table, snapshot)


def _never_indexed(name: bytes, value: str) -> bytes:
    """A field that no table on its way shall keep (RFC 7541 §6.2.3); its name is in none."""
    text = value.encode()
    length = bytes((len(text),)) if len(text) < _SHORT else bytes(encode_integer(len(text), 7))
    return b"%c%c%b%b%b" % (_NEVER_INDEXED, len(name), name, length, text)


def _newest(table: HeaderTable) -> object:
    """Another object after each change of the dynamic table: every new field goes to its front."""
    return table.dynamic_entries[0] if table.dynamic_entries else None


def _find_field(index: int, dynamic: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, bytes] | None:
    return dynamic[index] if index < len(dynamic) else None


def _short_string(block: bytes, at: int) -> tuple[bytes | None, int]:
    """What begins at `at`, and where it ends. None for a long or Huffman-coded one, and one that is cut."""
    start = at + 1
    if start > len(block) or block[at] >= _SHORT:
        return None, at
    stop = start + block[at]
    return (block[start:stop], stop) if stop <= len(block) else (None, at)


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
    joined = _join(rest)
    return Request(
        stream_id,
        pseudo[b":authority"].decode("ascii"),
        forwarded=joined.get("forwarded", ""),
        baggage=joined.get("baggage", ""),
        traceparent=joined.get("traceparent", ""),
        network=joined.get("x-forwarded-network", ""),
    )


def parse_response(stream_id: int, fields: Fields) -> Response | None:
    """None for a malformed one (§8.1.1): a stream error. Interim answers (1xx) are returned like others."""
    pseudo, rest, problem = _sort(fields)
    status = pseudo.get(b":status", b"")
    if problem or len(pseudo) != 1 or not _STATUS.fullmatch(status) or status == b"101":
        return None
    return Response(stream_id, int(status), _join(rest).get("baggage", ""), tuple(rest))


def _problem_of(pseudo: dict[bytes, bytes]) -> str:
    method = pseudo.get(b":method", b"")
    if method != b"CONNECT":
        return f"method {method[:16]!r} is not CONNECT"
    if len(pseudo) != 2 or b":authority" not in pseudo:
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
        is_new = name in _DIFFERENT_EACH_TIME or len(name) + len(value) > _REMEMBERED_BYTES
        field = _read_field(name, value) if is_new else _read_known_field(name, value)
        if isinstance(field, str):
            return pseudo, rest, field
        if field is not None:
            rest.append(field)
            continue
        if rest:
            return pseudo, rest, "a pseudo-header behind other fields"
        if name in pseudo:
            return pseudo, rest, "a pseudo-header twice"
        pseudo[name] = value
    return pseudo, rest, ""


def _read_field(name: bytes, value: bytes) -> tuple[str, str] | str | None:
    """As text; None for a pseudo-header, and what is malformed about a field that is no field."""
    # §8.2.1 again: nothing that could end a line in HTTP/1.1, no white space around it.
    if b"\0" in value or b"\r" in value or b"\n" in value or value.strip(b" \t") != value:
        return "a field's value has forbidden characters"
    if name.startswith(b":"):
        return None
    if name not in _OURS:
        if not _NAME.fullmatch(name):
            return "a field's name has forbidden characters"
        if name in _OF_HTTP_1 or (name == b"te" and value != b"trailers"):
            return "a field that belongs to HTTP/1.1"
    return name.decode("ascii"), value.decode("latin-1")


_read_known_field = functools.lru_cache(maxsize=256)(_read_field)
"""What repeats with each stream is looked at once. A peer that never repeats itself makes it hold 128 KiB at most."""


def _join(fields: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Values by name. A repeated list field is one list (RFC 9110 §5.3)."""
    joined = dict(fields)
    if len(joined) == len(fields):
        return joined
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    return {name: ",".join(several) for name, several in values.items()}
