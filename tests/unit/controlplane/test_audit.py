# SPDX-License-Identifier: Apache-2.0
"""The audit line: its fields, what a caller may not do to it, and that no log level hides it."""

import datetime as dt
import logging
from collections.abc import Iterator

import pytest

from nodeagent.controlplane import audit
from nodeagent.controlplane.ca import Issued
from tests.logged import logged

CERTIFICATE = Issued(
    ("leaf", "root"), 0xABC, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "EC 256"
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """As `--log-level error` sets it up."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # loggers keep in mind what is enabled; only this makes them look again
    yield
    root.setLevel(level)


def test_a_certificate_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    audit.issued(node="node-a", peer="ipv4:10.0.0.1:1", identity="spiffe://a/ns/b/sa/c", certificate=CERTIFICATE)
    (record,) = logged(caplog)
    line = record.getMessage()
    assert line == (
        'certificate issued node=node-a peer=ipv4:10.0.0.1:1 identity="spiffe://a/ns/b/sa/c" serial=abc '
        'not_before=2026-01-01T00:00:00Z not_after=2026-01-02T00:00:00Z key="EC 256"'
    )


def test_a_refusal_is_one_line_whatever_the_caller_wrote(caplog: pytest.LogCaptureFixture) -> None:
    evil = 'spiffe://x" node=root\ncertificate issued' + "y" * 10_000
    audit.refused(node="", peer="ipv4:10.0.0.1:1", identity=evil, reason="token", why="no token")
    (record,) = logged(caplog)
    line = record.getMessage()
    assert line.startswith('certificate refused node="" peer=ipv4:10.0.0.1:1 identity="spiffe://x\\" node=root\\n')
    assert line.endswith('reason=token why="no token"')
    assert "\n" not in line
    assert len(line) < 1000
