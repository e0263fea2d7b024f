# SPDX-License-Identifier: Apache-2.0
"""What is said to the kernel, where there is none that understands it. Where there is one: test_kernel_channel.py."""

import contextlib
import socket
import struct
from typing import Any

import pytest

from nodeagent.proxy import kernel_tls
from nodeagent.tls.crypto_info import pack_crypto_info
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.record import ALERT, APPLICATION_DATA, HANDSHAKE
from nodeagent.tls.traffic_key import TrafficKey
from tests.unit.tls.ends import SECRET


class Recorder:
    """A socket that writes down what it is told, and answers as it is told to."""

    def __init__(self, answer: Any = None) -> None:
        self.told: list[Any] = []
        self._answer = answer

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self.told.append((level, option, value))
        if self._answer is not None:
            raise self._answer

    def sendmsg(self, buffers: Any, ancillary: Any) -> None:
        self.told.append((buffers, ancillary))

    def recvmsg_into(self, *_arguments: Any) -> Any:
        return self._answer


def test_a_key_is_overwritten_when_the_kernel_has_it() -> None:
    key = TrafficKey(Cipher.AES_128_GCM, SECRET, 7)
    for error in (None, OSError(16, "busy")):
        recorder = Recorder(error)
        with contextlib.suppress(OSError):
            kernel_tls.install(recorder, kernel_tls.TLS_TX, key)  # type: ignore[arg-type]
        [(level, option, info)] = recorder.told
        assert (level, option) == (282, 1)
        assert len(info) == len(pack_crypto_info(key))
        assert not any(info)


def test_a_record_of_another_kind() -> None:
    recorder = Recorder()
    kernel_tls.send_record(recorder, ALERT, b"\1\0")  # type: ignore[arg-type]
    assert recorder.told == [([b"\1\0"], [(282, 1, b"\x15")])]


@pytest.mark.parametrize(
    ("size", "ancillary", "found"),
    [
        (5, [(282, 2, b"\x16")], (HANDSHAKE, 5)),
        (9, [(282, 2, b"\x17")], (APPLICATION_DATA, 9)),
        (9, [], (APPLICATION_DATA, 9)),
        (0, [(282, 2, b"\x17")], (APPLICATION_DATA, 0)),
        (0, [], (None, 0)),
        (9, [(1, 2, b"\x15")], (APPLICATION_DATA, 9)),
    ],
)
def test_what_came(size: int, ancillary: list[tuple[int, int, bytes]], found: tuple[int | None, int]) -> None:
    recorder = Recorder((size, ancillary, 0, None))
    assert kernel_tls.receive_records(recorder, memoryview(bytearray(10))) == found  # type: ignore[arg-type]


def test_a_socket_without_keys_has_no_sequence_number() -> None:
    with socket.socket() as sock, pytest.raises(OSError, match=r"rotocol not available|not supported"):
        kernel_tls.sequence(sock, kernel_tls.TLS_TX, Cipher.AES_128_GCM)


def test_loading_needs_no_connection_and_no_success() -> None:
    kernel_tls.load_module()
    kernel_tls.load_module()


def test_the_words_of_the_kernel() -> None:
    recorder = Recorder()
    kernel_tls.attach(recorder)  # type: ignore[arg-type]
    kernel_tls.expect_no_padding(recorder)  # type: ignore[arg-type]
    assert recorder.told == [(6, 31, b"tls"), (282, 4, struct.pack("=I", 1))]
