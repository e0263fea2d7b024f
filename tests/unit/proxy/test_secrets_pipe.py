# SPDX-License-Identifier: Apache-2.0
"""Secrets of our own handshakes, and of nothing else; no descriptor is left, and nothing ever blocks."""

import fcntl
import os
import ssl
from collections.abc import Callable, Iterator

import pytest

from nodeagent.proxy.secrets_pipe import SecretsPipe
from nodeagent.proxy.tls import make_context
from nodeagent.tls.keylog import TrafficSecrets
from tests.open_files import open_files

Issue = Callable[..., tuple[str, str]]


@pytest.fixture
def pipe() -> Iterator[SecretsPipe]:
    made = SecretsPipe()
    yield made
    made.close()


@pytest.fixture
def contexts(authority: Callable[[], Issue]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's."""
    issue = authority()
    return (
        make_context(*issue("spiffe://cluster.local/ns/a/sa/client"), is_server=False),
        make_context(*issue("spiffe://cluster.local/ns/a/sa/server"), is_server=True),
    )


class End:
    """Half of a handshake in memory, each step of which is listened to."""

    def __init__(self, pipe: SecretsPipe, context: ssl.SSLContext, *, is_server: bool) -> None:
        self._pipe, self._is_server, self.secrets = pipe, is_server, TrafficSecrets()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)

    def step(self, ciphertext: bytes = b"") -> bytes:
        self._incoming.write(ciphertext)
        if self._is_server:
            self.secrets.hello.received(ciphertext)
        try:
            with self._pipe.listening(self._tls.context, self.secrets):
                self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        sent = self._outgoing.read()
        if not self._is_server:
            self.secrets.hello.received(sent)
        return sent


def shake_hands(pipe: SecretsPipe, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> tuple[End, End]:
    client, server = End(pipe, contexts[0], is_server=False), End(pipe, contexts[1], is_server=True)
    server.step(client.step(server.step(client.step())))
    return client, server


def is_empty(pipe: SecretsPipe) -> bool:
    return pipe._read() == 0


def test_both_ends_of_a_handshake_learn_the_same_secrets(
    pipe: SecretsPipe, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    client, server = shake_hands(pipe, contexts)
    assert client.secrets.client == server.secrets.client
    assert client.secrets.server == server.secrets.server
    assert {len(client.secrets.client or b""), len(client.secrets.server or b"")} <= {32, 48}


def test_handshakes_that_take_turns_are_told_apart(
    pipe: SecretsPipe, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    pairs = [(End(pipe, contexts[0], is_server=False), End(pipe, contexts[1], is_server=True)) for _ in range(3)]
    sent = [client.step() for client, _ in pairs]
    sent = [server.step(hello) for (_, server), hello in zip(pairs, sent, strict=True)]
    sent = [client.step(flight) for (client, _), flight in zip(pairs, sent, strict=True)]
    for (client, server), finished in zip(pairs, sent, strict=True):
        server.step(finished)
        assert client.secrets.client == server.secrets.client
    assert len({bytes(client.secrets.client or b"") for client, _ in pairs}) == 3


def test_no_descriptor_is_left_and_none_is_held_by_a_context(
    pipe: SecretsPipe, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """A context lives as long as the tunnels that were opened with it, whatever certificates came since."""
    before = open_files()
    for _ in range(3):
        shake_hands(pipe, contexts)
    assert not open_files() - before


def test_a_context_logs_only_while_it_is_listened_to(
    pipe: SecretsPipe, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    shake_hands(pipe, contexts)
    tls = contexts[0].wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    assert not contexts[0].keylog_filename
    assert is_empty(pipe)


def test_nothing_secret_stays_in_the_pipe_or_in_its_buffer(
    pipe: SecretsPipe, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    shake_hands(pipe, contexts)
    assert is_empty(pipe)
    assert not any(pipe._lines)


def test_a_full_pipe_blocks_nothing(pipe: SecretsPipe, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """OpenSSL's end of it blocks, so that this test would never end if it were not emptied before."""
    written = 0
    while written < fcntl.fcntl(pipe._write_fd, fcntl.F_GETPIPE_SZ):
        written += os.write(pipe._write_fd, b"somebody else's line\n" * 4096)
    client, server = shake_hands(pipe, contexts)
    assert client.secrets.client == server.secrets.client
    assert client.secrets.client is not None


def test_one_step_fits_into_the_smallest_pipe(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """The kernel gives a user that has many pipes no more than a page for each."""
    pipe = SecretsPipe()
    fcntl.fcntl(pipe._write_fd, fcntl.F_SETPIPE_SZ, 4096)
    client, server = shake_hands(pipe, contexts)
    pipe.close()
    assert client.secrets.client == server.secrets.client
    assert client.secrets.client is not None


def test_without_proc_or_descriptors_there_are_no_secrets_and_no_error(
    pipe: SecretsPipe, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    pipe._path = "/proc/self/fd/no such descriptor"
    client, server = shake_hands(pipe, contexts)
    assert client.secrets.client is server.secrets.server is None
    assert not contexts[0].keylog_filename


def test_a_handshake_that_fails_raises_as_ever(
    pipe: SecretsPipe, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    end = End(pipe, contexts[1], is_server=True)
    with pytest.raises(ssl.SSLError):
        end.step(b"GET / HTTP/1.1\r\n\r\n")
    assert not contexts[1].keylog_filename


def test_no_child_inherits_it(pipe: SecretsPipe) -> None:
    assert not os.get_inheritable(pipe._read_fd)
    assert not os.get_inheritable(pipe._write_fd)


def test_it_is_closed() -> None:
    before = open_files()
    SecretsPipe().close()
    assert not open_files() - before
