# SPDX-License-Identifier: Apache-2.0
"""Headers that are refused, and with which alert."""

import pytest

from nodeagent.tls.alert import Alert
from nodeagent.tls.error import RecordError
from nodeagent.tls.record import LONGEST, OVERHEAD, PREFIX, SEALED_BYTES, check_header


def test_sizes() -> None:
    assert SEALED_BYTES == 5 + 16384 + 1 + 16


@pytest.mark.parametrize("length", [OVERHEAD, LONGEST])
def test_the_limits_themselves_are_allowed(length: int) -> None:
    check_header(PREFIX, length)


@pytest.mark.parametrize(
    ("prefix", "length", "alert"),
    [
        pytest.param(b"\x14\x03\x03", 1, Alert.UNEXPECTED_MESSAGE, id="ChangeCipherSpec"),
        pytest.param(b"\x15\x03\x03", 2, Alert.UNEXPECTED_MESSAGE, id="an alert in plain text, which anybody can send"),
        pytest.param(b"\x16\x03\x03", 50, Alert.UNEXPECTED_MESSAGE, id="a handshake in plain text"),
        pytest.param(b"\x17\x03\x01", 50, Alert.DECODE_ERROR, id="another version"),
        pytest.param(b"GET", 50, Alert.UNEXPECTED_MESSAGE, id="something else"),
        pytest.param(PREFIX, LONGEST + 1, Alert.RECORD_OVERFLOW, id="too long"),
        pytest.param(PREFIX, OVERHEAD - 1, Alert.DECODE_ERROR, id="not even a type"),
        pytest.param(PREFIX, 0, Alert.DECODE_ERROR, id="nothing"),
    ],
)
def test_a_header_that_is_refused(prefix: bytes, length: int, alert: Alert) -> None:
    with pytest.raises(RecordError) as caught:
        check_header(prefix, length)
    assert caught.value.alert is alert
