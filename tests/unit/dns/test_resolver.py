# SPDX-License-Identifier: Apache-2.0
"""What the resolver makes of answers of a real server on loopback, and of one that is not there."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import dns.asyncresolver
import dns.rcode
import pytest

from nodeagent.dns import resolver
from nodeagent.dns.book import Family, Outcome
from nodeagent.dns.resolver import NEGATIVE_SECONDS, NodeResolver
from nodeagent.model.address import Ip
from tests.dns_server import DnsServer

API = "api.example"
RECORDS = {
    (API, "A"): ("203.0.113.8", "203.0.113.7"),
    (API, "AAAA"): ("2001:db8::7",),
    ("four.example", "A"): ("203.0.113.7",),
    ("db.prod.svc.cluster.local", "A"): ("203.0.113.9",),
}
NO_SUCH = Outcome(seconds=NEGATIVE_SECONDS, words="there is no such name")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DnsServer]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]

    class WithPort(dns.asyncresolver.Resolver):
        """A resolv.conf has no port, and 53 is not ours to take."""

        def __init__(self, path: str) -> None:
            super().__init__(path)
            self.port = port

    monkeypatch.setattr(dns.asyncresolver, "Resolver", WithPort)
    monkeypatch.setattr(resolver, "LIFETIME_SECONDS", 60.0)  # on the busiest machine
    with DnsServer(sock, RECORDS, ttl=42) as server:
        yield server


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text("search svc.cluster.local\noptions ndots:2\nnameserver 127.0.0.1\n", encoding="utf-8")
    return path


def look_up(conf: Path, name: str) -> tuple[Outcome, Outcome]:
    outcomes = asyncio.run(NodeResolver(str(conf)).look_up(name))
    return outcomes[Family.IPV4], outcomes[Family.IPV6]


def test_both_families_are_asked_and_their_ttl_told(server: DnsServer, conf: Path) -> None:
    ipv4, ipv6 = look_up(conf, API)
    assert (set(ipv4.addresses), ipv4.seconds) == ({"203.0.113.7", "203.0.113.8"}, 42)
    assert ipv6 == Outcome((Ip("2001:db8::7"),), 42)


def test_the_search_domains_of_the_node_count(server: DnsServer, conf: Path) -> None:
    assert look_up(conf, "db.prod")[0].addresses == ("203.0.113.9",)


def test_what_there_is_none_of_is_an_answer(server: DnsServer, conf: Path) -> None:
    assert look_up(conf, "four.example")[1] == Outcome(seconds=NEGATIVE_SECONDS, words="it has no address")
    assert look_up(conf, "none.example") == (NO_SUCH, NO_SUCH)


def test_a_server_that_cannot_answer_is_none(server: DnsServer, conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LIFETIME_SECONDS", 0.5)
    for code in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):
        server.code = code
        for outcome in look_up(conf, API):
            assert (outcome.addresses, outcome.is_answer) == ((), False)
            assert outcome.words


def test_a_server_that_says_nothing_is_given_up(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LIFETIME_SECONDS", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        original = dns.asyncresolver.Resolver

        def with_port(path: str) -> dns.asyncresolver.Resolver:
            made = original(path)
            made.port = port
            return made

        monkeypatch.setattr(dns.asyncresolver, "Resolver", with_port)
        ipv4, ipv6 = look_up(conf, API)
    assert not ipv4.is_answer
    assert "did not answer" in ipv4.words
    assert not ipv6.is_answer


@pytest.mark.parametrize(
    ("text", "words"),
    [("# nothing\n", "no nameservers"), ("nameserver nonsense\n", "nonsense"), (None, "cannot open")],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "resolv.conf"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    ipv4, _ = look_up(path, API)
    assert not ipv4.is_answer
    assert words in ipv4.words


def test_what_is_no_name_is_told(server: DnsServer, conf: Path) -> None:
    ipv4, _ = look_up(conf, "a..b")
    assert (ipv4.addresses, ipv4.is_answer) == ((), False)
    assert server.asked == []
