# SPDX-License-Identifier: Apache-2.0
"""The name in a ClientHello: whole, in pieces, in several records, absent, and in what is no TLS."""

import random
import ssl

import pytest

from nodeagent.tls.client_hello import MOST_BYTES, read_server_name

NAME = "db.shop.example"


def hello(name: str | None = NAME, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> bytes:
    """As OpenSSL says it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = minimum
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def vector(size: int, content: bytes) -> bytes:
    return len(content).to_bytes(size, "big") + content


def record(content: bytes, kind: int = 22) -> bytes:
    return bytes((kind, 3, 1)) + vector(2, content)


def built(extensions: bytes) -> bytes:
    body = bytes(34) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0") + vector(2, extensions)
    return b"\x01" + vector(3, body)


def server_name(name: bytes, kind: int = 0) -> bytes:
    return b"\0\0" + vector(2, vector(2, bytes((kind,)) + vector(2, name)))


@pytest.mark.parametrize("minimum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_name_of_openssls_hello_is_found(minimum: ssl.TLSVersion) -> None:
    assert read_server_name(hello(NAME.upper(), minimum)) == NAME


def test_as_long_as_it_is_not_whole_more_is_asked_for() -> None:
    whole = hello()
    for end in range(len(whole)):
        assert read_server_name(whole[:end]) is None, end
    assert read_server_name(whole + b"what follows") == NAME


@pytest.mark.parametrize("sizes", [(1,), (3,), (4,), (100,), (1, 2, 300, 1)])
def test_it_may_be_split_among_records(sizes: tuple[int, ...]) -> None:
    message, records, at = hello()[5:], b"", 0
    while at < len(message):
        for size in sizes:
            piece = message[at : at + size]
            records += record(piece) if piece else b""
            at += size
    assert read_server_name(records) == NAME
    assert read_server_name(records[:-1]) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n", id="HTTP"),
        pytest.param(b"S", id="one byte of something else"),
        pytest.param(b"\x16\x02", id="another version"),
        pytest.param(record(b"\x02\0\0\x01x"), id="ServerHello"),
        pytest.param(record(b"", 22), id="an empty record"),
        pytest.param(b"\x16\x03\x01\xff\xff", id="a record that is too long"),
        pytest.param(record(b"\x01\0\x10\0") + record(b"x", 23), id="something in between"),
        pytest.param(record(built(b"")), id="no extensions"),
        pytest.param(record(built(b"\0\x10\0\0")), id="none of them the name"),
        pytest.param(record(built(server_name(b"x", kind=1))), id="a name of another kind"),
        pytest.param(record(built(server_name(b"\xff\xfe"))), id="no ASCII"),
        pytest.param(record(built(server_name(b"a\nb"))), id="not printable"),
        pytest.param(record(built(server_name(b"x" * 256))), id="too long a name"),
        pytest.param(record(built(b"\0\0\0\x09\0\x40")), id="a length beyond its end"),
        pytest.param(record(b"\x01\0\0\x04cut."), id="a message that is too short"),
    ],
)
def test_what_has_no_name(data: bytes) -> None:
    assert read_server_name(data) == ""


def test_without_a_name_it_has_none() -> None:
    assert read_server_name(hello(None)) == ""


def test_of_a_long_one_no_more_is_asked_for() -> None:
    endless = record(b"\x01\x00\xff\xff" + bytes(8000)) + record(bytes(16000))
    assert read_server_name(endless[: MOST_BYTES - 1]) is None
    assert read_server_name(endless[:MOST_BYTES]) == ""


def test_whatever_the_bytes_nothing_is_raised() -> None:
    dice, whole = random.Random(6), hello()
    for _ in range(3000):
        changed = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        found = read_server_name(bytes(changed[: dice.randint(0, len(changed))]))
        assert found is None or found.isprintable() or not found
