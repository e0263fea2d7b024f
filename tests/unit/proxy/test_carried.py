# SPDX-License-Identifier: Apache-2.0
"""What a reset stream means for the connection that it carried."""

import pytest

from nodeagent.hbone.frames import ErrorCode
from nodeagent.model.reason import Reason
from nodeagent.proxy.carried import reset_reason


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (ErrorCode.CANCEL, Reason.RESET, ""),
        (ErrorCode.CONNECT_ERROR, Reason.RESET, ""),
        (ErrorCode.NO_ERROR, Reason.RESET, ""),
        (ErrorCode.REFUSED_STREAM, Reason.HBONE_REFUSED, "the peer takes no more streams"),
        (ErrorCode.PROTOCOL_ERROR, Reason.RESET, "the peer reset the stream: PROTOCOL_ERROR"),
        (0xBEEF, Reason.RESET, "the peer reset the stream: error 0xbeef"),
    ],
)
def test_reset_reason(code: int, reason: Reason, error: str) -> None:
    assert reset_reason(code) == (reason, error)
