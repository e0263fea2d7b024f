# SPDX-License-Identifier: Apache-2.0
"""What is counted, and what an operator reads."""

import pytest

from nodeagent.model.reason import Reason
from nodeagent.tls.alert import Alert
from nodeagent.tls.error import AlertReceived, RecordError


def test_what_the_peer_broke() -> None:
    error = RecordError(Alert.RECORD_OVERFLOW, "a record of 20000 bytes")
    assert (str(error), error.alert) == ("TLS: a record of 20000 bytes (record overflow)", 22)
    assert (error.reason, error.check) == (Reason.TLS_FAILED, Reason.TLS_FAILED.check)


@pytest.mark.parametrize(
    ("number", "reason", "words"),
    [
        (Alert.UNKNOWN_CA, Reason.TLS_UNKNOWN_CA, "the peer does not know our CA"),
        (Alert.DECRYPT_ERROR, Reason.TLS_UNKNOWN_CA, "the peer does not know our CA"),
        (Alert.CERTIFICATE_REQUIRED, Reason.TLS_FAILED, "TLS: the peer says certificate required"),
        (200, Reason.TLS_FAILED, "TLS: the peer says alert 200"),
    ],
)
def test_what_the_peer_says(number: int, reason: Reason, words: str) -> None:
    error = AlertReceived(number)
    assert (error.number, error.reason, str(error)) == (number, reason, words)
