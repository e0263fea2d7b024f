# SPDX-License-Identifier: Apache-2.0
"""What one part of the product has said in a test, whatever else this process has to say.

Tests share a process: the loop and the threads of an earlier one (gRPC's poller, asyncio about what is collected) may
speak during the next. Whoever counts lines, or wants none, counts those of one logger.
"""

import logging

import pytest


def logged(caplog: pytest.LogCaptureFixture, logger: str = "nodeagent") -> list[logging.LogRecord]:
    """What `logger` and those below it have said."""
    return [record for record in caplog.records if record.name == logger or record.name.startswith(f"{logger}.")]
