# SPDX-License-Identifier: Apache-2.0
"""The client random in whatever pieces, and the lines of one handshake among those of others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.tls.keylog import ClientRandom, TrafficSecrets
from tests.unit.tls.rfc8448 import CLIENT_AUTHENTICATION
from tests.unit.tls.twin import cut

HELLO = CLIENT_AUTHENTICATION.client_hello
RANDOM = bytes.fromhex("6a472236328b83af40386d3a3e1f1ce624fa4ed89ab865a4ff0f4144ce3ae233")
CLIENT, SERVER = CLIENT_AUTHENTICATION.client.secret, CLIENT_AUTHENTICATION.server.secret


def line(label: str, secret: bytes, random: bytes = RANDOM) -> bytes:
    return f"{label} {random.hex()} {secret.hex()}\n".encode()


LINES = (
    line("CLIENT_HANDSHAKE_TRAFFIC_SECRET", b"1" * 32)
    + line("SERVER_HANDSHAKE_TRAFFIC_SECRET", b"2" * 32)
    + line("EXPORTER_SECRET", b"3" * 32)
    + line("SERVER_TRAFFIC_SECRET_0", SERVER)
    + line("CLIENT_TRAFFIC_SECRET_0", CLIENT)
)


def greeted() -> TrafficSecrets:
    secrets = TrafficSecrets()
    secrets.hello.received(HELLO)
    return secrets


def known(secrets: TrafficSecrets) -> tuple[bytes, bytes]:
    """Empty for one that is not known."""
    return bytes(secrets.client or b""), bytes(secrets.server or b"")


@given(st.lists(st.integers(1, 60), max_size=4))
def test_the_random_of_the_rfcs_hello_in_any_pieces(sizes: list[int]) -> None:
    random = ClientRandom()
    for piece in cut(HELLO, sizes):
        random.received(memoryview(piece))
    random.received(b"and what follows it")
    assert random.value == RANDOM


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(HELLO[:42], id="a byte is missing"),
        pytest.param(b"\x17" + HELLO[1:], id="not a handshake record"),
        pytest.param(HELLO[:5] + b"\x02" + HELLO[6:], id="not a ClientHello"),
        pytest.param(HELLO[:3] + b"\x00\x25" + HELLO[5:], id="a record that ends inside of the random"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_has_no_random_in_its_place(first: bytes) -> None:
    random = ClientRandom()
    random.received(first)
    assert random.value is None


def test_the_secrets_of_this_handshake() -> None:
    secrets = greeted()
    secrets.logged(LINES)
    assert known(secrets) == (CLIENT, SERVER)


def test_they_may_come_in_two_steps() -> None:
    secrets = greeted()
    secrets.logged(line("SERVER_TRAFFIC_SECRET_0", SERVER))
    assert known(secrets) == (b"", SERVER)
    secrets.logged(bytearray(line("CLIENT_TRAFFIC_SECRET_0", CLIENT)))
    assert known(secrets) == (CLIENT, SERVER)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(line("CLIENT_TRAFFIC_SECRET_0", CLIENT, random=bytes(32)), id="another handshake's"),
        pytest.param(line("CLIENT_TRAFFIC_SECRET_1", CLIENT), id="another label"),
        pytest.param(b"CLIENT_RANDOM " + RANDOM.hex().encode() + b" 00\n", id="an older TLS"),
        pytest.param(line("CLIENT_TRAFFIC_SECRET_0", CLIENT)[:-1], id="a torn line"),
        pytest.param(line("CLIENT_TRAFFIC_SECRET_0", CLIENT)[3:], id="the end of one"),
        pytest.param(line("CLIENT_TRAFFIC_SECRET_0", CLIENT).replace(b"73c2", b"73xx"), id="not hex"),
        pytest.param(line("CLIENT_TRAFFIC_SECRET_0", CLIENT).replace(b"73c2", b"73\xff2"), id="not text"),
        pytest.param(b"# a comment\n\n  \n", id="no line at all"),
    ],
)
def test_what_is_passed_over(lines: bytes) -> None:
    secrets = greeted()
    secrets.logged(lines)
    assert known(secrets) == (b"", b"")


def test_without_a_random_nothing_is_ours() -> None:
    secrets = TrafficSecrets()
    secrets.logged(LINES)
    assert secrets.client is None


@given(st.binary(max_size=200))
def test_no_bytes_are_a_defect(lines: bytes) -> None:
    greeted().logged(lines)


def test_they_can_be_overwritten_and_are_never_shown() -> None:
    secrets = greeted()
    secrets.logged(LINES)
    assert repr(secrets) == "TrafficSecrets(client=True, server=True)"
    former = secrets.client, secrets.server
    secrets.wipe()
    assert former == (bytearray(32), bytearray(32))
    assert known(secrets) == (b"", b"")
    secrets.wipe()
