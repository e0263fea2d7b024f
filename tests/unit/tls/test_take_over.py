# SPDX-License-Identifier: Apache-2.0
"""OpenSSL shakes hands, then one end goes on with our records and the other with OpenSSL's, in both roles."""

import ssl
from dataclasses import dataclass

import pytest

from nodeagent.model.reason import Reason
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.error import AlertReceived
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.keylog import TrafficSecrets
from nodeagent.tls.take_over import take_over
from tests.unit.tls.conftest import MakeContexts, OpenSsl
from tests.unit.tls.ends import drain, open_all, seal

SUITES = [cipher.value for cipher in Cipher]
PLAIN = bytes(range(256)) * 300


def take(end: OpenSsl, unread: bytes | None = None) -> RecordChannel:
    unread = end.incoming.read() if unread is None else unread
    channel = take_over(end.secrets, end.suite, unread, is_server=end.is_server)
    assert channel is not None
    return channel


@dataclass
class Pair:
    ours: RecordChannel
    peer: OpenSsl


@pytest.fixture(params=[f"{role} {suite}" for role in ("client", "server") for suite in SUITES])
def pair(request: pytest.FixtureRequest, contexts: MakeContexts) -> Pair:
    """Our end is the one that is named."""
    role, suite = request.param.split()
    client, server, _, _ = contexts(suite).shake_hands()
    assert client.suite == suite
    return Pair(take(server), client) if role == "server" else Pair(take(client), server)


@pytest.mark.parametrize("size", [1, 16384, 16385, len(PLAIN)])
def test_payload_both_ways(pair: Pair, size: int) -> None:
    for _ in range(3):
        assert pair.peer.open(seal(pair.ours, PLAIN[:size])) == PLAIN[:size]
        assert open_all(pair.ours, [pair.peer.seal(PLAIN[:size])]) == PLAIN[:size]


def test_openssl_says_goodbye(pair: Pair) -> None:
    last = pair.peer.seal(b"last")
    assert open_all(pair.ours, [last + pair.peer.close()]) == b"last"
    assert pair.ours.is_closed


def test_openssl_hears_our_goodbye(pair: Pair) -> None:
    last = seal(pair.ours, b"last")
    pair.ours.close()
    assert pair.peer.open(last + seal(pair.ours)) == b"last"
    pair.peer.tls.unwrap()  # would want to read if it had not heard


def test_openssl_understands_our_alert(pair: Pair) -> None:
    damaged = bytearray(pair.peer.seal(b"payload"))
    damaged[-1] ^= 1
    with pytest.raises(Exception, match="bad record mac"):
        open_all(pair.ours, [bytes(damaged)])
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        pair.peer.open(seal(pair.ours))


def test_we_understand_openssls_alert(pair: Pair) -> None:
    damaged = bytearray(seal(pair.ours, b"payload"))
    damaged[-1] ^= 1
    with pytest.raises(ssl.SSLError):
        pair.peer.open(bytes(damaged))
    with pytest.raises(AlertReceived, match="bad record mac"):
        open_all(pair.ours, [pair.peer.take()])


@pytest.mark.parametrize("suite", SUITES)
def test_what_came_with_the_clients_finished_is_not_lost(contexts: MakeContexts, suite: str) -> None:
    client, server = contexts(suite).ends()
    finished = client.step(server.step(client.step()))
    server.step(finished + client.seal(b"first") + client.seal(b"second"))
    assert server.is_done
    ours = take(server)
    assert ours.has_more
    assert drain(ours) == b"firstsecond"
    assert open_all(ours, [client.seal(b"third")]) == b"third"


def test_a_record_that_was_cut_by_the_handshake_goes_on(contexts: MakeContexts) -> None:
    client, server = contexts(SUITES[0]).ends()
    finished, first = client.step(server.step(client.step())), client.seal(b"first")
    server.step(finished + first[:3])
    assert open_all(take(server), [first[3:]]) == b"first"


def test_tickets_of_the_peer_are_dropped(contexts: MakeContexts) -> None:
    """A client has no say in them: Envoy sends some."""
    client, server, tickets, _ = contexts(SUITES[0], tickets=2).shake_hands()
    ours = take(client)
    assert open_all(ours, [tickets + server.seal(b"payload")]) == b"payload"
    assert ours._opener.tickets == 2


def test_a_client_learns_behind_its_handshake_that_its_certificate_is_refused(contexts: MakeContexts) -> None:
    made = contexts(SUITES[1])
    made.server.verify_mode = ssl.CERT_REQUIRED
    client, server = made.ends()
    finished = client.step(server.step(client.step()))
    with pytest.raises(ssl.SSLError):
        server.step(finished)
    with pytest.raises(AlertReceived, match="certificate required") as caught:
        open_all(take(client), [server.sent])
    assert caught.value.reason is Reason.TLS_FAILED


def test_the_secrets_are_taken_and_not_left_behind(contexts: MakeContexts) -> None:
    client, _, _, _ = contexts(SUITES[0]).shake_hands()
    secret = client.secrets.client
    take(client)
    assert secret == bytearray(32)
    assert client.secrets.server is None


def test_other_suites_stay_with_openssl(contexts: MakeContexts) -> None:
    client, _, _, _ = contexts("TLS_CHACHA20_POLY1305_SHA256").shake_hands()
    assert take_over(client.secrets, client.suite, b"", is_server=False) is None
    assert client.secrets.client is not None


@pytest.mark.parametrize(
    ("client", "server"), [(None, bytearray(32)), (bytearray(32), None), (bytearray(32), bytearray(48))]
)
def test_without_both_secrets_it_stays_with_openssl(client: bytearray | None, server: bytearray | None) -> None:
    secrets = TrafficSecrets()
    secrets.client, secrets.server = client, server
    assert take_over(secrets, SUITES[0], b"", is_server=True) is None
