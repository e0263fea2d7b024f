# SPDX-License-Identifier: Apache-2.0
"""Questions and answers of sock_diag as bytes; that a kernel agrees is shown in tests/kernel/test_sockops.py."""

import errno
import struct

import pytest

from nodeagent.kernel.sock_destroy import End
from nodeagent.kernel.sock_diag import Carried, read_answer, request
from nodeagent.model.address import Ip

END = End(Ip("10.99.1.2"), 40000, Ip("10.99.1.3"), 80)
FIN_WAIT2, ESTABLISHED, CLOSE_WAIT = 5, 1, 8


def _answer(state: int, acknowledged: int, received: int) -> bytes:
    info = bytearray(224)
    info[0] = state
    struct.pack_into("=I", info, 68, 250)
    struct.pack_into("=I", info, 100, 3)
    struct.pack_into("=QQ", info, 120, acknowledged, received)
    attributes = struct.pack("=HHB3x", 5, 8, 0) + struct.pack("=HH", 4 + len(info), 2) + bytes(info)
    body = bytes(72) + attributes
    return struct.pack("=IHHII", 16 + len(body), 20, 0, 1, 0) + body


def _refusal(number: int) -> bytes:
    return struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -number) + bytes(16)


def test_a_question_names_the_socket_and_asks_for_what_it_carried() -> None:
    asked = request(0x1122334455667788, END)
    assert struct.unpack_from("=IHH", asked) == (len(asked), 20, 1)
    assert asked[16:19] == bytes((2, 6, 2))
    assert struct.unpack_from("!HH", asked, 24) == (40000, 80)
    assert struct.unpack_from("=II", asked, len(asked) - 8) == (0x55667788, 0x11223344)
    assert request(1, END._replace(ip=Ip("fd99:1::2"), peer=Ip("fd99:1::3")))[16] == 10


@pytest.mark.parametrize(
    ("state", "acknowledged", "received", "sent", "got"),
    [
        pytest.param(ESTABLISHED, 1, 0, 0, 0, id="nothing but the SYN"),
        pytest.param(ESTABLISHED, 101, 50, 100, 50, id="both ways"),
        pytest.param(FIN_WAIT2, 102, 50, 100, 50, id="our FIN was acknowledged"),
        pytest.param(CLOSE_WAIT, 101, 51, 100, 50, id="their FIN came"),
    ],
)
def test_what_was_carried(state: int, acknowledged: int, received: int, sent: int, got: int) -> None:
    assert read_answer(_answer(state, acknowledged, received)) == Carried(sent, got, 250, 3)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE])
def test_a_socket_that_is_gone(number: int) -> None:
    assert read_answer(_refusal(number)) is None


def test_a_socket_without_numbers_is_over() -> None:
    assert read_answer(struct.pack("=IHHII", 88, 20, 0, 1, 0) + bytes(72)) is None


def test_other_answers_are_errors() -> None:
    with pytest.raises(PermissionError):
        read_answer(_refusal(errno.EPERM))
    with pytest.raises(OSError, match="message 3"):
        read_answer(struct.pack("=IHHIIi", 20, 3, 0, 1, 0, 0))
