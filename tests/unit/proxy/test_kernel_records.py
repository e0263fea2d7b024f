# SPDX-License-Identifier: Apache-2.0
"""What a worker counts and says of tunnels that go into the kernel, and of those that do not."""

import socket
from collections import Counter
from collections.abc import Callable

import pytest

from nodeagent.hbone.limits import Limits, Role
from nodeagent.proxy.kernel_channel import CannotMove
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.kernel_trial import KernelTls
from nodeagent.tls.key_schedule import Cipher
from tests.logged import logged
from tests.unit.proxy.emulated import EmulatedSocket
from tests.unit.tls.ends import CIPHER, pair

FOUND = KernelTls(frozenset(Cipher))


@pytest.mark.parametrize("role", Role)
def test_only_who_has_it_announces_it(role: Role) -> None:
    assert KernelRecords(None, Counter()).limits(role) == Limits.of(role)
    assert KernelRecords(KernelTls(why="none"), Counter()).limits(role) == Limits.of(role)
    assert KernelRecords(FOUND, Counter()).limits(role) == Limits.of(role, keeps_keys=True)


def test_what_was_found_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert KernelRecords(None, Counter()).found == ""
    assert not logged(caplog)
    with caplog.at_level("INFO"):
        assert not KernelRecords(KernelTls(why="no such file"), Counter()).is_wanted
        assert KernelRecords(FOUND, Counter()).is_wanted
    assert [record.levelname for record in logged(caplog)] == ["WARNING", "INFO"]
    assert "does not work: no such file" in caplog.text


def test_a_tunnel_that_stays_is_counted() -> None:
    counters: Counter[str] = Counter()
    records = KernelRecords(FOUND, counters)
    assert records.takes(CIPHER, keeps_keys=True)
    assert not counters
    assert not records.takes(CIPHER, keeps_keys=False)
    assert counters == {"kernel_tls_declined": 1}


def test_those_that_moved_and_those_that_could_not(
    emulation: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    emulation()
    counters: Counter[str] = Counter()
    records = KernelRecords(FOUND, counters)
    for refuses in (0, 31, 31):
        ours, theirs = socket.socketpair()
        with EmulatedSocket(ours, refuses=refuses) as sock, theirs:
            if refuses:
                with pytest.raises(CannotMove, match="No such file"):
                    records.move(sock, pair()[0], keeps_keys=True)
            else:
                records.move(sock, pair()[0], keeps_keys=True)
    assert counters == {"kernel_tls_tunnels": 1, "kernel_tls_failed": 2}
    assert caplog.text.count("did not take the keys of a tunnel") == 1
