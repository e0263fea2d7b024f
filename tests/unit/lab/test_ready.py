# SPDX-License-Identifier: Apache-2.0
"""Files are waited for, whatever their numbers."""

import fcntl
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from nodeagent.lab.ready import readable, writable


def test_who_is_ready() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert readable([ours, theirs], 0) == []
        assert set(writable([ours, theirs], 60)) == {ours, theirs}
        theirs.sendall(b"x")
        assert readable([ours, theirs], 60) == [ours]
        theirs.close()
        assert readable([ours], 60) == [ours], "an end is something to read"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, former[1]), former[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, former)


@pytest.mark.usefixtures("many_descriptors")
def test_descriptors_beyond_those_of_select() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, os.fdopen(fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, 1100), "rb") as copy:
        assert copy.fileno() > 1023
        assert readable([copy], 0) == []
        theirs.sendall(b"x")
        assert readable([copy.fileno()], 60) == [copy.fileno()]
