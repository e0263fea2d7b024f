# SPDX-License-Identifier: Apache-2.0
"""How the worker learns the traffic secrets of its own handshakes: OpenSSL logs them into a pipe of this process.

- The pipe is made after privileges were dropped: a pipe belongs to the user who made it, and /proc/self/fd of one that
  root made cannot be opened any more (EACCES). No child inherits it, and no other process may look at a worker's
  descriptors, because a worker is not dumpable.
- Python opens the file of `keylog_filename` when it is set and keeps it as long as the context lives: a descriptor for
  each context, those included that a rotation of certificates has replaced and old tunnels still hold. And it opens it
  blocking, so a pipe that nobody reads would stop the worker for ever. Therefore a context logs only while it is
  listened to, for one step of one handshake: the pipe is empty before, one step writes less than a KiB of the 4 that a
  pipe has at least, and is read at once. That costs 13 microseconds a step; a handshake takes some 900.
- Where it does not work (no /proc, no descriptors left), nothing is logged, and the connection stays with OpenSSL.
"""

import contextlib
import os
import ssl
from collections.abc import Iterator

from nodeagent.tls.keylog import TrafficSecrets

_PIPE_BYTES = 64 << 10
"""All that a pipe holds, so that one read empties it."""


class SecretsPipe:
    """Of the process; a worker has one thread, so never two handshakes take a step at once."""

    def __init__(self) -> None:
        """Raises OSError when there are no descriptors left."""
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._path = f"/proc/self/fd/{self._write_fd}"
        self._lines = bytearray(_PIPE_BYTES)

    @contextlib.contextmanager
    def listening(self, context: ssl.SSLContext, secrets: TrafficSecrets) -> Iterator[None]:
        """Around one `do_handshake`, which may raise: what it logged up to then goes to `secrets` all the same."""
        self._wipe(self._read())
        # One that cannot be opened is no reason to refuse the connection.
        with contextlib.suppress(OSError):
            context.keylog_filename = self._path
        try:
            yield
        finally:
            context.keylog_filename = None  # type: ignore[assignment]  # closes the file, as documented; typeshed errs
            size = self._read()
            secrets.logged(self._lines[:size])
            self._wipe(size)

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _read(self) -> int:
        try:
            return os.readv(self._read_fd, [self._lines])
        except BlockingIOError:
            return 0

    def _wipe(self, size: int) -> None:
        self._lines[:size] = bytes(size)
