# SPDX-License-Identifier: Apache-2.0
"""Requests and answers through HPACK, and everything about them that is refused."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.hbone import headers
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.events import Request, Response
from nodeagent.hbone.frames import ErrorCode
from nodeagent.hbone.headers import (
    ConnectRequest,
    HeaderBlock,
    HeaderReader,
    HeaderWriter,
    parse_request,
    parse_response,
)
from nodeagent.hbone.limits import Limits
from nodeagent.model.reason import Reason

Pairs = list[tuple[bytes, bytes]]
CONNECT: Pairs = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.2:80")]
LIMITS = Limits(max_header_bytes=1000, max_fragments=3)
printable = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=40)


@given(printable.filter(bool), printable, printable, printable, printable)
def test_a_request_survives(authority: str, baggage: str, forwarded: str, traceparent: str, network: str) -> None:
    writer, reader = HeaderWriter(), HeaderReader(Limits())
    for _ in range(2):  # the second time from the table
        block = writer.request(ConnectRequest(authority, baggage, forwarded, traceparent, network))
        assert parse_request(7, reader.decode(block)) == Request(
            7, authority, "", forwarded, baggage, traceparent, network
        )


def test_what_repeats_is_indexed_and_what_differs_is_not() -> None:
    writer = HeaderWriter()
    sizes = [
        len(writer.request(ConnectRequest("10.0.0.2:80", "b" * 100, f'for="10.0.0.1:{port}"', "t" * 55)))
        for port in (10000, 10001, 10002)
    ]
    assert sizes[1] == sizes[2] < sizes[0] - 100
    decoder = hpack.Decoder()
    writer = HeaderWriter()
    decoder.decode(writer.request(ConnectRequest("a:1", "b", "f", "t", "n")))
    assert {name for name, _ in decoder.header_table.dynamic_entries} == {
        b":method",
        b":authority",
        b"baggage",
        b"x-forwarded-network",
    }


few = st.sampled_from(["10.0.0.2:80", "10.0.0.2:81", "b" * 300, "c" * 3000, "d" * 5000])
"""Few enough to repeat, long enough to push each other out of the table, and one that is longer than the table."""
steps = st.one_of(
    st.builds(ConnectRequest, few, few | st.just(""), printable, st.just("") | printable, st.just("") | few),
    st.sampled_from([0, 50, 400, 4096]),
)


@given(st.lists(steps, max_size=30))
def test_what_is_remembered_says_what_the_library_would_say(taken: list[ConnectRequest | int]) -> None:
    writer, decoder, ours = HeaderWriter(), hpack.Decoder(), HeaderReader(Limits(max_header_bytes=1 << 16))
    for step in taken:
        if isinstance(step, int):
            writer.resize(step)
            continue
        block = writer.request(step)
        said = {name.decode(): value.decode() for name, value in decoder.decode(block, raw=True)}
        wanted = {
            ":method": "CONNECT",
            ":authority": step.authority,
            "baggage": step.baggage,
            "forwarded": step.forwarded,
        }
        wanted |= {"traceparent": step.traceparent, "x-forwarded-network": step.network}
        assert said == {name: value for name, value in wanted.items() if value or name == ":authority"}
        assert {name.decode(): value.decode() for name, value in ours.decode(block)} == said


def test_a_writer_remembers_only_so_many_blocks() -> None:
    writer = HeaderWriter()
    for _ in range(2):
        for port in range(100):
            writer.request(ConnectRequest(f"a:{port}"))
    assert len(writer._blocks) <= 16


simple = st.sampled_from(b"\x82\x88\xbe\xbf\xc0\xff\x80\x00\x10\x01\x41\x7f\x05")


@given(st.lists(simple | st.integers(0, 255) | st.just(0x10), max_size=20).map(bytes), st.integers(0, 200))
def test_a_block_that_is_read_without_the_library_says_the_same(block: bytes, most: int) -> None:
    first = hpack.Encoder().encode([(":authority", "a:1"), ("baggage", "b"), ("x", "y")], huffman=False)
    reader, library = HeaderReader(Limits(max_header_bytes=most)), hpack.Decoder(max_header_list_size=most)
    for one in (reader._decoder, library):
        one.max_header_list_size = 1000
        one.decode(first)
        one.max_header_list_size = most
    before = list(library.header_table.dynamic_entries)
    known = reader._decode_known(block)
    assert list(reader._decoder.header_table.dynamic_entries) == before
    if known is not None:
        assert known == [(bytes(name), bytes(value)) for name, value in library.decode(block, raw=True)]
        assert list(library.header_table.dynamic_entries) == before


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x88", id="a status"),
        pytest.param(b"\x88\xbe\xbf", id="with fields of the table"),
        pytest.param(b"\x10\x09forwarded\x03f=1\x82", id="a field that is never indexed"),
        pytest.param(b"\x00\x01x\x00", id="an empty value"),
    ],
)
def test_what_repeats_is_read_without_the_library(block: bytes) -> None:
    reader = HeaderReader(Limits())
    reader.decode(hpack.Encoder().encode([("baggage", "b"), ("x", "y")], huffman=False))
    assert reader._decode_known(block) is not None


@pytest.mark.parametrize(
    "sizes", [[0], [100], [0, 4096], [0, 0], [100, 4096, 0, 4096], [1 << 20], [50, 60, 70, 80], [4096]]
)
def test_the_peer_may_resize_our_table(sizes: list[int]) -> None:
    writer, reader = HeaderWriter(), HeaderReader(Limits())
    request = ConnectRequest("a:1", "b" * 30)
    reader.decode(writer.request(request))
    for size in sizes:
        writer.resize(size)
    for _ in range(2):
        fields = reader.decode(writer.request(request))  # which takes two announcements at most
        assert parse_request(1, fields).baggage == request.baggage
        assert reader._decoder.header_table_size == min(sizes[-1], 4096)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        pytest.param([], "is not CONNECT", id="nothing"),
        pytest.param([(b":method", b"GET"), *CONNECT[1:]], "is not CONNECT", id="another method"),
        pytest.param([(b":method", b"connect"), *CONNECT[1:]], "is not CONNECT", id="method in lower case"),
        pytest.param(CONNECT[:1], "no other pseudo", id="no authority"),
        pytest.param([*CONNECT, (b":scheme", b"https")], "no other pseudo", id=":scheme"),
        pytest.param([*CONNECT, (b":path", b"/")], "no other pseudo", id=":path"),
        pytest.param([*CONNECT, (b":protocol", b"websocket")], "no other pseudo", id="extended CONNECT"),
        pytest.param([*CONNECT, (b":status", b"200")], "no other pseudo", id="a response's"),
        pytest.param([CONNECT[0], (b":authority", b"")], "authority", id="empty authority"),
        pytest.param([CONNECT[0], (b":authority", "é:80".encode())], "authority", id="authority beyond ASCII"),
        pytest.param([CONNECT[0], (b":authority", b"a b:80")], "authority", id="space in the authority"),
        pytest.param([*CONNECT, CONNECT[0]], "twice", id="method twice"),
        pytest.param([CONNECT[0], (b"x", b"y"), CONNECT[1]], "behind", id="pseudo-header behind a field"),
        pytest.param([*CONNECT, (b"Baggage", b"x")], "name", id="upper case"),
        pytest.param([*CONNECT, (b"", b"x")], "name", id="empty name"),
        pytest.param([*CONNECT, (b"a b", b"x")], "name", id="space in a name"),
        pytest.param([*CONNECT, (b"a\n", b"x")], "name", id="newline behind a name"),
        pytest.param([*CONNECT, (b"x", b"a\r\nb")], "value", id="line break in a value"),
        pytest.param([*CONNECT, (b"x", b"a\0")], "value", id="NUL in a value"),
        pytest.param([*CONNECT, (b"x", b" a")], "value", id="space before a value"),
        pytest.param([*CONNECT, (b"x", b"a\t")], "value", id="tab behind a value"),
        pytest.param([*CONNECT, (b"connection", b"close")], "HTTP/1.1", id="connection"),
        pytest.param([*CONNECT, (b"transfer-encoding", b"chunked")], "HTTP/1.1", id="transfer-encoding"),
        pytest.param([*CONNECT, (b"te", b"gzip")], "HTTP/1.1", id="te"),
    ],
)
def test_a_request_with_a_problem(fields: Pairs, problem: str) -> None:
    request = parse_request(1, fields)
    assert problem in request.problem
    assert request.authority == ""


def test_repeated_fields_are_joined_and_others_ignored() -> None:
    fields = [*CONNECT, (b"baggage", b"a=1"), (b"x", b"y"), (b"te", b"trailers"), (b"baggage", b"b=2")]
    request = parse_request(1, fields)
    assert (request.problem, request.baggage) == ("", "a=1,b=2")


@pytest.mark.parametrize(
    ("fields", "response"),
    [
        ([(b":status", b"200"), (b"baggage", b"b")], Response(1, 200, "b", (("baggage", "b"),))),
        ([(b":status", b"503"), (b"x", b"\xe9")], Response(1, 503, "", (("x", "é"),))),
        ([(b":status", b"103")], Response(1, 103)),
        ([], None),
        ([(b":status", b"20")], None),
        ([(b":status", b"2000")], None),
        ([(b":status", b"099")], None),
        ([(b":status", b"+20")], None),
        ([(b":status", b"200\n")], None),
        ([(b":status", b"101")], None),
        ([(b":status", b"200"), (b":status", b"200")], None),
        ([(b":status", b"200"), (b":method", b"CONNECT")], None),
        ([(b":status", b"200"), (b"upgrade", b"x")], None),
    ],
)
def test_a_response(fields: Pairs, response: Response | None) -> None:
    assert parse_response(1, fields) == response


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=12)), max_size=8))
def test_parsing_is_total(fields: Pairs) -> None:
    for _ in range(2):  # also of what is known already
        parse_request(1, [*CONNECT, *fields])
        parse_request(1, fields)
        parse_response(1, [(b":status", b"200"), *fields])


names, values = st.binary(max_size=12), st.binary(max_size=12)


@given(st.lists(st.tuples(names | st.sampled_from([b"te", b"upgrade", b"baggage", b":path"]), values), max_size=4))
def test_a_field_that_is_known_is_judged_as_it_was(fields: Pairs) -> None:
    for name, value in fields:
        assert headers._read_known_field(name, value) == headers._read_field(name, value)
        assert headers._read_known_field(name, value) == headers._read_field(name, value)


def test_large_fields_and_those_that_differ_each_time_are_not_remembered() -> None:
    headers._read_known_field.cache_clear()
    large = [(b"x-" + b"n" * 600, b""), (b"x", b"v" * 600), (b"forwarded", b"for=unknown"), (b"traceparent", b"00")]
    assert not parse_request(1, [*CONNECT, *large]).problem
    assert headers._read_known_field.cache_info().currsize == len(CONNECT)


# ---- what ends the connection


@pytest.mark.parametrize(
    ("block", "code", "reason"),
    [
        pytest.param(b"\x80", ErrorCode.COMPRESSION_ERROR, Reason.H2_FAILED, id="index 0"),
        pytest.param(b"\xff\xff\xff\x7f", ErrorCode.COMPRESSION_ERROR, Reason.H2_FAILED, id="index beyond the table"),
        pytest.param(b"\x00", ErrorCode.COMPRESSION_ERROR, Reason.H2_FAILED, id="cut short"),
        pytest.param(b"\x00\x01a\x82\xff\xff", ErrorCode.COMPRESSION_ERROR, Reason.H2_FAILED, id="bad Huffman"),
        pytest.param(b"\x3f\xff\x7f", ErrorCode.COMPRESSION_ERROR, Reason.H2_FAILED, id="table too large"),
        pytest.param(b"\x20\x20\x20", ErrorCode.COMPRESSION_ERROR, Reason.H2_FAILED, id="three resizes"),
        pytest.param(b"\x82\x20", ErrorCode.COMPRESSION_ERROR, Reason.H2_FAILED, id="resize behind a field"),
        pytest.param(b"\x7f" + b"\xff" * 50, ErrorCode.COMPRESSION_ERROR, Reason.H2_FAILED, id="endless integer"),
        pytest.param(
            b"\x40\x01a\x7f\xe5\x02" + b"v" * 484 + b"\xbe" * 3,
            ErrorCode.ENHANCE_YOUR_CALM,
            Reason.H2_HEADERS_TOO_LARGE,
            id="small block, large list",
        ),
    ],
)
def test_a_block_that_ends_the_connection(block: bytes, code: ErrorCode, reason: Reason) -> None:
    with pytest.raises(H2Error) as caught:
        HeaderReader(LIMITS).decode(block)
    assert (caught.value.code, caught.value.reason) == (code, reason)


def test_two_resizes_are_honest() -> None:
    assert HeaderReader(LIMITS).decode(b"\x20\x3f\xe1\x1f\x82") == [(b":method", b"GET")]


@given(st.binary(max_size=200))
def test_any_block_decodes_or_is_an_h2_error(block: bytes) -> None:
    reader = HeaderReader(LIMITS)
    try:
        fields = reader.decode(block)
    except H2Error:
        return
    assert sum(len(name) + len(value) + 32 for name, value in fields) <= LIMITS.max_header_bytes


@pytest.mark.parametrize(
    "parts", [[1001], [500, 501], [1, 1, 1, 1], [0, 0, 0, 0]], ids=["bytes", "bytes together", "frames", "empty frames"]
)
def test_a_block_beyond_its_limits(parts: list[int]) -> None:
    block = HeaderBlock(1, LIMITS, ends_stream=False)
    for size in parts[:-1]:
        block.add(bytes(size))
    with pytest.raises(H2Error) as caught:
        block.add(bytes(parts[-1]))
    assert caught.value.reason is Reason.H2_HEADERS_TOO_LARGE


def test_a_block_at_its_limits() -> None:
    block = HeaderBlock(1, LIMITS, ends_stream=False)
    for part in (b"a" * 500, b"", b"b" * 500):
        block.add(part)
    assert block.whole() == b"a" * 500 + b"b" * 500
