# SPDX-License-Identifier: Apache-2.0
"""The file of `--crl`: certificates that peers are not believed by, beside those that the control plane names.

What it says goes the way of everything that workers must know. Its rules fail towards refusing: a file that has gone,
is empty or damaged leaves the last good list in force, and one that is too old holds. Only a whole list takes back an
entry. At the agent's start a damaged file is an error; one that is not there yet may come.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from pathlib import Path

from nodeagent.errors import ConfigError
from nodeagent.model.mesh import Changes
from nodeagent.model.security import Revocations
from nodeagent.tls.revocation_list import RevocationLists, read_lists

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
SOURCE = "file"
_MAX_BYTES = 16 << 20
_CHECK = "Expected are revocation lists (X509 CRL) as PEM, or one as DER."


def read_crl(path: str) -> RevocationLists | None:
    """None without a file, and for one with nothing in it. Raises ConfigError for anything that is no list."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"--crl: {path}: {error.strerror}", check="Is the file readable for the agent?") from error
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"--crl: {path}: larger than {_MAX_BYTES >> 20} MiB", check=_CHECK)
    try:
        return read_lists(text) if text.strip() else None
    except ValueError as error:
        raise ConfigError(f"--crl: {path}: {' '.join(str(error).split())}", check=_CHECK) from error


class RevocationFile:
    """Tells `apply` what the file says, whenever that is another thing."""

    def __init__(self, path: str, apply: Callable[[Changes], object]) -> None:
        """Reads it for the first time. Raises ConfigError."""
        self._path, self._apply = path, apply
        self._complaint = ""
        self.lists = RevocationLists()
        """In force."""
        self._stamp = _stamp(path)
        if path:
            self._take(read_crl(path))

    def fault(self, now: dt.datetime) -> str:
        """Why what is in force may be less than it should be; empty if it is not."""
        if self._complaint:
            return self._complaint
        due = self.lists.next_update
        if due is not None and due <= now:
            return f"{self._path} should have been replaced by {due:%Y-%m-%dT%H:%M:%SZ}; it holds all the same"
        return ""

    async def run(self) -> None:
        """Ends only by cancellation."""
        while self._path:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            found = await asyncio.to_thread(read_crl, self._path)
        except ConfigError as error:
            self._complain(f"{error}; the last good list stays in force. {error.check}")
        else:
            self._take(found)

    def _take(self, found: RevocationLists | None) -> None:
        if found is None:
            self._complain(f"--crl: {self._path} is not there, or empty; the last good list stays in force")
            return
        self._complaint = ""
        if found == self.lists:
            return
        is_other = found.certificates != self.lists.certificates
        self.lists = found
        if is_other:
            _log.info("%s: %d certificates are revoked", self._path, len(found.certificates))
            self._apply(Changes(extensions=(Revocations(source=SOURCE, certificates=found.certificates),)))

    def _complain(self, words: str) -> None:
        if words != self._complaint:
            _log.warning("%s", words)
        self._complaint = words


def _stamp(path: str) -> tuple[int, ...]:
    """Changes whenever the file does, also when a link leads to another one; empty when it cannot be looked at."""
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
