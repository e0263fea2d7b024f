# SPDX-License-Identifier: Apache-2.0
"""What is shown of a key and its chain: nothing."""

from datetime import UTC, datetime

from nodeagent.certs.bundle import CertificateBundle


def test_neither_key_nor_chain_is_shown() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    shown = repr(CertificateBundle(b"KEY", b"CHAIN", b"ROOTS", "1f", now, now))

    assert "KEY" not in shown
    assert "CHAIN" not in shown
    assert "serial='1f'" in shown
